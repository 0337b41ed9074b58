"""Rows: one JSON object a line. Each is self-contained: what was measured, on what machine, with which versions."""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from fcgpu.host import cpu_count
from fcgpu.kernels.compiled import in_words

Row = dict[str, Any]


class Writer:
    """Adds the facts that all rows of a run share, and appends each row to the file at once."""

    def __init__(self, path: Path, threads: int | None) -> None:
        self.path, self.rows = path, []
        self._shared = {"threads": threads or cpu_count(), "machine": machine(), "python": platform.python_version()}
        self._shared |= {
            "commit": commit(),
            "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "command": " ".join(sys.argv[1:]),
        }
        path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, **row: Any) -> None:
        whole = row | self._shared
        self.rows.append(whole)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(whole) + "\n")


def read(paths: Iterable[Path]) -> list[Row]:
    """The rows of JSON Lines files. Raises ValueError with file and line for a line that is not a row."""
    rows = []
    for path in paths:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: not JSON ({error})") from None
            if not isinstance(row, dict) or "case" not in row:
                raise ValueError(f"{path}, line {number}: not a row of `python -m bench run`")
            rows.append(row)
    return rows


def machine() -> Row:
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "gpu": gpu(),
        "cpu_kernels": in_words(),
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


@cache
def gpu() -> str | None:
    """Name and driver version of the first NVIDIA GPU, or None."""
    words = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    return _said(words) or None


def commit() -> str:
    """The commit, with a + if tracked files have uncommitted changes."""
    here = ["git", "-C", str(Path(__file__).parent)]
    changed = _said([*here, "status", "--porcelain", "--untracked-files=no"])
    return (_said([*here, "rev-parse", "--short", "HEAD"]) or "unknown") + ("+" if changed else "")


def _said(words: list[str]) -> str:
    """The first line that a command prints; empty if it fails, hangs or is not installed."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip().split("\n")[0]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
