"""A pytest plugin that logs events to a file as they happen: `-p bench.gpu.watch --watch=FILE`.

The "=" is needed: without it pytest would take FILE as a test path and change its root folder.

Lines of JSON: {"collected": names}; {"began": name}; and, for every test phase that did not pass and for each test's
end, {"name": name, "how": "passed", "failed" or "skipped", "when": its phase, "text": the traceback}. Lines already
written remain if pytest is killed.
"""

import json
from typing import Any

import pytest


def pytest_addoption(parser: Any) -> None:
    parser.addoption("--watch", metavar="FILE", help="append events to FILE, as lines of JSON")


def pytest_configure(config: Any) -> None:
    if config.getoption("--watch") and not hasattr(config, "workerinput"):  # workers report to this process
        config.pluginmanager.register(Watch(config.getoption("--watch")))


class Watch:
    def __init__(self, path: str) -> None:
        self._path, self._collected = path, False

    def _write(self, **line: Any) -> None:
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: list[str]) -> None:
        if not self._collected:  # every worker collects the same tests
            self._write(collected=list(ids))
        self._collected = True

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._write(began=nodeid)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when not in ("setup", "call") or report.outcome != "passed":
            self._write(name=report.nodeid, how=report.outcome, when=report.when, text=report.longreprtext)
