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

from bench.measure import best, interleave, measured, quartiles
from bench.rows import Writer
from bench.run import OURS, Say, row_ratio
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
                    say(f"  {name:24} skipped: {reason}")
                    out.add(case=case, title=title, peer=name, skipped=reason)
                    continue
                calls[name] = call
            times = interleave(calls, rounds or ROUNDS)
        for name, seconds in times.items():
            low, median, high = quartiles(measured(seconds))
            ratio = row_ratio(name, times)
            say(f"  {name:24} {median:10.2f} s   x{ratio[1]:.3f}")
            out.add(
                case=case,
                title=title,
                peer=name,
                peer_title=programs[name].title,
                device="cpu",
                seconds=seconds,
                median_seconds=median,
                quartiles_seconds=[low, high],
                best_peer=best(times, without=OURS),
                ratio=ratio[1],
                ratio_quartiles=[ratio[0], ratio[2]],
                versions=versions(programs[name].packages),
            )


def _seconds(program: Program, folder: Path) -> float:
    """Wall time of a process. Raises CalledProcessError if it fails."""
    out = str(Path(tempfile.mkdtemp(dir=folder)) / "out")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": str(folder)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    words = [sys.executable, *(out if word == "OUT" else word for word in program.words)]
    began = time.perf_counter()
    subprocess.run(words, check=True, capture_output=True, text=True, env=environment, cwd=folder)
    return time.perf_counter() - began
