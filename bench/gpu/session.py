"""The parts in turn, each in its own process and within what is left of the time, into one JSON file."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from bench import rows
from bench.gpu.page import markdown
from bench.session import versions

# What matters most comes first: the last ones are cut where time runs out.
PARTS = ("suite", "limits", "versus", "profile", "small", "crossover", "recipe", "chunks")
PACKAGES = (
    "fcgpu", "numpy", "cupy-cuda12x", "cupy-cuda13x", "nvmath-python", "ml_dtypes", "torch", "triton", "jax", "jaxlib",
)  # fmt: skip
NO_GPU = 3  # exit code of a part that found none
ROOT = Path(__file__).parents[2]
MARGIN = 20.0  # seconds of a part's limit that it keeps to tell what it found


def run(parts: Sequence[str], out: Path, seconds: float, device: str, say: Callable[[str], None]) -> int:
    """Run the parts; exit code 0 where every one of them ended by itself and without an error."""
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
        part = import_module(module_of(name))
        left = seconds - (time.monotonic() - began)
        say(f"{name}: {part.TITLE}")
        ended = _run_part(name, device, min(part.LIMIT, left)) if left > 1 else _ended("no time left", 0.0, [])
        found["parts"][name] = {"title": part.TITLE, **ended}
        say(f"  {ended['ended']}, {len(ended['rows'])} rows in {ended['seconds']:.0f} s")
        written = path.with_suffix(".new")
        written.write_text(json.dumps(found, indent=1), encoding="utf-8")
        written.replace(path)
        path.with_suffix(".md").write_text(markdown(found), encoding="utf-8")
    say(f"{path}")
    return 0 if all(part["ended"] == "done" for part in found["parts"].values()) else 1


def module_of(name: str) -> str:
    """Of a part: a file here, or one with a path of its own."""
    return name if "." in name else f"bench.gpu.{name}"


def _run_part(name: str, device: str, limit: float) -> dict[str, Any]:
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows"
        path.touch()
        words = [sys.executable, "-m", "bench.gpu.part", name, device, str(path), str(time.time() + limit)]
        process = subprocess.Popen(
            words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
            errors="replace",
        )  # fmt: skip
        try:
            _, said = process.communicate(timeout=limit)
            lines = said.strip().splitlines() or [f"exit code {process.returncode}"]
            how = {0: "done", NO_GPU: f"no GPU: {lines[-1]}"}.get(process.returncode, f"failed: {lines[-1]}")
        except subprocess.TimeoutExpired:
            how = f"stopped after {limit:.0f} s"
        finally:
            _end(process)
        found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    return _ended(how, time.monotonic() - began, found)


def _end(process: Any) -> None:
    """The process, and what it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.communicate()


def _ended(how: str, seconds: float, found: list[dict[str, Any]]) -> dict[str, Any]:
    return {"ended": how, "seconds": round(seconds, 1), "rows": found}
