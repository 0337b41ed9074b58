"""The time and memory used before any training: imports, --help, resident memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SMALL = {
    "_bisect", "_compression", "_heapq", "_json", "_opcode", "_queue", "bisect", "compression", "copy", "ctypes",
    "dataclasses", "dis", "errno", "fcntl", "fnmatch", "gc", "glob", "grp", "gzip", "heapq", "importlib", "inspect",
    "ipaddress", "json", "linecache", "mmap", "ntpath", "opcode", "pathlib", "posixpath", "pwd", "queue",
    "threading", "token", "tokenize", "urllib", "zlib",
}  # fmt: skip
NOT_YET = ("fcgpu.cli", "fcgpu.report", "fcgpu.bench", "fcgpu.estimator", "fcgpu.train.gpu", "fcgpu.train.capture")


def python(*words, **environment):
    env = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"} | environment
    return subprocess.run(
        [sys.executable, *words], check=True, capture_output=True, text=True, timeout=100, env=env
    ).stdout


def test_import_costs_little_beyond_numpy():
    """It imports a few small standard modules, and no part of fcgpu that only a GPU, a thread pool or a command needs;
    bench/startup.py measures its time.
    """
    code = "import sys, numpy; a = set(sys.modules); import fcgpu; print(*sorted(set(sys.modules) - a))"
    loaded = set(python("-c", code).split())
    ours = {name for name in loaded if name.split(".")[0] == "fcgpu"}
    assert {name.split(".")[0] for name in loaded - ours} <= SMALL
    assert not {name for name in ours if name.startswith(NOT_YET)}


def test_a_program_may_end_with_a_run_that_has_not():
    code = "import fcgpu; run = fcgpu.train(([[0.0], [1.0]], [0, 1]), device='cpu', epochs=9); next(run), next(run)"
    ended = subprocess.run(
        [sys.executable, "-c", f"{code}; me = [run]; me.append(me)"], capture_output=True, check=True
    )
    assert ended.stderr == b""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from Linux's /proc")
def test_full_batch_mnist_stays_below_300_mb(tmp_path):
    code = (
        "import json, sys\n"
        "from fcgpu.cli import main\n"
        "code = main(['train', '--epochs', '3', '--quiet', '--out', sys.argv[1] + '/run'])\n"
        "peak = next(line for line in open('/proc/self/status') if line.startswith('VmHWM'))\n"
        "print(json.dumps([code, int(peak.split()[1])]))"
    )
    code, peak = json.loads(python("-c", code, str(tmp_path)))
    assert code == 0
    assert peak * 1024 < 300e6
