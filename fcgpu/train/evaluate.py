"""The loss and gradient of a batch on the CPU, tile by tile and lane by lane."""

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np

from fcgpu.backend import Backend
from fcgpu.kernels import dropout
from fcgpu.kernels.denormals import AsZeros
from fcgpu.network import Network, Workspace, effective_spec
from fcgpu.optim.first_order import FirstOrder
from fcgpu.params import Layer, Spec, aligned
from fcgpu.train.kept import KeptLogits
from fcgpu.train.plan import Plan
from fcgpu.train.recipe import Recipe
from fcgpu.workers import Workers


class Lane(NamedTuple):
    """An accumulator of tiles."""

    gradient: Any  # (n_params,)
    layers: Callable[[int], list[Layer]]  # views into it; the argument is how many features' weights the first W has
    loss: Any  # () float64
    correct: Any  # () int64

    @classmethod
    def empty(cls, spec: Spec, dtype: Any) -> "Lane":
        gradient = aligned(spec.n_params, dtype)
        return cls(gradient, _views(spec, gradient), np.zeros(()), np.zeros((), np.int64))

    def add(self, other: "Lane", spec: Spec, width: int) -> None:
        """Add `other`, which has gradients for only the first `width` features in the first layer's W."""
        n_features, n_out = spec.layer_sizes[0]
        used, rest = slice(width * n_out), slice(n_features * n_out, None)
        self.gradient[used] += other.gradient[used]
        self.gradient[rest] += other.gradient[rest]
        np.add(self.loss, other.loss, out=self.loss)
        np.add(self.correct, other.correct, out=self.correct)


class Evaluate:
    """The loss and gradient of a batch at `params`. All buffers are allocated by the constructor.

    data : X (n, n_features), y in the form that the loss takes, and sample weights (n, 1) or None.
    ids : (n,) uint32, from which dropout's masks are drawn; None for 0, 1, ...
    widths : (n,) of a `Staircase`; then X, y, weights, ids and `params` must be in its order. None if there is none.

    `params`, `gradient` : (n_params,) flat vectors.
    `loss` : () float64, the weighted mean over the batch.
    `penalty` : () in the run's dtype, the regulariser, not included in `loss`.
    `correct` : () int64, correct predictions before the update, if `count`.
    """

    kept: KeptLogits | None = None  # if set, losses are measured later: none is returned, `loss`, `correct` are not set

    def __init__(
        self,
        spec: Spec,
        data: tuple[Any, Any, Any],
        plan: Plan,
        backend: Backend,
        workers: Workers,
        recipe: Recipe,
        *,
        scale: float = 1.0,
        count: bool = False,
        ids: Any = None,
        widths: Any = None,
    ) -> None:
        dtype, rates = recipe.dtype, recipe.dropout_rates
        self.X, self.y, self.weights = data
        self.widths, self._widest = widths, spec.sizes[0] if widths is None else int(widths.max())
        self.net, self.plan, self.workers = Network(spec, backend, rates, scale), plan, workers
        self.count, self.clip = count, recipe.gradient_clip
        self.params = aligned(spec.n_params, dtype)
        self._layers = _views(spec, self.params)
        self._lanes = [Lane.empty(spec, dtype) for _ in range(plan.held)]
        self.gradient, _, self.loss, self.correct = self._lanes[0]  # lane 0, to which the others are added
        self.penalty = np.zeros((), dtype)
        self._alpha = recipe.alpha
        pairs = zip(spec.layers(self.params), spec.layers(self.gradient), strict=True)
        self._regularised = [(layer.W, gradient.W) for layer, gradient in pairs]
        self.factor: Any = None  # (1,), multiplies the gradient; see `descend`
        self._seed, self.keys = recipe.seed, np.zeros((len(rates), 2), np.uint32)
        self._ids = np.arange(len(self.y), dtype=np.uint32) if rates and ids is None else ids
        room = effective_spec(replace(spec, sizes=(self._widest, *spec.sizes[1:])), self.X)  # a sparse tile needs none
        self._free = deque(
            (Workspace(room, plan.tile, dtype, np, dropout=rates), Lane.empty(spec, dtype)) for _ in range(plan.at_once)
        )

    def descend(self, rule: FirstOrder) -> None:
        """From now on multiply gradients by the learning rate of the rule, which must be gradient descent."""
        self.factor = rule.expect_scaled()

    def begin(self, step: int) -> None:
        """Set dropout's keys for this step: its masks are the same in every evaluation until the next `begin`."""
        if self.net.dropout:
            self.keys[...] = dropout.keys(self._seed, step, len(self.net.dropout))

    def __call__(self, rows: Any, n_rows: int) -> Any:
        """Fill loss, gradient, penalty and correct from the samples `rows`; return loss + penalty.

        rows is a slice with both ends, or (n_rows,) indices, which must be in rising order if there are widths.
        """
        share = 1 / n_rows if self.weights is None else self._share(rows)
        lanes = min(self.plan.lanes, -(-n_rows // self.plan.tile))
        if self.widths is not None:
            self._unused(self._width(rows)).fill(0)  # the rule has overwritten it as scratch
        total, *others = self._lanes
        free, done = self._lanes, 0
        while done < lanes:
            some = free[: lanes - done]
            self.workers.run(partial(self._fill, rows, n_rows, share, some, done), len(some))
            for i, lane in enumerate(some, done):
                if lane is not total:
                    total.add(lane, self.net.spec, self._width(part_of(rows, i * self.plan.tile, n_rows)))
            free, done = others, done + len(some)
        self._regularise(share)
        return self.loss + self.penalty if self._alpha else self.loss

    def _regularise(self, share: Any) -> None:
        if self._alpha:
            self.penalty.fill(0)
            for W, dW in self._regularised:
                self.net.kernels.add_l2(W, dW, self._alpha, share, self.penalty)
        if self.clip:
            self.net.kernels.clip_by_norm(self.gradient, self.clip)

    def _share(self, rows: Any) -> Any:
        """1 / the sum of the batch's weights; 0 if all are 0, which makes loss, penalty and gradient 0."""
        total, tiny = np.sum(self.weights[rows]), np.finfo(self.weights.dtype).tiny
        return (total > 0) / np.maximum(total, tiny)

    def _width(self, rows: Any) -> int:
        """How many features the samples have; the first one has the most."""
        if self.widths is None:
            return self._widest
        return int(self.widths[rows.start if isinstance(rows, slice) else rows[0]])

    def _unused(self, width: int) -> Any:
        """The part of the gradient that belongs to the first W and the features after the first `width`."""
        n_features, n_out = self.net.spec.layer_sizes[0]
        return self.gradient[width * n_out : n_features * n_out]

    def _fill(self, rows: Any, n_rows: int, share: Any, lanes: list[Lane], first: int, i: int) -> None:
        """Overwrite lanes[i], which is lane number first + i, with its first tile, and add its other tiles in order.

        With widths, the first tile is the widest.
        """
        net, size, lane, number = self.net, self.plan.tile, lanes[i], first + i
        whole, scratch = borrowed = self._free.pop()
        into = lane
        with AsZeros():
            for start in range(number * size, n_rows, self.plan.lanes * size):
                stop = min(n_rows, start + size)
                part = part_of(rows, start, stop)
                width = self._width(part)
                weight = share if self.weights is None else self.weights[part] * share
                there = part if self.widths is None else (part, slice(width))
                work = net.load(self.X, there, whole.head(stop - start, width))
                net.loss_and_gradient(
                    self._layers(width), into.layers(width), work, self.y[part], weight,
                    count=self.count, factor=self.factor, keys=self.keys, ids=self._ids[part] if net.dropout else None,
                )  # fmt: skip
                work.losses.sum(dtype=np.float64, out=into.loss)
                if self.count:
                    into.correct[...] = np.count_nonzero(work.correct)
                if into is scratch:
                    lane.add(scratch, net.spec, width)
                into = scratch
        self._free.append(borrowed)


def _views(spec: Spec, flat: Any) -> Callable[[int], list[Layer]]:
    """The layers of a flat vector as a function of a width: the first W has the rows of that many features."""
    (W, b), *rest = spec.layers(flat)
    return cache(lambda width: [Layer(W[:width], b), *rest])


def part_of(rows: Any, start: int, stop: int) -> Any:
    """Rows start to stop of a batch given as a slice or as indices."""
    return slice(rows.start + start, rows.start + stop) if isinstance(rows, slice) else rows[start:stop]
