"""fcgpu through its public API, from given parameters."""

import numpy as np

import fcgpu
from bench.adam import RATE, standardised
from bench.peers import ours

TITLE, PACKAGES, CLOCKS = ours.TITLE, ours.PACKAGES, ours.CLOCKS


def setup(work):
    start = fcgpu.State(np.concatenate([part.ravel() for layer in work.start for part in layer]).astype(np.float32))
    data = standardised(work), work.y
    return ours.steps(work, data, activation="relu", optimizer="adam", learning_rate=RATE, start=start)
