"""A plugin of pytest that appends to a file what happens, as it happens: `-p bench.gpu.watch --watch=FILE`.

Without the sign of equality pytest would take the file for a test, and its folder for that of all tests.

Lines of JSON: {"collected": names}, {"began": name}, and {"name": name, "how": "passed", "failed" or "skipped", "when":
its phase, "text": the traceback} of whatever did not pass, and of each test's end. What ends pytest costs no line that
is written.
"""

import json
from typing import Any

import pytest


def pytest_addoption(parser: Any) -> None:
    parser.addoption("--watch", metavar="FILE", help="append what happens to it, as lines of JSON")


def pytest_configure(config: Any) -> None:
    if config.getoption("--watch") and not hasattr(config, "workerinput"):  # a worker's tests are told by the one here
        config.pluginmanager.register(Watch(config.getoption("--watch")))


class Watch:
    def __init__(self, path: str) -> None:
        self._path, self._collected = path, False

    def _write(self, **line: Any) -> None:
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: list[str]) -> None:
        if not self._collected:  # every worker has the same
            self._write(collected=list(ids))
        self._collected = True

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._write(began=nodeid)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when not in ("setup", "call") or report.outcome != "passed":
            self._write(name=report.nodeid, how=report.outcome, when=report.when, text=report.longreprtext)
