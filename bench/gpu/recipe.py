"""The default recipe as a user runs it, process start included; and the accuracy of each precision."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fcgpu
from bench.gpu.session import ROOT

TITLE, LIMIT = "the default recipe from process start to model, and accuracy by precision", 150.0
KEPT = ("device", "hardware", "why", "capture", "precision", "epochs", "steps", "seconds", "train_accuracy")
KEPT += ("test_accuracy",)
PRECISIONS = ("float32", "tf32", "float16", "bfloat16")
ADAM = {"optimizer": "adam", "learning_rate": 0.01, "schedule": "cosine", "alpha": 6.0}


def rows(device: str, data: str = "mnist", epochs: int = 200) -> Iterator[dict[str, Any]]:
    for where in (device, device, "cpu"):  # the first run compiles the kernels if they are not cached
        yield whole(where, data)
    if device == "cpu":
        return
    digits = fcgpu.load(data)
    for precision in PRECISIONS:
        for options in ({"batch": "full", "epochs": epochs}, {"batch": 256, "epochs": epochs // 20}):
            *_, done = fcgpu.train(digits, device=device, precision=precision, **options, **ADAM)
            row = {"precision": precision, **options, **ADAM, "capture": done.capture, "seconds": done.seconds}
            yield row | {"steps": done.steps, "train_loss": done.train.loss, "test_accuracy": done.test.accuracy}


def whole(device: str, data: str = "mnist", *words: str) -> dict[str, Any]:
    """One `fcgpu train` in its own process."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["-m", "fcgpu", "train", data, "--recipe", "mnist", "--device", device, "--json", "--quiet"]
        command += ["--out", str(Path(folder) / "run"), *words]
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        environment = os.environ | {"PYTHONPATH": path}
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, *command], capture_output=True, text=True, check=False, env=environment, cwd=folder
        )
        wall = time.perf_counter() - began
    if done.returncode:
        return {"asked": device, "failed": (done.stderr.strip().splitlines() or ["?"])[-1]}
    result = json.loads(done.stdout.splitlines()[-1])
    return {"asked": device, "process_seconds": wall, **{key: result.get(key) for key in KEPT}}
