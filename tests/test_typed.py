"""What a type checker, and so an editor, knows of the public names."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import fcgpu

PROGRAM = """
from typing import assert_type

import numpy as np

import fcgpu

X, y = np.zeros((4, 2)), np.array([0, 1, 0, 1])
recipe = fcgpu.Recipe(hidden=(128, 64), epochs=100)
fcgpu.Recipe(epoch=100)  # type: ignore[call-arg]
fcgpu.Recipe(epochs="100")  # type: ignore[arg-type]
for event in fcgpu.train((X, y), recipe):
    if isinstance(event, fcgpu.EpochEnded):
        assert_type(event.accuracy, float | None)
        assert_type(event.model(), fcgpu.Model)
*_, finished = fcgpu.train(fcgpu.dataset(X, y), recipe.but(seed=1), device="cpu")
assert isinstance(finished, fcgpu.Finished)
assert_type(finished.model, fcgpu.Model)
assert_type(finished.train, fcgpu.Score)
assert_type(fcgpu.load_model("model.safetensors"), fcgpu.Model)


class Mine(fcgpu.MLPClassifier):
    pass


assert_type(Mine().fit(X, y), Mine)
assert_type(fcgpu.MLPRegressor(hidden_layer_sizes=(3,)).fit(X, y), fcgpu.MLPRegressor)
fcgpu.MLPRegressor(hidden=(3,))  # type: ignore[call-arg]
"""


def test_a_strict_program_has_the_types_that_it_says(tmp_path):
    pytest.importorskip("mypy")
    (tmp_path / "program.py").write_text(PROGRAM)
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", os.devnull, "program.py"],
        cwd=tmp_path,
        env=os.environ
        | {"PYTHONPATH": str(Path(fcgpu.__file__).parents[1])},  # as if it were installed: py.typed counts
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert checked.stdout == "Success: no issues found in 1 source file\n"
