"""What the host tells a GPU's steps before they need it: their learning rates, and the keys of dropout's masks."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fcgpu.kernels import dropout
from fcgpu.kernels.device import Tables
from fcgpu.train.plan import Plan
from fcgpu.train.plan_gpu import AHEAD
from fcgpu.train.recipe import Recipe
from fcgpu.train.upload import Upload


class Ahead:
    """Learning rates and keys of the steps of one epoch, or of several if these are short; `tables` has them on the
    device. `layers` is the number of layers with dropout.
    """

    def __init__(self, xp: Any, recipe: Recipe, plan: Plan, layers: int) -> None:
        per_epoch = plan.steps_per_epoch
        self._seed, self._layers, self._last = recipe.seed, layers, recipe.epochs * per_epoch
        n = per_epoch * max(1, AHEAD // per_epoch)
        self._rates, self._first = Upload(xp, (n,), np.dtype(recipe.dtype)), Upload(xp, (1,), np.int64)
        self._keys = Upload(xp, (n + 1, max(1, 2 * layers)), np.uint32)
        self.tables = Tables(self._rates.array, self._keys.array, self._first.array)
        self._sent: Sequence[float] = []  # learning rates, the first of them for step number `_begin`
        self._begin = 0

    def send(self, step: int, updates: int, rates: Callable[[int], Sequence[float]]) -> bool:
        """Send those of step number `step` of the run and of later ones, unless the device has them already. Returns
        whether it sent keys.

        updates : that were made before that step; dropout's masks are drawn from their number.
        rates(n) returns the learning rates of the next n steps.
        """
        at = step - self._begin
        if at < len(self._sent) and self._sent[at] == rates(1)[0]:  # the adaptive schedule may have lowered them
            return False
        n = min(len(self.tables.rates), self._last - step)
        self._begin, self._sent = step, rates(n)
        self._rates.send(self._sent)
        self._first.send([step])
        if self._layers:
            self._keys.send([dropout.keys(self._seed, updates + i, self._layers).ravel() for i in range(n)])
        return self._layers > 0
