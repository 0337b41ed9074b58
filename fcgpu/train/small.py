"""Small batches on the CPU, where a step is not long enough for Python's own time to be nothing.

A batch is one tile in one workspace, nothing is dealt and nothing summed up; its loss is measured later, with that of
other batches. Threads share only what is worth a hand-over: the forward pass by samples, and the gradient of the first
layer's W, most of a network, by rows of W. Plain gradient descent has no such gradient: the product subtracts it.
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
        self._cuts = cache(lambda n: [(n * i // plan.parts, n * (i + 1) // plan.parts) for i in range(plan.parts)])
        self._first = cache(self._first_products)
        self._gradients = cache(self._layers_but_the_first_weights)
        self._subtracts = False

    def descend(self, rule: FirstOrder) -> None:
        n_features, n_out = self.net.spec.layer_sizes[0]
        self._subtracts = is_available(self.params.dtype)
        self.factor = rule.scaled(n_features * n_out if self._subtracts else 0)

    def __call__(self, rows: Any, n_rows: int) -> Any:
        """Fill gradient and penalty from the samples `rows`. Returns the penalty, or 0."""
        self.samples += n_rows
        width, y = self._width(rows), self.y[rows]
        if self.weights is None:
            share = weight = 1 / n_rows
            logits = self.kept.room(y)
        else:
            share = self._share(rows)
            weight = self.weights[rows] * share
            logits = self.kept.room(y, weight * (n_rows / self.plan.samples))
        layers, work = self._layers(width), self._work.head(n_rows, width)
        if self.plan.parts == 1:
            self._rise(layers, work, rows)
        else:
            self.workers.run(partial(self._rise_part, layers, rows, n_rows, width), self.plan.parts)
        self.net.gradient_alone(layers, self._gradients(width), work, y, weight, logits, self.factor)
        if self.widths is not None and not self._subtracts:
            self._unused(width).fill(0)  # the rule has used the gradient up
        products = self._first(n_rows, width)
        if len(products) == 1:
            products[0]()
        else:
            self.workers.run(lambda i: products[i](), len(products))
        self._regularise(share)
        return 0.0 if self._alpha is None else self.penalty

    def _rise_part(self, layers: list[Layer], rows: Any, n_rows: int, width: int, number: int) -> None:
        start, stop = self._cuts(n_rows)[number]
        self._rise(layers, self._work.part(start, stop, width), part_of(rows, start, stop))

    def _rise(self, layers: list[Layer], work: Any, rows: Any) -> None:
        there = rows if self.widths is None else (rows, slice(work.A[0].shape[1]))
        self.net.kernels.load_tile(self.X, there, work.A[0])
        self.net.rise(layers, work, self.keys, self._ids[rows] if self.net.dropout else None)

    def _first_products(self, n_rows: int, width: int) -> list[Callable[[], Any]]:
        """What computes the dW of the first layer, whose dZ is scaled already, or subtracts it from W; in parts."""
        work = self._work.head(n_rows, width)
        A, dZ = work.A[0].T, work.dA[1] if len(work.dA) > 1 else work.A[1]
        W, dW = self._layers(width)[0].W, self._lanes[0].layers(width)[0].W
        parts = [slice(*cut) for cut in self._cuts(width)]
        if self._subtracts:
            return [adder(A[part], dZ, W[part], -1.0) for part in parts]
        return [partial(np.matmul, A[part], dZ, out=dW[part]) for part in parts]

    def _layers_but_the_first_weights(self, width: int) -> list[Layer]:
        first, *others = self._lanes[0].layers(width)
        return [Layer(None, first.b), *others]
