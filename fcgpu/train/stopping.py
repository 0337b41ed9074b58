"""When to stop: a loss that has not improved for a while."""

import math
from dataclasses import dataclass


@dataclass
class Patience:
    """Waits for a loss to fall by more than `tol`, for `patience` epochs in a row, as scikit-learn's MLP does.

    best : the least loss so far. waited : epochs in a row that did not improve on it by tol.
    """

    tol: float
    patience: float
    best: float = math.inf
    waited: int = 0

    def improved(self, loss: float) -> bool:
        """Take one epoch's loss; is it the least so far?"""
        self.waited = 0 if loss <= self.best - self.tol else self.waited + 1  # NaN is no improvement
        better = loss < self.best
        if better:
            self.best = loss
        return better

    @property
    def exhausted(self) -> bool:
        return self.waited > self.patience
