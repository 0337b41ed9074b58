"""Small batches on the CPU, where a step is not long enough for Python's own time to be nothing.

A batch is one tile in one workspace, nothing is dealt and nothing summed up; its loss is measured later, with that of
other batches. Plain gradient descent has no gradient of the first layer's W, most of a network: the product subtracts
it. Threads have no part in it: on two cores, batches of 128 to 512 took longer with any division of their work.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np

from fcgpu.kernels.blas import adder, is_available
from fcgpu.optim.first_order import FirstOrder
from fcgpu.params import Layer
from fcgpu.train.kept import Kept
from fcgpu.train.plan import Plan
from fcgpu.train.step import Evaluate, part_of

TREAD, TREADS = 64, 4  # samples that are worth a width of their own; how many widths there are at most


def is_small(plan: Plan) -> bool:
    """Is a batch one of several in the data, and one tile of one lane?"""
    return plan.lanes == 1 and plan.batch <= min(plan.tile, plan.samples // 2)


class SmallBatches(Evaluate):
    """`Evaluate` for a plan that `is_small`: the loss is `kept`."""

    kept: Kept

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        plan = self.plan
        self.kept = Kept(self.net, plan.batch, plan.samples, self.params.dtype, count=self.count)
        self._work = self._free[0][0]
        self._cuts = cache(self._cuts_of)
        self._first = cache(self._first_product)
        self._gradients = cache(self._layers_but_the_first_weights)
        self._subtracts = False

    def descend(self, rule: FirstOrder) -> None:
        n_features, n_out = self.net.spec.layer_sizes[0]
        self._subtracts = is_available(self.params.dtype)
        self.factor = rule.scaled(n_features * n_out if self._subtracts else 0)

    def __call__(self, rows: Any, n_rows: int) -> Any:
        """Fill gradient and penalty from the samples `rows`. Returns the penalty, or 0."""
        self.samples += n_rows
        y, cuts = self.y[rows], self._cuts(n_rows)
        widths = [self._width(part_of(rows, start, stop)) for start, stop in cuts]
        if self.weights is None:
            share = weight = 1 / n_rows
            logits = self.kept.room(y)
        else:
            share = self._share(rows)
            weight = self.weights[rows] * share
            logits = self.kept.room(y, weight * (n_rows / self.plan.samples))
        for (start, stop), width in zip(cuts, widths, strict=True):
            self._rise(part_of(rows, start, stop), self._work.part(start, stop, width), width)
        width, work = widths[0], self._work.head(n_rows, widths[0])
        self.net.gradient_alone(self._layers(width), self._gradients(width), work, y, weight, logits, self.factor)
        if self.widths is not None and not self._subtracts:
            self._unused(width).fill(0)  # the rule has used the gradient up
        for (_, stop), high, low in zip(cuts, widths, [*widths[1:], 0], strict=True):
            if low < high:
                self._first(stop, low, high)()
        self._regularise(share)
        return 0.0 if self._alpha is None else self.penalty

    def _cuts_of(self, n_rows: int) -> list[tuple[int, int]]:
        """Where a batch is cut into parts, each as wide as its first sample."""
        n = 1 if self.widths is None else max(1, min(n_rows // TREAD, TREADS))
        return [(n_rows * i // n, n_rows * (i + 1) // n) for i in range(n)]

    def _rise(self, rows: Any, work: Any, width: int) -> None:
        self.net.kernels.load_tile(self.X, rows if self.widths is None else (rows, slice(width)), work.A[0])
        self.net.rise(self._layers(width), work, self.keys, self._ids[rows] if self.net.dropout else None)

    def _first_product(self, stop: int, low: int, high: int) -> Callable[[], Any]:
        """What computes dW of the features low to high, which samples 0 to stop have, or subtracts it from W.

        The scale is in dZ already.
        """
        work, features = self._work.head(stop, self._greatest), slice(low, high)
        A, dZ = work.A[0][:, features].T, work.dA[1] if len(work.dA) > 1 else work.A[1]
        if self._subtracts:
            return adder(A, dZ, self._layers(high)[0].W[features], -1.0)
        return partial(np.matmul, A, dZ, out=self._lanes[0].layers(high)[0].W[features])

    def _layers_but_the_first_weights(self, width: int) -> list[Layer]:
        first, *others = self._lanes[0].layers(width)
        return [Layer(None, first.b), *others]
