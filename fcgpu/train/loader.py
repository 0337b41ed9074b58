"""The batches of an epoch on a GPU: memory for their samples and passes, and the launches that load the samples."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fcgpu.kernels import device
from fcgpu.train.layers import Layers, Tile
from fcgpu.train.onchip import OnChip
from fcgpu.train.plan import Plan
from fcgpu.train.stream import Stream


class Batch(NamedTuple):
    """Batches of one size; `steps` runs their steps. dZ is multiplied by share, 1 / Σ weights, and by loss_scale.

    Steps take the tiles of one turn after the other, and while they use those of one turn, the next are loaded.
    """

    samples: int
    turns: list[list[Tile]]
    share: Any  # (1,)
    loss_scale: float
    steps: Any = None  # a Steps or an InCluster


class Loader:
    """Loads samples of a run into the tiles of a step, in the form that `passes` take.

    samples : X as stored or a `Stream`. weighted, with_ids : whether weights and ids are used.
    resident : whether the features are loaded once and stay in that form, with `width` columns, else in each step.
    ahead : whether a step's samples are loaded during the step before.
    """

    def __init__(
        self,
        samples: device.Rows,
        place: device.Place,
        passes: Layers | OnChip,
        sums: device.Sums,
        plan: Plan,
        *,
        width: int,
        weighted: bool,
        with_ids: bool,
        resident: bool,
        ahead: bool,
        xp: Any,
    ) -> None:
        self._samples, self._place, self._passes, self._sums, self._plan = samples, place, passes, sums, plan
        self._width, self._weighted, self._with_ids, self._xp = width, weighted, with_ids, xp
        self._resident, self._ahead = resident, ahead
        self._row = 0  # of the epoch, at which the next batch begins

    def batches(self) -> list[Batch]:
        """The full-size batch and, if there is a remainder, the last batch of an epoch, in the same memory."""
        plan, sums = self._plan, self._sums
        if self._resident:
            X = self._xp.empty((plan.samples, self._width), dtype=self._passes.operand)
            rows = self._samples._replace(X=X)
            self._load(0, rows, weighted=False, with_ids=False)
        else:
            rows = self._empty()
        wholes = [Tile(0, rows, self._passes.buffers(plan.tile), sums.losses, sums.rights)]
        if self._ahead:
            wholes.append(wholes[0]._replace(rows=self._empty()))
        batches = [self._batch(plan.batch, wholes)]
        if rest := plan.samples % plan.batch:
            batches.append(self._batch(rest, wholes[:1]))
        return batches

    def load(self, start: int, into: device.Rows) -> None:
        """Fill `into` with the samples of the step from its row `start` on."""
        self._load(start, into, weighted=self._weighted, with_ids=self._with_ids)

    def share(self, batch: Batch) -> None:
        """Set batch.share for the samples of the step."""
        weights = self._samples.weights
        tiny = float(np.finfo(weights.dtype).tiny)
        device.share(weights, self._place, batch.samples, tiny, batch.share, xp=self._xp)

    def advance(self, batch: Batch) -> None:
        """The next step begins after this batch."""
        self._row = (self._row + batch.samples) % self._plan.samples

    def _load(self, start: int, into: device.Rows, *, weighted: bool, with_ids: bool) -> None:
        samples, place, passes = self._samples, self._place, self._passes
        if isinstance(samples.X, Stream):
            first = self._row + start
            samples = samples._replace(X=samples.X[first : first + len(into.X)])
            place = place._replace(first=first)
        device.load(samples, place, start, passes.load_scale, passes.one, into, weighted, with_ids, xp=self._xp)

    def _empty(self) -> device.Rows:
        """Memory for the samples of a tile."""
        xp, n, (_, y, weights, ids) = self._xp, self._plan.tile, self._samples
        return device.Rows(
            xp.empty((n, self._width), dtype=self._passes.operand),
            xp.empty((n, *y.shape[1:]), dtype=y.dtype),
            xp.empty((n,), dtype=weights.dtype) if self._weighted else weights,
            xp.empty((n,), dtype=ids.dtype) if self._with_ids else ids,
        )

    def _batch(self, samples: int, wholes: Sequence[Tile]) -> Batch:
        share = self._xp.zeros((1,), dtype=self._samples.weights.dtype)
        share.fill(1 / samples)
        turns = [self._tiles(samples, whole) for whole in wholes]
        batch = Batch(samples, turns, share, self._passes.loss_scale(samples))
        if self._weighted and samples == self._plan.samples:
            self.share(batch)  # the same in every step
        return batch

    def _tiles(self, samples: int, whole: Tile) -> list[Tile]:
        tiles: list[Tile] = []
        block = 0
        for start in range(0, samples, self._plan.tile):
            n = min(self._plan.tile, samples - start)
            rows = slice(start, start + n) if self._resident else slice(n)
            X, y, weights, ids = whole.rows
            inputs = device.Rows(
                X[rows], y[rows], weights[rows] if self._weighted else weights, ids[rows] if self._with_ids else ids
            )
            sums = slice(block, block + self._passes.blocks(n))
            block = sums.stop
            work = self._passes.part(whole.work, n)
            tiles.append(Tile(start, inputs, work, whole.losses[sums], whole.rights[sums]))
        return tiles
