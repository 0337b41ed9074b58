"""One update: the loss and gradient of a batch, tile by tile and lane by lane, and the rule that moves by them.

Nothing here reads a value back from the device: no float(), no `if` on an array. What changes from step to step lives
in device arrays.
"""

from collections import deque
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from fcgpu.backend import Backend, Workers
from fcgpu.kernels import dropout
from fcgpu.network import Network, Workspace
from fcgpu.params import Layer, Spec, weights_only
from fcgpu.train.plan import Plan
from fcgpu.train.recipe import Recipe


class Lane(NamedTuple):
    """One of the places where tiles are summed up."""

    gradient: Any  # (n_params,)
    layers: list[Layer]  # views into it
    loss: Any  # () float64
    correct: Any  # () int64

    @classmethod
    def empty(cls, spec: Spec, columns: slice, dtype: Any, xp: Any) -> "Lane":
        gradient = xp.zeros((spec.n_params,), dtype=dtype)
        layers = _narrow(spec.layers(gradient), columns)
        return cls(gradient, layers, xp.zeros((), dtype=np.float64), xp.zeros((), dtype=np.int64))

    def add(self, other: "Lane") -> None:
        for mine, others in ((self.gradient, other.gradient), (self.loss, other.loss), (self.correct, other.correct)):
            mine += others


class Evaluate:
    """The loss and gradient of a batch at `params`, into buffers that are allocated here, once.

    data : X (n, n_features), y as the loss takes it, and weights of samples (n, 1) or None, on the device.
    ids : (n,) uint32 on the device, what dropout's masks depend on; None for 0, 1, ...

    `params`, `gradient` : (n_params,) flat vectors; `loss` : () float64, the weighted mean over the batch; `penalty` :
    () float64, the regulariser's part, not in `loss`; `correct` : () int64, right answers of the batch before the
    update, counted where `count` is true. All stay on the device.
    """

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
    ) -> None:
        xp, dtype, rates = backend.xp, recipe.dtype, recipe.dropout_of(spec)
        X, self.y, self.weights = data
        columns = _used(X)
        self.X = X[:, columns] if isinstance(X, np.ndarray) else X
        narrow = replace(spec, sizes=(columns.stop - columns.start, *spec.sizes[1:]))
        self.net, self.plan, self.workers, self.xp = Network(narrow, backend, rates), plan, workers, xp
        self.scale, self.count, self.clip = scale, count, recipe.gradient_clip
        self.params = xp.zeros((spec.n_params,), dtype=dtype)
        self.layers = _narrow(spec.layers(self.params), columns)
        self._alpha = backend.to_device(weights_only(spec, recipe.alpha), dtype=dtype) if recipe.alpha else None
        self._lanes = [Lane.empty(spec, columns, dtype, xp) for _ in range(plan.lanes)]
        self.gradient, _, self.loss, self.correct = self._lanes[0]  # the others are added into the first
        W = spec.layers(self.gradient)[0].W
        self._unused = [rows for rows in (W[: columns.start], W[columns.stop :]) if len(rows)]
        self.penalty = xp.zeros((), dtype=dtype)
        self.factor: Any = None  # (1,), what the rule wants the gradient multiplied by
        self.samples = 0  # evaluated so far
        self._seed, self._backend = recipe.seed, backend
        self.keys = xp.zeros((len(rates), 2), dtype=np.uint32)
        self._ids = xp.arange(self.y.shape[0], dtype=np.uint32) if rates and ids is None else ids
        self._free = deque(
            (Workspace(narrow, plan.tile, dtype, xp, dropout=rates), Lane.empty(spec, columns, dtype, xp))
            for _ in range(plan.threads)
        )

    def begin(self, step: int) -> None:
        """Draw the masks of this step, for every evaluation until the next."""
        if self.net.dropout:
            self.keys[...] = self._backend.to_device(dropout.keys(self._seed, step, len(self.net.dropout)))

    def __call__(self, rows: Any, n_rows: int) -> Any:
        """Fill loss, gradient, penalty and correct from the samples `rows`: a slice with ends, or (n_rows,) indices.

        Returns loss + penalty, on the device.
        """
        self.samples += n_rows
        share = 1 / n_rows if self.weights is None else 1 / self._sum_of_weights(rows)
        lanes = min(self.plan.lanes, -(-n_rows // self.plan.tile))
        for unused in self._unused:  # the rule has used the gradient up
            unused.fill(0)
        self.workers.run(partial(self._fill, rows, n_rows, share), lanes)
        for lane in self._lanes[1:lanes]:
            self._lanes[0].add(lane)
        if self._alpha is not None:
            self.net.kernels.add_l2(self.params, self.gradient, self._alpha, share, self.penalty)
        if self.clip:
            self.net.kernels.clip_by_norm(self.gradient, self.clip)
        return self.loss if self._alpha is None else self.loss + self.penalty

    def _sum_of_weights(self, rows: Any) -> Any:
        """Of a batch; where all are 0 a number that makes the loss and its gradient 0."""
        tiny = np.finfo(self.weights.dtype).tiny
        return self.xp.maximum(self.xp.sum(self.weights[rows]), tiny)

    def _fill(self, rows: Any, n_rows: int, share: Any, number: int) -> None:
        """Fill lane `number` from the first of its tiles, and add the others in order."""
        net, size, lane = self.net, self.plan.tile, self._lanes[number]
        whole, scratch = borrowed = self._free.pop()
        into = lane
        for start in range(number * size, n_rows, self.plan.lanes * size):
            stop = min(n_rows, start + size)
            part = _part(rows, start, stop)
            work = whole.head(stop - start)
            weight = share if self.weights is None else self.weights[part] * share
            net.kernels.load_tile(self.X, part, self.scale, work.A[0])
            net.loss_and_gradient(
                self.layers, into.layers, work, self.y[part], weight, count=self.count, factor=self.factor,
                keys=self.keys, ids=self._ids[part] if net.dropout else None,
            )  # fmt: skip
            work.losses.sum(dtype=np.float64, out=into.loss)
            if self.count:
                into.correct[...] = self.xp.count_nonzero(work.correct)
            if into is scratch:
                lane.add(scratch)
            into = scratch
        self._free.append(borrowed)


class Step:
    """One update of `evaluate.params` from a batch, by a rule, which holds its own state."""

    def __init__(self, evaluate: Evaluate, rule: Any) -> None:
        self.evaluate, self.rule, self.steps = evaluate, rule, 0

    def __call__(self, rows: Any, n_rows: int) -> Any:
        """Returns the loss of the batch with the regulariser's part, as the rule measured it, on the device."""
        at = self.evaluate
        at.begin(self.steps)
        self.steps += 1
        return self.rule.step(at.params, at.gradient, partial(at, rows, n_rows))


def _used(X: Any) -> slice:
    """From the first to the last column of X that is not zero in every sample. The others have no part in the gradient:
    12 on the left and 4 on the right of the digits. All columns where X is not an array of the host.
    """
    n = X.shape[1]
    if not isinstance(X, np.ndarray):
        return slice(0, n)
    first = next((i for i in range(n) if X[:, i].any()), 0)
    last = next((i for i in reversed(range(n)) if X[:, i].any()), n - 1)
    return slice(first, last + 1)


def _narrow(layers: list[Layer], columns: slice) -> list[Layer]:
    """The layers with the first one's weights of these columns of X alone."""
    (W, b), *rest = layers
    return [Layer(W[columns], b), *rest]


def _part(rows: Any, start: int, stop: int) -> Any:
    """Rows start to stop of a batch given as a slice or as indices."""
    return slice(rows.start + start, rows.start + stop) if isinstance(rows, slice) else rows[start:stop]
