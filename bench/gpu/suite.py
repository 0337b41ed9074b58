"""The GPU tests, as a user would run them. A test that waits for ever ends the part, and is among those not ended."""

import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.gpu.session import ROOT

TITLE, LIMIT = "the tests that need a GPU", 150.0
WORDS = ["-m", "pytest", "-m", "gpu", "-v", "-n", "12", "-p", "no:cacheprovider"]
MARGIN = 20.0  # seconds that are kept to tell what was found


def rows(device: str) -> Iterator[dict[str, Any]]:
    environment = os.environ | {"FCGPU_TEST_BACKENDS": "numpy,cupy", "PYTHONUNBUFFERED": "1"}
    with tempfile.TemporaryDirectory() as folder:
        report, said = Path(folder) / "tests.xml", Path(folder) / "said"
        words = [sys.executable, *WORDS, "--junitxml", str(report)]
        with said.open("w", encoding="utf-8") as out, suppress(subprocess.TimeoutExpired):
            subprocess.run(
                words, cwd=ROOT, env=environment, stdout=out, stderr=out, check=False, timeout=LIMIT - MARGIN
            )
        text = said.read_text(encoding="utf-8")
        if report.exists():
            yield from of_report(report.read_text(encoding="utf-8"), text)
        else:
            yield of_output(text, asked_for())


def asked_for() -> list[str]:
    """The tests that there are, by name."""
    words = [sys.executable, "-m", "pytest", "-m", "gpu", "--collect-only", "-q", "-n", "0"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    return [line for line in done.stdout.splitlines() if "::" in line]


def of_output(text: str, names: list[str]) -> dict[str, Any]:
    """What pytest had said when it was stopped."""
    ended: dict[str, list[str]] = {}
    for how, name in re.findall(r"(PASSED|FAILED|ERROR|SKIPPED) (tests/.*)", text):
        ended.setdefault(how, []).append(name.strip())
    known = {name for found in ended.values() for name in found}
    return {
        "summary": f"stopped after {LIMIT - MARGIN:.0f} s",
        **{how.lower(): len(found) for how, found in ended.items()},
        "failures": ended.get("FAILED", []) + ended.get("ERROR", []),
        "not_ended": [name for name in names if name not in known],
    }


def of_report(xml: str, text: str) -> Iterator[dict[str, Any]]:
    """The counts, and every test that failed."""
    suite = next(ElementTree.fromstring(xml).iter("testsuite"))
    yield {"summary": text.strip().splitlines()[-1], **{k: v for k, v in suite.attrib.items() if v.isdigit()}}
    for case in suite.iter("testcase"):
        for kind in ("failure", "error"):
            if (what := case.find(kind)) is not None:
                name, message = f"{case.get('classname')}.{case.get('name')}", what.get("message")
                yield {kind: name, "message": message, "text": (what.text or "")[-3000:]}
