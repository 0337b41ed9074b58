"""The GPU tests, as a user runs them. A test that hangs uses up the part's time and is listed as still running."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.gpu.session import MARGIN, ROOT

TITLE, LIMIT = "the tests that need a GPU", 150.0
WORDS = ("-m", "gpu", "-v", "-n", "12", "-p", "no:cacheprovider")
# For each test. Method "thread" kills the worker: a signal cannot interrupt a thread that waits for a GPU.
TIMEOUT = ("--timeout=60", "--timeout-method=thread")
LONGEST = 3000  # of a text, the last so many characters are kept


def rows(device: str, limit: float = LIMIT) -> Iterator[dict[str, Any]]:
    """First a row about the whole run and the tests that finished, then a row for each failure."""
    with tempfile.TemporaryDirectory() as folder:
        seen, said = Path(folder) / "seen", Path(folder) / "said"
        seen.touch()
        how = _run([*words(), "-p", "bench.gpu.watch", f"--watch={seen}"], said, max(limit - MARGIN, limit / 2))
        lines = [json.loads(line) for line in seen.read_text(encoding="utf-8").split("\n")[:-1]]  # complete lines only
        yield from told(how, lines, said.read_text(encoding="utf-8", errors="replace"))


def words() -> list[str]:
    """The command that starts the tests."""
    timeout = TIMEOUT if find_spec("pytest_timeout") else ()
    return [sys.executable, "-m", "pytest", *WORDS, *timeout]


def _run(words: Sequence[str], said: Path, seconds: float) -> str:
    """Run a command with its output in the file `said`; returns in words how it ended."""
    environment = os.environ | {"FCGPU_TEST_BACKENDS": "numpy,cupy", "PYTHONUNBUFFERED": "1"}
    with said.open("w", encoding="utf-8") as out:
        try:
            done = subprocess.run(
                words, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=False,
                timeout=seconds,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return f"stopped after {seconds:.0f} s"
    return f"exit code {done.returncode}"


def told(how: str, lines: Sequence[dict[str, Any]], text: str) -> Iterator[dict[str, Any]]:
    """The rows, from the lines of the plugin `watch` and the output of pytest."""
    collected = next((line["collected"] for line in lines if "collected" in line), [])
    began = [line["began"] for line in lines if "began" in line]
    reports = [line for line in lines if "name" in line]
    bad = [line for line in reports if line["how"] == "failed"]
    ended = {line["name"]: "passed" for line in reports if line["when"] not in ("setup", "call")}
    ended |= {line["name"]: line["how"] for line in (*reports, *bad) if line["how"] != "passed"}
    counts = {how: sum(its == how for its in ended.values()) for how in ("passed", "failed", "skipped")}
    yield {
        "summary": how, "tests": len(collected), **counts, "failures": [line["name"] for line in bad],
        "running": [name for name in began if name not in ended],
        "not_ended": [name for name in collected if name not in ended], "said": text.strip()[-LONGEST:],
    }  # fmt: skip
    for line in bad:
        yield {"failure": line["name"], "when": line["when"], "text": line["text"][-LONGEST:]}
