"""Steps on a GPU: all launches of a step, in order. After the first step nothing is allocated or copied to the host,
and the host does not wait, but for L-BFGS, which decides on the host.

`cpu.py` is the counterpart for a CPU; the kernels are in kernels/device.py. A batch is one tile, or several if memory
is short. Full batches keep their features on the device in the form that the products take, [X 1]. Mini-batches are
gathered from the features as stored, in the order of the epoch, by one launch, which gathers their targets, too.

If the features do not fit on the device, a `Stream` brings them in chunks. Then each step is called, not captured,
because a graph would read the same chunk again and again.

Where `cluster.py` can take many steps of small batches in one launch, only it is used. Else the forward and backward
pass of a step are in `layers.py`, `few_rows.py` and `onchip.py`, the batches and their loading in `loader.py`. What
does not depend on the passes, the loading of the next batch and the bookkeeping at a step's end, runs beside them in a
graph.
"""

import weakref
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from fcgpu.backend import Backend
from fcgpu.errors import first_line
from fcgpu.kernels import device, fused
from fcgpu.params import Padded, Spec, weights_only
from fcgpu.train.ahead import Ahead
from fcgpu.train.capture import Capture, Steps
from fcgpu.train.cluster import Cluster
from fcgpu.train.few_rows import FewRows, own_products
from fcgpu.train.layers import Layers
from fcgpu.train.loader import Batch, Loader
from fcgpu.train.onchip import OnChip
from fcgpu.train.plan import Plan
from fcgpu.train.plan_gpu import PIECES, operand_of
from fcgpu.train.recipe import Recipe
from fcgpu.train.samples import Samples
from fcgpu.train.upload import Upload


class OnGpu:
    """The steps of a run on a GPU: `begin` prepares them for an optimizer, `epoch` runs them.

    done : epochs that the run has done already.

    `params`, `gradient` : (layout.size,) flat vectors in the layout of `Padded`.
    `totals` : (3,) float64, loss with penalty, penalty and correct predictions of the last batch, before its update.
    `history` : (epochs, 3) float64, their sums over each epoch.
    `resident` : bytes of the features in the form that the products take; 0 if they are loaded in each step.

    Raises ConfigError for a precision that this GPU lacks.
    """

    uses_blas = False  # that of the CPU

    def __init__(
        self,
        spec: Spec,
        samples: Samples,
        plan: Plan,
        backend: Backend,
        recipe: Recipe,
        *,
        scale: float,
        count: bool,
        shuffled: bool,
        done: int,
    ) -> None:
        self.xp = xp = backend.xp
        self.spec, self.plan, self.recipe, self.count, self.shuffled = spec, plan, recipe, count, shuffled
        self.layout, dtype, self._dropout = Padded(spec), np.dtype(recipe.dtype), recipe.dropout_rates
        operand = operand_of(recipe.precision, dtype, xp)
        self.capture = Capture(backend, tf32=recipe.precision == "tf32")
        self.kernels = SimpleNamespace(**{name: partial(rule, xp=xp) for name, rule in fused.RULES.items()})
        self.params, self.gradient = (xp.zeros((self.layout.size,), dtype=dtype) for _ in range(2))
        alpha = self.layout.padded(weights_only(spec, recipe.alpha))
        self._alpha = xp.asarray(alpha, dtype=dtype) if recipe.alpha else None
        self._scale = scale
        X, y, weights, ids = samples.X, samples.y, samples.weights, samples.ids
        self._stream = samples.stream
        if self._stream is not None:
            self.capture.why = self.capture.why or "the features come from the host in chunks"
        if ids is None:
            ids = xp.arange(len(y) if self._dropout else 1, dtype=np.uint32)
        self._weighted = weights is not None
        self._data = device.Rows(X, y, xp.ones((1,), dtype=dtype) if weights is None else weights, ids)
        self._pixels, self._operand = X.dtype.itemsize == 1, operand
        self._few = None
        if plan.tile == plan.batch and (plan.why_layers or not self._pixels):
            self._few = own_products(
                self.layout, recipe, operand, y, plan.batch, weighted=self._weighted, count=count, xp=xp
            )
        self._passes: Layers | OnChip = self._layers() if plan.why_layers else self._on_chip()
        wide = plan.samples * self.layout.shapes[0][0] * self._passes.operand.itemsize
        fits = plan.batch == plan.samples and not plan.chunk and plan.bytes + wide <= plan.budget
        self.resident = wide if fits else 0
        self.updates = self.evaluated = 0
        self._done = done * plan.steps_per_epoch

    def _layers(self) -> Layers:
        kind = Layers if self._few is None else FewRows
        return kind(
            self.spec, self.recipe, (self.params, self.gradient), self._few or self.capture.products, self._operand,
            layout=self.layout, scale=self._scale, pixels=self._pixels, count=self.count, weighted=self._weighted,
            capture=self.capture, xp=self.xp,
        )  # fmt: skip

    def _on_chip(self) -> OnChip:
        return OnChip(
            self.layout, PIECES[self.recipe.precision], (self.params, self.gradient),
            self._few or self.capture.products, self._data.y, self.plan.batch, self._operand, scale=self._scale,
            pixels=self._pixels, count=self.count, weighted=self._weighted, xp=self.xp,
        )  # fmt: skip

    def begin(self, rule: Any) -> None:
        """Allocate what the steps of `rule`, the optimizer, need."""
        xp, plan, recipe, dtype = self.xp, self.plan, self.recipe, self.params.dtype
        self.rule = rule
        self._ahead = Ahead(xp, recipe, plan, len(self._dropout))
        ordered = self.shuffled and self._stream is None  # a stream delivers the samples in order
        self._order = Upload(xp, (plan.samples,), np.int64) if ordered else None
        n_tiles = -(-plan.batch // plan.tile)
        most = max(self._passes.blocks(plan.tile), device.blocks(plan.tile))  # enough for either kind of passes
        lengths = [most * n_tiles] * 2 + [device.blocks(self.layout.size)] * 2
        self._sums = device.Sums(*(xp.zeros((n,), dtype=np.float64) for n in lengths))
        counted = getattr(getattr(rule, "state", None), "t", None)
        self._now = device.Now(
            totals=xp.zeros((3,), dtype=np.float64),
            history=xp.zeros((recipe.epochs, 3), dtype=np.float64),
            at=xp.zeros((1,), dtype=np.int64),
            t=xp.zeros((1,), dtype=np.float64) if counted is None else counted,
            rate=xp.zeros((1,), dtype=dtype) if rule.learning_rate is None else rule.learning_rate,
            clip=xp.zeros((1,), dtype=dtype),
            key=xp.zeros_like(self._ahead.tables.keys[0]),
        )
        self.totals, self.history = self._now.totals, self._now.history
        self._now.at.fill(self._done)
        order = None if self._order is None else self._order.array
        place = device.Place(self._now.at, plan.steps_per_epoch, plan.batch, order)
        self._cluster = Cluster(
            self.capture, spec=self.spec, recipe=recipe, plan=plan, samples=self._data, place=place,
            tables=self._ahead.tables, now=self._now, params=self.params, rule=rule, weighted=self._weighted,
            count=self.count, scale=self._scale,
        )  # fmt: skip
        if self._cluster.why:
            try:
                if self._few is not None:
                    self._few.compile()
                if isinstance(self._passes, OnChip):
                    self._passes.compile()
            except Exception as error:  # from the compiler or the driver: go by CuPy's and cuBLAS's kernels instead
                self.capture.lost = f"own kernels do not compile: {first_line(error)}"
                self._few = None
                self._passes, self.resident = self._layers(), 0
        self._loader = Loader(
            self._data, place, self._passes, self._sums, plan, width=self.layout.shapes[0][0], weighted=self._weighted,
            with_ids=bool(self._dropout), resident=bool(self.resident), ahead=plan.loads_ahead and not self.capture.why,
            xp=xp,
        )  # fmt: skip
        with self.capture.on_stream():
            self._batches = [self._with_steps(batch) for batch in self._loader.batches()]

    def epoch(self, number: int, rates: Callable[[int], Sequence[float]], order: Any) -> None:
        """Train on every batch once, and fill row `number` of the history.

        rates(n) returns the learning rates of the next n steps. order (n_samples,) is on the host; None for that of the
        data.
        """
        whole, *ragged = self._batches
        with self.capture.on_stream():
            if self.rule.learning_rate is None:
                self._iteration(number, whole)
                return
            if self._order is not None:
                self._order.send(order)
            elif order is not None and self._stream is not None:
                self._stream.begin(order)
            if self._ahead.send(self._done, self.updates, rates):
                self._now.key[...] = self._ahead.tables.keys[0]
            whole.steps.run(self.plan.samples // whole.samples)
            for batch in ragged:
                batch.steps.run(1)
        self._done += self.plan.steps_per_epoch
        self.updates += self.plan.steps_per_epoch
        self.evaluated += self.plan.samples

    @property
    def how(self) -> str:
        """How the steps are launched, in words."""
        return self.capture.how

    def inside(self, vectors: Any) -> Any:
        """Parameters, or vectors like them (..., n_params), in the layout of `params`; other arrays as they are."""
        return self.layout.padded(vectors) if vectors.shape[-1:] == (self.spec.n_params,) else vectors

    def outside(self, vectors: Any) -> Any:
        """The inverse of `inside`, of vectors on the host: a copy in the public layout."""
        return self.layout.packed(vectors) if vectors.shape[-1:] == (self.layout.size,) else np.array(vectors)

    def close(self) -> None:
        """Free all that only steps need, even if a caller's events still refer to this. `params`, `history` stay."""
        if self._stream is not None:
            self._stream.close()
        del self._batches, self._loader, self._cluster, self._passes, self._data, self._stream, self._order
        del self._ahead, self._sums, self._alpha, self.capture.products

    def _iteration(self, number: int, batch: Batch) -> None:
        """One iteration of L-BFGS, which decides on the host: batch.steps only evaluates, and updates no parameter."""

        def evaluate() -> Any:
            batch.steps.run(1)
            self.evaluated += batch.samples
            return self.totals[0]

        loss, penalty, right = (self.history[number, i : i + 1] for i in range(3))
        loss += self.rule.step(self.params, self.gradient, evaluate)
        if self.rule.strayed:
            evaluate()
        penalty += self.totals[1:2]
        right += self.totals[2:3]
        self.updates += 1

    def _with_steps(self, batch: Batch) -> Batch:
        host = self.rule.learning_rate is None
        me = weakref.proxy(self)  # a reference cycle would keep the device's memory
        step = partial(OnGpu._evaluate, me, batch, advance=False) if host else partial(OnGpu._step, me, batch)
        steps = Steps(step, self.capture, 1 if host else self.plan.samples // batch.samples)
        return batch._replace(steps=self._cluster.steps(batch.samples, steps))

    # What is launched

    def _step(self, batch: Batch, i: int, n: int) -> None:
        self.rule.step(self.params, self.gradient, partial(self._evaluate, batch, i, n, advance=True))

    def _evaluate(self, batch: Batch, i: int, n: int, *, advance: bool) -> Any:
        """Fill gradient and totals, in step i of a graph of n; return the loss (1,) on the device. If `advance`, also
        count the step and set its learning rate.
        """
        recipe, xp, sums = self.recipe, self.xp, self._sums
        tiles = batch.turns[i % len(batch.turns)]
        used = [sum(tile.losses.size for tile in tiles)]
        used += [sums.penalties.size * (self._alpha is not None), sums.squares.size * bool(recipe.gradient_clip)]
        end_step = partial(
            device.end_step, sums, self._ahead.tables, self._now, used, self.plan.steps_per_epoch,
            batch.samples / self.plan.samples, recipe.gradient_clip, advance, xp=xp,
        )  # fmt: skip
        early = len(tiles) == 1 and not any(used[1:])  # nothing of the backward pass is needed
        fetched = len(batch.turns) > 1 and i > 0
        if len(batch.turns) > 1 and i + 1 < n:
            with self.capture.beside():
                self._loader.load(batch.samples, batch.turns[(i + 1) % 2][0].rows)
        self._passes.begin()
        if self._weighted and batch.samples < self.plan.samples:
            self._loader.share(batch)
        for tile in tiles:
            if not (self.resident or fetched):
                self._loader.load(tile.start, tile.rows)
            self._passes.forward(tile, batch.share, batch.loss_scale, self._now.key)
            if early:
                with self.capture.beside():
                    end_step()
            self._passes.backward(tile, batch.loss_scale)
        self._passes.end()
        self.capture.join()
        self._loader.advance(batch)
        if self._alpha is not None:
            device.add_l2(self.params, self.gradient, self._alpha, batch.share, sums.penalties, xp=xp)
        if recipe.gradient_clip:
            device.squares(self.gradient, sums.squares, xp=xp)
        if not early:
            end_step()
        if recipe.gradient_clip:
            device.clip(self.gradient, self._now.clip, xp=xp)
        return self.totals[0:1]
