"""Small batches on the CPU, whose steps are so short that Python's overhead matters.

A batch is one tile in one workspace, so there are no lanes to add up. Its loss is measured later, together with that of
other batches. The products are bound to their arrays in advance, and large ones are cut into pieces for all threads. In
plain gradient descent the first layer's product subtracts the gradient from W directly.
"""

from functools import cache, lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

from fcgpu.optim.first_order import FirstOrder
from fcgpu.train.bound import Bound, bind
from fcgpu.train.evaluate import Evaluate, part_of
from fcgpu.train.kept import KeptLogits
from fcgpu.train.plan import Plan

LEAST_BYTES = 32  # samples of a batch from which products of bytes are faster
TREAD, TREADS = 64, 4  # a batch has a part, of a width of its own, for every TREAD samples; most parts
SHARES = {1: (0, 1), 2: (0, 2 / 5, 1), 4: (0, 3 / 16, 7 / 16, 11 / 16, 1)}  # bounds of parts with equal work on MNIST
BOUND = 1000  # combinations of widths whose bound products are cached


def is_small(plan: Plan) -> bool:
    """Whether a batch is one tile in one lane, and at most half of the data."""
    return plan.lanes == 1 and plan.batch <= min(plan.tile, plan.samples // 2)


class SmallBatches(Evaluate):
    """`Evaluate` for a plan that `is_small`. The losses are measured by `kept`, later."""

    kept: KeptLogits

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        plan = self.plan
        self.kept = KeptLogits(self.net, plan.batch, plan.samples, self.params.dtype, count=self.count)
        self._work = self._free[0][0]
        self._cuts, self._bound = cache(self._cuts_of), lru_cache(BOUND)(self._bind)
        self._subtracts = False
        self._bytes = plan.batch >= LEAST_BYTES and self.net.takes_bytes(self.X)
        if self._bytes:
            self._work = self._work.over(np.empty(self._work.A[0].shape, np.uint8))

    def descend(self, rule: FirstOrder) -> None:
        n_features, n_out = self.net.spec.layer_sizes[0]
        self.factor, self._subtracts = rule.expect_scaled(n_features * n_out), True

    def __call__(self, rows: Any, n_rows: int) -> Any:
        """Fill gradient and penalty from the samples `rows`. Returns the penalty, or 0."""
        y = self.y[rows]
        if self.weights is None:
            share = weight = 1 / n_rows
            logits = self.kept.room(y)
        else:
            share = self._share(rows)
            weight = self.weights[rows] * share
            logits = self.kept.room(y, weight * (n_rows / self.plan.samples))
        if self.factor is not None:
            weight = weight * self.factor
        self._fill_all(rows, n_rows, y, weight, logits)
        self._regularise(share)
        return self.penalty if self._alpha else 0.0

    def _fill_all(self, rows: Any, n_rows: int, y: Any, weight: Any, logits: Any) -> None:
        """Fill the gradient of Σ weight * loss, and logits (n_rows, n_outputs)."""
        net, cuts = self.net, self._cuts(n_rows)
        parts = [rows] if len(cuts) == 1 else [part_of(rows, start, stop) for start, stop in cuts]
        widths = tuple(self._width(part) for part in parts)
        tiles, work, layers, products = self._bound(n_rows, widths)
        for part, tile, width in zip(parts, tiles, widths, strict=True):
            self._load(part, tile, width)
        net.to_logits(products, layers, work, self.keys, self._ids[rows] if net.dropout else None)
        net.logits_and_gradient(products, layers[-1].b, work, y, weight, logits)
        if self.widths is not None and not self._subtracts:
            self._unused(widths[0]).fill(0)  # the rule has overwritten it as scratch

    def _load(self, rows: Any, tile: Any, width: int) -> None:
        """Overwrite the first `width` columns of tile (n_rows, n_features) with features of the rows."""
        if self._bytes and isinstance(self.X, np.ndarray) and not isinstance(rows, slice):
            np.take(self.X, rows, axis=0, out=tile, mode="clip")  # one pass over the data
        else:
            there = rows if self.widths is None else (rows, slice(width))
            self.net.kernels.load_tile(self.X, there, tile[:, :width])

    def _cuts_of(self, n_rows: int) -> list[tuple[int, int]]:
        """(start, stop) of the parts that a batch is cut into; each is as wide as its first sample."""
        parts = 1 if self.widths is None or self._bytes else 1 << max(1, min(n_rows // TREAD, TREADS)).bit_length() - 1
        whole = max(1, TREAD // 4)  # products are fast if their rows are a multiple of this
        cuts = [int(share * n_rows) // whole * whole for share in SHARES[parts][:-1]]
        return list(pairwise([*cuts, n_rows]))

    def _bind(self, n_rows: int, widths: tuple[int, ...]) -> Bound:
        spec, plan, cuts = self.net.spec, self.plan, self._cuts(n_rows)
        layers, gradients = spec.layers(self.params), spec.layers(self.gradient)
        return bind(self._work, layers, gradients, cuts, widths, self.net.scale, plan.threads, subtract=self._subtracts)
