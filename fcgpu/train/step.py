"""One update: the gradient of a batch, tile by tile and lane by lane, then clip, regularise and move.

Nothing here reads a value back from the device: no float(), no `if` on an array. What changes from step to step lives
in device arrays.
"""

from collections import deque
from typing import Any

import numpy as np

from fcgpu.backend import Backend, Workers
from fcgpu.network import Network, Workspace
from fcgpu.optim.first_order import FirstOrder
from fcgpu.params import Spec, weights_only
from fcgpu.train.plan import Plan


class Evaluate:
    """The loss and gradient of a batch at `params`, into buffers that are allocated here, once.

    `params`, `gradient` : (n_params,) flat vectors; `loss` : () float64; `correct` : () int64, right answers of the
    batch before the update, counted where `count` is true. All stay on the device.
    """

    def __init__(
        self,
        spec: Spec,
        data: tuple[Any, Any],
        plan: Plan,
        backend: Backend,
        workers: Workers,
        dtype: str,
        *,
        scale: float,
        count: bool,
    ) -> None:
        xp = backend.xp
        self.net, self.plan, self.workers, self.xp = Network(spec, backend), plan, workers, xp
        self.X, self.y, self.scale, self.count = *data, scale, count
        self.params = xp.zeros((spec.n_params,), dtype=dtype)
        self.layers = spec.layers(self.params)
        self._lanes = xp.zeros((plan.lanes, spec.n_params), dtype=dtype)
        self._lane_layers = [spec.layers(lane) for lane in self._lanes]
        self.gradient = self._lanes[0]  # the lanes are added into the first
        self._losses = xp.zeros((plan.lanes,), dtype=np.float64)
        self._counts = xp.zeros((plan.lanes,), dtype=np.int64)
        self.loss, self.correct = xp.zeros((), dtype=np.float64), xp.zeros((), dtype=np.int64)
        self._free: deque[Any] = deque()
        for _ in range(plan.threads):
            scratch = xp.empty((spec.n_params,), dtype=dtype)
            self._free.append((Workspace(spec, plan.tile, dtype, xp), scratch, spec.layers(scratch)))

    def __call__(self, rows: Any, n_rows: int) -> None:
        """Fill loss, gradient and correct from the samples `rows`: a slice with ends, or (n_rows,) indices."""
        tiles = -(-n_rows // self.plan.tile)
        lanes = min(self.plan.lanes, tiles)
        self._losses.fill(0)
        self._counts.fill(0)
        self.workers.run(lambda lane: self._lane(lane, tiles, rows, n_rows), lanes)
        for lane in self._lanes[1:lanes]:
            self.gradient += lane
        self.xp.sum(self._losses, out=self.loss)
        if self.count:
            self.xp.sum(self._counts, out=self.correct)

    def _lane(self, lane: int, tiles: int, rows: Any, n_rows: int) -> None:
        """Add tiles lane, lane + lanes, ... into the lane's accumulators, in that order."""
        xp, net, size = self.xp, self.net, self.plan.tile
        borrowed = self._free.pop()
        whole, scratch, scratch_layers = borrowed
        for tile in range(lane, tiles, self.plan.lanes):
            first = tile == lane
            part = _part(rows, tile * size, min(n_rows, (tile + 1) * size))
            work = whole.head(min(size, n_rows - tile * size))
            y = self.y[part]
            net.kernels.load_tile(self.X, part, self.scale, work.A[0])
            into = self._lane_layers[lane] if first else scratch_layers
            net.loss_and_gradient(self.layers, into, work, y, 1 / n_rows, count=self.count)
            if not first:
                self._lanes[lane] += scratch
            self._losses[lane : lane + 1] += xp.sum(work.losses, dtype=np.float64)
            if self.count:
                self._counts[lane : lane + 1] += xp.sum(work.correct)
        self._free.append(borrowed)


class Step:
    """An update of `evaluate.params` from one batch, by `rule`, which holds the learning rate and its own state."""

    def __init__(
        self, evaluate: Evaluate, rule: FirstOrder, backend: Backend, *, l2: float, gradient_clip: float
    ) -> None:
        self.evaluate, self.rule, self.clip = evaluate, rule, gradient_clip
        self._l2 = None
        if l2:
            flat = weights_only(evaluate.net.spec, l2)
            self._l2 = backend.to_device(flat, dtype=evaluate.params.dtype)

    def __call__(self, rows: Any, n_rows: int) -> None:
        at, K = self.evaluate, self.evaluate.net.kernels
        at(rows, n_rows)
        if self._l2 is not None:
            K.add_l2(at.params, at.gradient, self._l2, at.loss)
        if self.clip:
            K.clip_by_norm(at.gradient, self.clip)
        self.rule.step(at.params, at.gradient)


def _part(rows: Any, start: int, stop: int) -> Any:
    """Rows start to stop of a batch given as a slice or as indices."""
    return slice(rows.start + start, rows.start + stop) if isinstance(rows, slice) else rows[start:stop]
