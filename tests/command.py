"""Run the command line in this process, for speed, or in its own process; and make files to run it on."""

import contextlib
import io
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fcgpu.cli import main
from fcgpu.formats.atomic import BINARY

ROOT = Path(__file__).parents[1]


class Result(NamedTuple):
    code: int
    out: str
    err: str


def call(*words):
    """`fcgpu words...` in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(word) for word in words])
        except SystemExit as stop:
            code = stop.code or 0
    return Result(code, out.getvalue(), err.getvalue())


def start(*words, environment=None, before=(), **options):
    """`python -m fcgpu words...` as its own process, with text streams and Python's default buffering."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "encoding": "utf-8"} | options
    command = [*before, sys.executable, "-B", "-m", "fcgpu", *map(str, words)]
    return subprocess.Popen(command, env=inherited | {"PYTHONPATH": path} | (environment or {}), **options)


def finish(process, timeout=60):
    out, err = process.communicate(timeout=timeout)
    return Result(process.returncode, out, err)


def wait_until(condition, process):
    """Wait until a running command has come so far; half a minute at most."""
    end = time.monotonic() + 30
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def in_a_terminal(*words, environment):
    """What a command that succeeds writes to a terminal of 80 columns."""
    master, slave = os.openpty()
    process = start(*words, stdout=slave, environment={"COLUMNS": "80"} | environment)
    os.close(slave)
    told = b""
    with contextlib.suppress(OSError), open(master, "rb", buffering=0) as screen:  # EIO is Linux's end of file here
        while part := screen.read(1 << 16):
            told += part
    assert finish(process).code == 0
    return told.decode().replace("\r\n", "\n")


def csv(path, labels, X, header=""):
    rows = [",".join([str(label), *map(repr, row)]) for label, row in zip(labels, X.tolist(), strict=True)]
    path.write_text("\n".join([*filter(None, [header]), *rows]) + "\n", encoding="utf-8")
    return path


def overwrite(path, content):
    """Write a file in place: on some file systems, truncating and rewriting waits for the disk each time."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | BINARY, 0o644)
    try:
        os.write(descriptor, content)
        os.ftruncate(descriptor, len(content))
    finally:
        os.close(descriptor)


def blobs(n, n_classes=3, n_features=4, seed=5):
    """Well separated classes: X (n, n_features), y (n,)."""
    random = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    return 6 * np.eye(n_classes, n_features)[y] + random.standard_normal((n, n_features)), y
