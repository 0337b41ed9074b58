"""Make `pytest bench` measure, in one process: the project's pytest settings switch benchmarks off and use workers."""


def pytest_configure(config):
    config.option.benchmark_disable = False
    config.option.dist, config.option.tx = "no", []  # pytest-benchmark disables itself under pytest-xdist
