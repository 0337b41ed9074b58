"""The GPU tests, as a user would run them."""

import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.gpu.session import ROOT

TITLE, LIMIT = "the tests that need a GPU", 150.0
WORDS = ["-m", "pytest", "-m", "gpu", "-q", "-n", "12", "-p", "no:cacheprovider", "--junitxml"]


def rows(device: str) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "tests.xml"
        environment = os.environ | {"FCGPU_TEST_BACKENDS": "numpy,cupy"}
        done = subprocess.run(
            [sys.executable, *WORDS, str(report)],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if not report.exists():
            raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
        suite = next(ElementTree.parse(report).iter("testsuite"))
        yield {
            "summary": done.stdout.strip().splitlines()[-1],
            **{k: v for k, v in suite.attrib.items() if v.isdigit()},
        }
        for case in suite.iter("testcase"):
            for kind in ("failure", "error"):
                if (what := case.find(kind)) is not None:
                    text = (what.text or "")[-3000:]
                    yield {
                        kind: f"{case.get('classname')}.{case.get('name')}",
                        "message": what.get("message"),
                        "text": text,
                    }
