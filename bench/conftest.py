"""`pytest bench` measures: the project's own settings keep pytest-benchmark off, for the tests."""


def pytest_configure(config):
    config.option.benchmark_disable = False
