"""fcgpu through its public API, from given parameters."""

import numpy as np

import fcgpu
from bench.adam import RATE, standardised
from bench.peers import ours

TITLE, PACKAGES, CLOCKS = ours.TITLE, ours.PACKAGES, ours.CLOCKS


def setup(work):
    start = fcgpu.State(np.concatenate([part.ravel() for layer in work.start for part in layer]).astype(np.float32))
    events = fcgpu.train(
        (standardised(work), work.y),
        device=work.device,
        hidden=tuple(W.shape[1] for W, _ in work.start[:-1]),
        activation="relu",
        optimizer="adam",
        learning_rate=RATE,
        schedule="constant",
        batch=work.batch,
        shuffle=False,
        epochs=ours.PASSES,
        start=start,
    )
    next(events)  # Started: everything is allocated

    def step():
        event = next(events)
        return lambda: event.loss

    return step
