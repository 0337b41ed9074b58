"""When to stop: a loss, or what else is watched, that has not improved for a while."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from fcgpu.errors import ConfigError


def watched(monitor: Callable[[Any], float], event: Any) -> float:
    """What `monitor` returns for the event of an epoch. Raises ConfigError unless it is a number."""
    value = monitor(event)
    if not hasattr(value, "__float__") or np.ndim(value):
        raise ConfigError(f"monitor returned {value!r} after epoch {event.epoch}: expected a number; less is better")
    return value


@dataclass
class Patience:
    """`exhausted` after more than `patience` epochs in a row without an improvement by `tol`, as scikit-learn's MLP.

    best : least loss so far. waited : epochs in a row that did not improve on it by tol.
    """

    tol: float
    patience: float
    best: float = math.inf
    waited: int = 0

    def improved(self, loss: float) -> bool:
        """Record the loss of an epoch; return whether it is the least so far."""
        self.waited = 0 if loss <= self.best - self.tol else self.waited + 1  # NaN is no improvement
        better = loss < self.best
        if better:
            self.best = loss
        return better

    @property
    def exhausted(self) -> bool:
        return self.waited > self.patience
