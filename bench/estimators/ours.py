"""fcgpu.MLPClassifier, on the device of the case."""

from functools import partial

import numpy as np

import fcgpu
from bench import clocks
from bench.estimators import fit_and_score

TITLE = "fcgpu"
PACKAGES = ("fcgpu", "numpy", "scikit-learn", "cupy")
CLOCKS = {"cpu": clocks.host, "cuda": clocks.host}  # the score is on the host, so the GPU has finished


def setup(work):
    return fit_and_score(partial(fcgpu.MLPClassifier, device=work.device), work, np.float64)


def setup_single(work):
    return fit_and_score(partial(fcgpu.MLPClassifier, device=work.device), work, np.float32)
