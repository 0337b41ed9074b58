"""One training run as a generator of events. It prints nothing; its callers consume the events.

`cpu.py`, `in_c.py` and `gpu.py` have the steps of an epoch; `order.py`, `rates.py` and `stopping.py` what is decided
between epochs; `results.py` what the events can be asked for. Here is the loop over the epochs, and the run's State.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING, Any

import numpy as np

from fcgpu.backend import Backend
from fcgpu.data.dataset import Dataset
from fcgpu.errors import CheckpointError, ConfigError
from fcgpu.kernels.denormals import AsZeros, are_counted_as_zero, count_as_zero
from fcgpu.kernels.updates import UPDATES
from fcgpu.model import Model, Score
from fcgpu.optim import FULL_BATCH
from fcgpu.optim.first_order import FirstOrder
from fcgpu.optim.lbfgs import LBFGS
from fcgpu.params import Spec, initial, weights_only
from fcgpu.train.cpu import OnCpu
from fcgpu.train.events import EpochEnded, Event, Finished, Started
from fcgpu.train.in_c import FullBatchInC, InC
from fcgpu.train.order import Order
from fcgpu.train.plan import Plan
from fcgpu.train.rates import Rates
from fcgpu.train.recipe import KEYS, Recipe
from fcgpu.train.results import Results
from fcgpu.train.samples import Samples
from fcgpu.train.standardized import Standardization
from fcgpu.train.state import State
from fcgpu.train.stopping import Patience, watched
from fcgpu.workers import Workers

if TYPE_CHECKING:
    from fcgpu.train.gpu import OnGpu

LOOK_SECONDS = 0.25  # between checks of the loss on a GPU; not at every epoch, because a check waits for the device

Monitor = Callable[[EpochEnded], float]


class Run:
    """One training run. All of its state is here, or in the arrays of `steps` and `rule`.

    X, times : the data's features multiplied by `times`, from `pixels_as_bytes`; or, from `standard`, other features
        and 1.
    tol : the least improvement of what is watched.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: Dataset,
        spec: Spec,
        X: Any,
        y: Any,
        backend: Backend,
        plan: Plan,
        *,
        times: int,
        standard: Standardization,
        weights: Any,
        start: State | None,
        order: Order,
        monitor: Monitor | None,
        tol: float,
        ids: Any,
    ) -> None:
        self.recipe, self.data, self.spec, self.backend = recipe, data, spec, backend
        start = start or State(initial(spec, recipe.seed))
        self.has_classes = data.classes is not None and y.ndim == 1
        self.order, self.rates, self.monitor, self.tol = order, Rates(recipe, plan, start), monitor, tol
        self.workers = Workers(plan.threads)
        self.shuffled = recipe.shuffle and plan.batch < plan.samples  # whether each epoch has a new order
        samples = Samples((X, y, weights), ids, recipe=recipe, plan=plan, backend=backend, shuffled=self.shuffled)
        scale = (recipe.scale or data.scale) if standard.mean is None else 1.0
        self.steps = self._steps(samples, plan, scale / times, done=start.epochs)
        self.plan = replace(plan, data_bytes=plan.data_bytes + samples.copied + self.steps.resident)
        self.rule = self._rule()
        self.steps.begin(self.rule)
        self._restore(start)
        there = (data.X, scale)
        if backend.on_gpu and standard.mean is None:
            there = (X if plan.chunk else samples.X, scale / times)
        self.results = Results(
            recipe, data, spec, backend, plan, start, self.steps.history,
            has_classes=self.has_classes, scale=scale, standard=standard, training_set=there,
        )  # fmt: skip

    def _steps(self, samples: Samples, plan: Plan, scale: float, *, done: int) -> "OnCpu | InC | OnGpu":
        spec, recipe, backend, count = self.spec, self.recipe, self.backend, self.has_classes
        if backend.on_gpu:
            from fcgpu.train.gpu import OnGpu  # late: a third of the time of `import fcgpu`

            return OnGpu(
                spec, samples, plan, backend, recipe, scale=scale, count=count, shuffled=self.shuffled, done=done
            )
        if plan.in_c:
            steps = FullBatchInC if recipe.optimizer in FULL_BATCH else InC
            return steps(spec, samples, plan, backend, recipe, scale=scale, count=count)
        return OnCpu(spec, samples, plan, backend, recipe, self.workers, scale=scale, count=count)

    def _rule(self) -> LBFGS | FirstOrder:
        recipe, params, xp = self.recipe, self.steps.params, self.backend.xp
        if recipe.optimizer == "lbfgs":
            size, most = recipe.history_size, recipe.max_fun or None
            return LBFGS(params, xp, history_size=size, tol=recipe.tol, max_fun=most)
        options = {key: getattr(recipe, key) for key in UPDATES[recipe.optimizer].defaults if key in KEYS}
        if "weight_decay" in options:
            flat = weights_only(self.spec, options["weight_decay"])
            options["weight_decay"] = self._inside(flat, recipe.dtype)
        return FirstOrder(recipe.optimizer, params, self.steps.kernels, xp, **options)

    def _restore(self, state: State) -> None:
        self.steps.params[...] = self._inside(state.params, self.recipe.dtype)
        if state.rule and state.optimizer not in ("", self.recipe.optimizer):
            raise CheckpointError(
                f"start is the state of optimizer={state.optimizer!r}, this run's is {self.recipe.optimizer!r}: "
                "State(state.params) starts another one from its parameters"
            )
        if state.rule:
            self.rule.restore(state.rule, self._inside)
        self.epochs, self.samples, self.drops = state.epochs, state.samples, state.drops
        self.steps.updates, self.steps.evaluated = state.steps, state.evaluated
        self.halvings, self.seconds = state.halvings, state.seconds
        self.stopped = state.stopped if state.epochs else ""
        self.patience = Patience(self.tol, self.recipe.n_iter_no_change or math.inf)
        if state.patience:
            self.patience.best, self.patience.waited = state.patience.best, state.patience.waited
        self._told = self.epochs  # epoch of the last event
        self.best = None
        if self.recipe.early_stopping:
            self.best = self.backend.xp.empty_like(self.steps.params)
            self.best[...] = self.steps.params if state.best is None else self._inside(state.best)

    def state(self) -> State:
        """The run's State, copied to the host."""
        host = self._outside
        return State(
            params=host(self.steps.params),
            rule=self.rule.state_on_host(host),
            epochs=self.epochs,
            steps=self.steps.updates,
            samples=self.samples,
            drops=self.drops,
            patience=replace(self.patience),
            best=None if self.best is None else host(self.best),
            order=self.order.state(),
            halvings=self.halvings,
            seconds=self.seconds,
            evaluated=self.steps.evaluated,
            stopped=self.stopped,
            optimizer=self.recipe.optimizer,
        )

    def events(self) -> Iterator[Event]:
        recipe = self.recipe
        thread, zeros = get_ident(), are_counted_as_zero()
        try:
            yield Started(recipe, self.data, self.spec, self.backend, self.plan)
            looked = time.perf_counter()
            self.started = looked - self.seconds
            while self.epochs < recipe.epochs and not self.stopped:
                with self._calm(), self.backend.enough_memory(self.plan.remedy):
                    rate = self._epoch()
                self.epochs += 1
                self.samples += self.plan.samples
                last = self.epochs == recipe.epochs
                if not self.backend.on_gpu or last or time.perf_counter() - looked > LOOK_SECONDS:
                    self.results.check(self.epochs)
                    looked = time.perf_counter()
                with self.backend.enough_memory(self.plan.remedy):
                    monitored = self._watched(rate)
                    if monitored is not None:
                        self.stopped = self._judged(monitored, rate)
                event = self._ended(rate, monitored)
                self.stopped = self.stopped or self.rule.finished
                if self.stopped:
                    self.results.check(self.epochs)
                self.seconds = time.perf_counter() - self.started
                yield event
        finally:
            self.monitor = None  # it may hold an event, and that this run: no cycle keeps its arrays in memory
            self.workers.close()
            if get_ident() == thread:  # an interrupt may have kept AsZeros from restoring the setting
                count_as_zero(zeros)
            self.steps.close()
        yield self._finished()

    def _ended(self, rate: float | None, monitored: float | None = None) -> EpochEnded:
        """The event of the epoch whose last learning rate was `rate`."""
        self._told, asked = self.epochs, partial(self._asked, self.epochs)
        return EpochEnded(
            epoch=self.epochs,
            epochs=self.recipe.epochs,
            step=self.steps.updates,
            seconds=time.perf_counter() - self.started,
            samples=self.steps.evaluated,
            learning_rate=rate,
            monitored=monitored,
            _fetch=partial(self.results.sums, self.epochs),
            _state=partial(asked, self.state),
            _model=partial(asked, self.model),
            _test=partial(asked, self._test_score),
            _n=self.plan.samples,
            _has_classes=self.has_classes,
        )

    def _finished(self) -> Finished:
        """The last event, with the best parameters or else the last. Raises DivergenceError if they are not finite."""
        improved = self.best is not None and self.patience.best < math.inf  # else no epoch was better than the start
        model = self.results.model(self._outside(self.best if improved else self.steps.params))
        if not np.isfinite(model.params).all():  # the last step diverged; the epoch's loss was measured before it
            raise self.results.diverged(math.nan, self.epochs)
        return Finished(
            model=model,
            epochs=self.epochs,
            steps=self.steps.updates,
            seconds=self.seconds,
            samples=self.steps.evaluated,
            stopped=self.stopped,
            plan=self.plan,
            capture=self.steps.how,
            _train=partial(self.results.train, model),
            _test=partial(self.results.test, model),
        )

    @contextmanager
    def _calm(self) -> Iterator[None]:
        """Inside, NumPy does not warn of infinities, which `Results.check` finds, and steps that use BLAS have one
        thread of it.
        """
        quiet = self.workers.quiet() if self.steps.uses_blas else np.errstate(all="ignore")
        with quiet, nullcontext() if self.backend.on_gpu else AsZeros():
            yield

    def _epoch(self) -> float | None:
        """Train on every batch once; returns the last learning rate, if the optimizer has one."""
        order = self.order.next() if self.shuffled else None
        self.steps.epoch(self.epochs, lambda n: self.rates.of(n, self.epochs, self.drops), order)
        if self.rule.learning_rate is None:
            return None
        return self.rates(self.epochs, self.plan.steps_per_epoch - 1, self.drops)

    def _watched(self, rate: float | None) -> float | None:
        """The number that early stopping watches in this epoch; None if it watches nothing."""
        if self.monitor is None:
            return self.results.sums(self.epochs)[0] if self.recipe.n_iter_no_change else None
        return watched(self.monitor, self._ended(rate))

    def _judged(self, monitored: float, rate: float | None) -> str:
        """Why to stop, or ""; the parameters are kept if they are the best so far."""
        if self.patience.improved(monitored) and self.best is not None:
            self.best[...] = self.steps.params
        if not self.patience.exhausted:
            return ""
        if self.recipe.schedule == "adaptive" and (rate or 0) > 1e-6:
            self.drops, self.patience.waited = self.drops + 1, 0
            return ""
        what = "the loss" if self.monitor is None else getattr(self.monitor, "what", "the validation loss")
        return f"{what} did not improve by more than {self.tol:g} in {self.patience.patience} epochs"

    def _asked(self, epoch: int, ask: Callable[[], Any]) -> Any:
        """ask(), for the event of an epoch. Raises ConfigError once the run has gone past that epoch."""
        if self._told != epoch:
            raise ConfigError(
                f"the run is at epoch {self._told} and no longer has the network of epoch {epoch}: ask an event "
                "for its model, state or test score before you take the next event"
            )
        return ask()

    def model(self) -> Model:
        return self.results.model(self._outside(self.steps.params))

    def _test_score(self) -> Score | None:
        """The score of the current network on the test samples; the run's clock stands still meanwhile."""
        if self.data.X_test is None:
            return None
        model = self.model()  # waits until the device has finished training; this counts
        began = time.perf_counter()
        try:
            return self.results.test(model)
        finally:
            self.started += time.perf_counter() - began

    def _inside(self, vectors: Any, dtype: Any = None) -> Any:
        """Parameters, or vectors like them (..., n_params), as the steps have them; other arrays are only copied."""
        return self.backend.to_device(self.steps.inside(vectors), dtype=dtype)

    def _outside(self, vectors: Any) -> Any:
        """The inverse of `_inside`: a copy on the host, in the public layout."""
        return self.steps.outside(self.backend.to_host(vectors))
