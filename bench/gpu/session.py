"""Run the parts in turn, each in its own process and within the remaining time, and write one JSON file."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from bench import rows
from bench.gpu.page import markdown
from bench.session import versions
from fcgpu.errors import first_line

# The most important parts come first: the last ones are left out if time runs out.
PARTS = (
    "suite",
    "versus",
    "adam",
    "compilers",
    "recipe",
    "crossover",
    "profile",
    "few",
    "predict",
    "small",
    "limits",
    "chunks",
)
PACKAGES = (
    "fcgpu", "numpy", "cupy-cuda12x", "cupy-cuda13x", "nvmath-python", "ml_dtypes", "torch", "triton", "jax", "jaxlib",
)  # fmt: skip
NO_GPU = 3  # exit code of a part that found no GPU
ROOT = Path(__file__).parents[2]
MARGIN = 20.0  # seconds of its limit that a part reserves for writing its results


def run(parts: Sequence[str], out: Path, seconds: float, device: str, say: Callable[[str], None]) -> int:
    """Run the parts; returns exit code 0 if all of them finished without an error."""
    began = time.monotonic()
    found: dict[str, Any] = {
        "gpu": rows.gpu(),
        "device": device,
        "machine": rows.machine(),
        "python": sys.version.split()[0],
        "versions": versions(PACKAGES),
        "commit": rows.commit(),
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "parts": {},
    }
    out.mkdir(parents=True, exist_ok=True)
    path = out / "gpu.json"
    for name in parts:
        title, ended = name, _ended("no time left", 0.0, [])
        try:
            part = import_module(module_of(name))
            title = part.TITLE
            say(f"{name}: {title}")
            left = seconds - (time.monotonic() - began)
            if left > 1:
                ended = _run_part(name, device, min(part.LIMIT, left), out / f"{name}.jsonl")
        except Exception as error:  # the remaining parts can still run
            ended = _ended(f"failed: {first_line(error)}", 0.0, [])
        found["parts"][name] = {"title": title, **ended}
        say(f"  {ended['ended']}, {len(ended['rows'])} rows in {ended['seconds']:.0f} s")
        written = path.with_suffix(".new")
        written.write_text(json.dumps(found, indent=1), encoding="utf-8")
        written.replace(path)
        try:
            path.with_suffix(".md").write_text(markdown(found), encoding="utf-8")
        except Exception as error:  # the JSON file is written already
            say(f"  no page: {first_line(error)}")
    say(f"{path}")
    return 0 if all(part["ended"] == "done" for part in found["parts"].values()) else 1


def module_of(name: str) -> str:
    """A part's module: a file here, or a full module name."""
    return name if "." in name else f"bench.gpu.{name}"


def _run_part(name: str, device: str, limit: float, path: Path) -> dict[str, Any]:
    """Run a part that appends its rows to `path`; if this process is killed too, they remain there."""
    began = time.monotonic()
    path.write_text("", encoding="utf-8")
    words = [sys.executable, "-m", "bench.gpu.part", name, device, str(path.resolve()), str(time.time() + limit)]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
        process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=said, start_new_session=True)
        try:
            code = process.wait(timeout=limit)
            said.seek(0)
            last = (said.read().strip().splitlines() or [f"exit code {code}"])[-1]
            how = {0: "done", NO_GPU: f"no GPU: {last}"}.get(code, f"failed: {last}")
        except subprocess.TimeoutExpired:
            how = f"stopped after {limit:.0f} s"
        finally:
            _end(process)
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]  # complete lines only
    ended = _ended(how, time.monotonic() - began, [json.loads(line) for line in lines])
    path.unlink()
    return ended


def _end(process: Any) -> None:
    """Kill the process and its children; do not wait for ever for one that a signal cannot end, as when a GPU hangs."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=10)


def _ended(how: str, seconds: float, found: list[dict[str, Any]]) -> dict[str, Any]:
    return {"ended": how, "seconds": round(seconds, 1), "rows": found}
