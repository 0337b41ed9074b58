"""A step of a small batch in one cluster of thread blocks, against the same step as a CUDA graph of launches."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any
from unittest.mock import patch

import fcgpu
from bench.cases import SIZES
from bench.gpu.clock import launched, seconds_of
from fcgpu.kernels import cluster

TITLE, LIMIT = "small batches: a step in one kernel, against a graph of launches", 60.0
BATCHES = (1, 10, 32, 64, 128)
RULES = ("gradient_descent", "adam")
STEPS = 2000  # in an epoch, or as many as there are samples for


def rows(device: str, batches: Sequence[int] = BATCHES, rules: Sequence[str] = RULES) -> Iterator[dict[str, Any]]:
    backend = fcgpu.choose(device)
    for rule in rules:
        for batch in batches:
            row: dict[str, Any] = {"rule": rule, "batch": batch}
            for name, where in (("cluster", anyhow), ("launches", launched)):
                with where():
                    seconds, how = _of_step(backend, batch, rule)
                row |= {f"{name}_microseconds": 1e6 * seconds, name: how}
            yield row


def anyhow() -> AbstractContextManager[Any]:
    """Use a cluster even if launches are known to be faster."""
    return patch.object(cluster, "MOST_ROWS", 512)


def _of_step(backend: Any, batch: int, rule: str) -> tuple[float, str]:
    """Seconds of a step, where an epoch is one launch of the kernel; and how the steps were run."""
    digits = fcgpu.load("mnist")
    n = min(len(digits.y), STEPS * batch)
    data = fcgpu.dataset(digits.X[:n], digits.y[:n], scale=digits.scale)
    options = {"batch": batch, "hidden": SIZES[1:-1], "optimizer": rule, "learning_rate": 1e-3, "epochs": 3}
    options |= {"schedule": "constant"}
    *_, finished = fcgpu.train(data, device=backend, **options)
    events = fcgpu.train(data, device=backend, **{**options, "epochs": 1000})
    next(events)
    seconds = seconds_of(lambda: list(islice(events, 1)), backend) * batch / n
    events.close()
    return seconds, finished.capture
