"""Start-up time of whole processes: from the start of Python to the end of one full-batch epoch, or of an import."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from bench.measure import interleave
from bench.rows import Writer
from bench.run import Say, figures, leave_out
from bench.session import versions

ROOT = Path(__file__).parents[1]
ROUNDS = 7


class Program(NamedTuple):
    title: str
    packages: tuple[str, ...]
    words: list[str]  # arguments of `python`; OUT stands for a path that does not exist yet


def _import(module: str, *packages: str) -> Program:
    return Program(f"import {module}", packages, ["-c", f"import {module}"])


TRAIN = ["-m", "fcgpu", "train", "--epochs", "1", "--device", "cpu", "--quiet", "--out", "OUT"]
CASES = {
    "startup": (
        "process start to the end of one full-batch epoch",
        {
            "ours": Program("fcgpu train", ("fcgpu", "numpy"), TRAIN),
            "pytorch": Program("PyTorch eager", ("torch",), ["-m", "bench.programs.pytorch_epoch", "OUT"]),
        },
    ),
    "import": (
        "process start to the end of an import",
        {
            "ours": _import("fcgpu", "fcgpu", "numpy"),
            "numpy": _import("numpy", "numpy"),
            "scikit": _import("sklearn.neural_network", "scikit-learn"),
            "pytorch": _import("torch", "torch"),
            "jax": _import("jax.numpy", "jax", "jaxlib"),
        },
    ),
}


def measure(peers: Sequence[str], rounds: int | None, out: Writer, say: Say) -> None:
    for case, (title, programs) in CASES.items():
        say(f"{case}: {title}")
        calls = {}
        with tempfile.TemporaryDirectory() as folder:
            for name, program in programs.items():
                if name not in peers:
                    continue
                call = partial(_seconds, program, Path(folder))
                try:
                    call()  # warm-up: compiles the bytecode and brings the files into the system's cache
                except subprocess.CalledProcessError as error:
                    reason = (error.stderr.strip().splitlines() or [f"exit code {error.returncode}"])[-1]
                    leave_out(case, title, name, "skipped", reason, out, say)
                    continue
                calls[name] = call
            times = interleave(calls, rounds or ROUNDS)
        for name in times:
            found = figures(name, times)
            say(f"  {name:24} {found['median_seconds']:10.2f} s   x{found['ratio']:.3f}")
            program = programs[name]
            about = {"peer_title": program.title, "device": "cpu", "versions": versions(program.packages)}
            out.add(case=case, title=title, peer=name, **about, **found)


def _seconds(program: Program, folder: Path) -> float:
    """Wall time of a process. Raises CalledProcessError if it fails."""
    out = str(Path(tempfile.mkdtemp(dir=folder)) / "out")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": str(folder)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    words = [sys.executable, *(out if word == "OUT" else word for word in program.words)]
    began = time.perf_counter()
    subprocess.run(words, check=True, capture_output=True, text=True, env=environment, cwd=folder)
    return time.perf_counter() - began
