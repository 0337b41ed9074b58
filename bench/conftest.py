"""`pytest bench` measures, in one process: the project's own settings, which are for the tests, let it do neither."""


def pytest_configure(config):
    config.option.benchmark_disable = False
    config.option.dist, config.option.tx = "no", []  # pytest-benchmark is off where pytest-xdist is on
