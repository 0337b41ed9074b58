"""When to stop: a loss that has not improved for a while."""

import math
from dataclasses import dataclass


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
