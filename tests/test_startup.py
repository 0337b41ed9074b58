"""What a user waits and pays for before anything is trained: imports, --help, memory."""

import json
import os
import statistics
import subprocess
import sys

import pytest

HEAVY = ("cupy", "rich", "sklearn", "PIL", "threadpoolctl", "safetensors", "onnx", "torch")


def python(*words, **environment):
    env = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"} | environment
    return subprocess.run(
        [sys.executable, *words], check=True, capture_output=True, text=True, timeout=100, env=env
    ).stdout


def test_import_pulls_in_nothing_heavy():
    loaded = python("-c", f"import sys, fcgpu; print([m for m in {HEAVY!r} if m in sys.modules])")
    assert loaded == "[]\n"


def test_import_costs_little_beyond_numpy(tmp_path):
    """Numpy first, then fcgpu, in one process: the time of both over that of numpy, the median of nine processes."""
    code = (
        "import time; a = time.perf_counter(); import numpy; b = time.perf_counter(); import fcgpu;"
        "print((time.perf_counter() - a) / (b - a))"
    )
    compiled = {"PYTHONPYCACHEPREFIX": str(tmp_path)}  # as an installed package is
    python("-c", code, **compiled)
    assert statistics.median(float(python("-c", code, **compiled)) for _ in range(9)) <= 1.5


@pytest.mark.slow
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
