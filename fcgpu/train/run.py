"""One training run as a generator of events. It prints nothing; its callers consume the events."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING, Any

import numpy as np

from fcgpu.backend import Backend
from fcgpu.data.dataset import Dataset, targets
from fcgpu.errors import CheckpointError, ConfigError, DeviceMemoryError, DivergenceError
from fcgpu.kernels.denormals import as_zeros, count_as_zero, do_count_as_zero
from fcgpu.kernels.updates import UPDATES
from fcgpu.model import Model, Score
from fcgpu.optim.first_order import FirstOrder
from fcgpu.optim.lbfgs import LBFGS
from fcgpu.optim.schedules import Position
from fcgpu.params import Spec, initial, weights_only
from fcgpu.train.events import EpochEnded, Event, Finished, Started
from fcgpu.train.passes import Passes
from fcgpu.train.plan import Plan
from fcgpu.train.rates import Rates
from fcgpu.train.recipe import KEYS, Recipe
from fcgpu.train.samples import Samples
from fcgpu.train.small import SmallBatches, is_small
from fcgpu.train.state import State
from fcgpu.train.step import Evaluate, Step
from fcgpu.train.stopping import Patience
from fcgpu.workers import Workers

if TYPE_CHECKING:
    from fcgpu.train.device import OnGpu

LOOK_SECONDS = 0.25  # between checks of the loss on a GPU; not at every epoch, because a check waits for the device

Monitor = Callable[[EpochEnded], float]


class Run:
    """One training run. All of its state is here, or in the device arrays of `step` and `rule`.

    X, times : the data's features multiplied by `times`, from `pixels.features`.
    again : (n,), the order of the first epoch, if a run before this one has drawn it already.

    `drawn` is the first order (n,) of samples that this run used, None before.
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
        weights: Any,
        start: State | None,
        order: Any,
        monitor: Monitor | None,
        ids: Any,
        again: Any = None,
    ) -> None:
        self.recipe, self.data, self.spec, self.backend, self.plan = recipe, data, spec, backend, plan
        self.scale, self.counts = recipe.scale or data.scale, data.classes is not None and y.ndim == 1
        self.monitor, self.rates = monitor, Rates(recipe, plan.steps_per_epoch)
        self.workers = Workers(plan.threads)
        self.shuffled = recipe.shuffle and plan.batch < plan.samples  # whether each epoch has a new order
        self.drawn: Any = None
        self._again = again
        samples = Samples(
            (X, y, weights), ids, spec=spec, recipe=recipe, plan=plan, backend=backend, shuffled=self.shuffled
        )
        scale = self.scale / times
        self._training_set = (X if plan.chunk else samples.X, scale) if backend.on_gpu else (data.X, self.scale)
        X, y, weights = samples.X, samples.y, samples.weights
        self.plan = replace(plan, data_bytes=plan.data_bytes + samples.copied)
        self.stairs, self.stream = samples.stairs, samples.stream
        first = start.epochs if start else 0
        self.gpu: OnGpu | None = None
        self.evaluate: Evaluate | OnGpu
        self.step: Step | OnGpu
        if backend.on_gpu:
            from fcgpu.train import device  # late: a third of the time of `import fcgpu`

            self.evaluate = self.step = self.gpu = device.OnGpu(
                spec, (X, y, weights), plan, backend, recipe,
                scale=scale, count=self.counts, ids=samples.ids, shuffled=self.shuffled,
            )  # fmt: skip
            self.plan = replace(plan, data_bytes=plan.data_bytes + self.gpu.resident)
            self.rule = self._rule(self.gpu.kernels)
            self.gpu.begin(self.rule, first)
            self.history = self.gpu.history
        else:
            evaluate = Passes if samples.in_one_call else SmallBatches if is_small(self.plan) else Evaluate
            self.evaluate = evaluate(
                spec, (X, y, None if weights is None else weights.reshape(-1, 1)), plan, backend, self.workers, recipe,
                scale=scale, count=self.counts, ids=samples.ids, widths=samples.widths,
            )  # fmt: skip
            self.rule = self._rule(self.evaluate.net.kernels)
            self.step = Step(self.evaluate, self.rule)
            self.history = np.zeros((recipe.epochs, 3))  # loss, the penalty in it, correct predictions
        self.order = order or np.random.Generator(np.random.PCG64(np.random.SeedSequence(recipe.seed).spawn(1)[0]))
        self.fresh = start is None or not start.rule
        self._restore(start or State(initial(spec, recipe.seed)))

    def _rule(self, kernels: Any) -> Any:
        recipe, at = self.recipe, self.evaluate
        if recipe.optimizer == "lbfgs":
            return LBFGS(
                at.params,
                self.backend.xp,
                memory=recipe.history_size,
                gtol=recipe.tol,
                max_evaluations=recipe.max_fun or None,
            )
        options = {key: getattr(recipe, key) for key in UPDATES[recipe.optimizer].defaults if key in KEYS}
        if "weight_decay" in options:
            flat = weights_only(self.spec, options["weight_decay"])
            options["weight_decay"] = self._inside(flat, recipe.dtype)
        rule = FirstOrder(recipe.optimizer, at.params, kernels, self.backend.xp, **options)
        plain = recipe.optimizer == "gradient_descent" and not (recipe.alpha or recipe.gradient_clip)
        if plain and isinstance(at, Evaluate):
            at.descend(rule)  # saves a pass over the parameters; on a GPU the update is one pass already
        return rule

    def _restore(self, state: State) -> None:
        self.evaluate.params[...] = self._inside(state.params, self.recipe.dtype)
        if state.rule and state.optimizer not in ("", self.recipe.optimizer):
            raise CheckpointError(
                f"start is the state of optimizer={state.optimizer!r}, this run's is {self.recipe.optimizer!r}: "
                "State(state.params) starts another one from its parameters"
            )
        if state.rule:
            self.rule.restore(state.rule, self._inside)
        if state.order:
            self.order.bit_generator.state = state.order
        self.epochs, self.step.steps, self.samples, self.drops = state.epochs, state.steps, state.samples, state.drops
        # The schedule counts steps as if all were of this run's batches; those of the start may have been others.
        self._skipped = state.epochs * self.plan.steps_per_epoch - state.steps if state.epochs else 0
        self.halvings, self.seconds, self.evaluate.samples = state.halvings, state.seconds, state.evaluated
        self.stopped = state.stopped if state.epochs else ""
        begun = state.patience or Patience(self.recipe.tol, self.recipe.n_iter_no_change or math.inf)
        self.patience = replace(begun)
        self._told = self._sound = self.epochs  # epoch of the last event, and of the last check of the losses
        self.best = None
        if self.recipe.early_stopping:
            self.best = self.backend.xp.empty_like(self.evaluate.params)
            self.best[...] = self.evaluate.params if state.best is None else self._inside(state.best)

    def state(self) -> State:
        """The run's State, copied to the host."""
        host = self._outside
        order = getattr(self.order, "bit_generator", None)
        return State(
            params=host(self.evaluate.params),
            rule=self.rule.state_on_host(host),
            epochs=self.epochs,
            steps=self.step.steps,
            samples=self.samples,
            drops=self.drops,
            patience=replace(self.patience),
            best=None if self.best is None else host(self.best),
            order=order and order.state,
            halvings=self.halvings,
            seconds=self.seconds,
            evaluated=self.evaluate.samples,
            stopped=self.stopped,
            optimizer=self.recipe.optimizer,
        )

    def events(self) -> Iterator[Event]:
        recipe, n = self.recipe, self.plan.samples
        thread, zeros = get_ident(), do_count_as_zero()
        try:
            yield Started(recipe, self.data, self.spec, self.backend, self.plan)
            looked = time.perf_counter()
            self.started = looked - self.seconds
            while self.epochs < recipe.epochs and not self.stopped:
                with self.workers.quiet(), as_zeros(), self.backend.enough_memory(self.plan.remedy):
                    rate = self._epoch(self.epochs)
                self.epochs += 1
                self.samples += n
                last = self.epochs == recipe.epochs
                if not self.backend.on_gpu or last or time.perf_counter() - looked > LOOK_SECONDS:
                    self._check()
                    looked = time.perf_counter()
                self._told, then = self.epochs, partial(self._then, self.epochs)
                event = EpochEnded(
                    epoch=self.epochs,
                    epochs=recipe.epochs,
                    step=self.step.steps,
                    seconds=time.perf_counter() - self.started,
                    samples=self.evaluate.samples,
                    learning_rate=None if self.rule.learning_rate is None else rate,
                    monitored=None,
                    _fetch=partial(self._fetch, self.epochs - 1),
                    _state=then(self.state),
                    _model=then(self.model),
                    _test=then(self._test_now),
                    _n=n,
                    _counts=self.counts,
                )
                with self.backend.enough_memory(self.plan.remedy):
                    event, stopped = self._judged(event)
                self.stopped = stopped or self.rule.finished
                if self.stopped:
                    self._check()
                self.seconds = time.perf_counter() - self.started
                yield event
        finally:
            self.workers.close()
            if get_ident() == thread:  # an interrupt may have kept as_zeros from restoring the setting
                count_as_zero(zeros)
            if self.stream is not None:
                self.stream.close()
            if self.gpu is not None:
                self.gpu.close()
        if self.best is not None and self.patience.best < math.inf:  # else no epoch was better than the start
            with self.backend.current():
                self.evaluate.params[...] = self.best
        model = self.model()
        if not np.isfinite(model.params).all():  # the last step diverged; the epoch's loss was measured before it
            raise self._diverged(math.nan, self.epochs)
        data = self.data
        yield Finished(
            model=model,
            epochs=self.epochs,
            steps=self.step.steps,
            seconds=self.seconds,
            samples=self.evaluate.samples,
            stopped=self.stopped,
            plan=self.plan,
            capture=self.gpu.capture.how if self.gpu else "",
            _train=partial(self._score_of_training, model),
            _test=partial(self._score, model, data.X_test, data.y_test) if data.X_test is not None else lambda: None,
        )

    def _epoch(self, epoch: int) -> float:
        """Train on every batch once, and fill the epoch's row of the history; returns the last learning rate."""
        n, size = self.plan.samples, self.plan.batch
        order = self._draw() if self.shuffled else None
        if self.gpu is not None:
            self.gpu.epoch(epoch, self._learning_rates, (self.drops, self.halvings), order)
            return self.rates(self._position(-1), self.halvings)
        if order is not None and self.stairs is not None:
            order = self.stairs.batches(order, size)
        step, evaluate = self.step, self.evaluate
        assert isinstance(step, Step)
        assert isinstance(evaluate, Evaluate)
        loss, penalty, correct = (self.history[epoch, i : i + 1] for i in range(3))
        held = self.rule.learning_rate
        rate, changes = math.nan, self.rates.change_within_an_epoch(self._position().step)
        measures, counts, regularised = not evaluate.kept, self.counts and not evaluate.kept, self.recipe.alpha
        for start in range(0, n, size):
            stop = min(start + size, n)
            if changes or start == 0:
                rate = self.rates(self._position(), self.halvings)
                if held is not None:
                    held.fill(rate)
            measured = step(slice(start, stop) if order is None else order[start:stop], stop - start)
            if measures or regularised:
                loss += measured * ((stop - start) / n)
            if regularised:
                penalty += evaluate.penalty * ((stop - start) / n)
            if counts:
                correct += evaluate.correct
        if evaluate.kept:
            measured, right = evaluate.kept.measured()
            loss += measured
            correct += right
        return rate

    def _draw(self) -> Any:
        """The order (n,) of the samples in the next epoch, on the host."""
        order = self.order.permutation(self.plan.samples) if self._again is None else self._again
        self.drawn, self._again = order if self.drawn is None else self.drawn, None
        return order

    def _learning_rates(self, n: int) -> list[float]:
        """The learning rates of the next n steps."""
        return [self.rates(self._position(i), self.halvings) for i in range(n)]

    def _position(self, ahead: int = 0) -> Position:
        """The Position of the step that is `ahead` steps after the next one, in this epoch or a later one."""
        every = self.plan.steps_per_epoch
        later = max(0, ahead // every)
        seen = 0 if self.fresh and self.epochs + later == 0 else self.samples + later * self.plan.samples
        step = self.step.steps + self._skipped + ahead
        return Position(step, self.recipe.epochs * every, self.epochs + later, seen, self.drops)

    def _judged(self, event: EpochEnded) -> tuple[EpochEnded, str]:
        """The event with its monitored value, and why to stop, or ""."""
        recipe = self.recipe
        if self.monitor is None and not recipe.n_iter_no_change:
            return event, ""
        value = event.loss if self.monitor is None else self.monitor(event)
        if self.patience.improved(value) and self.best is not None:
            self.best[...] = self.evaluate.params
        event = replace(event, monitored=value)
        if not self.patience.exhausted:
            return event, ""
        if recipe.schedule == "adaptive" and (event.learning_rate or 0) > 1e-6:
            self.drops, self.patience.waited = self.drops + 1, 0
            return event, ""
        what = "the loss" if self.monitor is None else "the validation loss"
        return event, f"{what} did not improve by more than {recipe.tol:g} in {self.patience.patience} epochs"

    def _then(self, epoch: int, ask: Callable[[], Any]) -> Callable[[], Any]:
        """`ask`, made to raise ConfigError once the run has gone past that epoch."""

        def asked() -> Any:
            if self._told != epoch:
                raise ConfigError(
                    f"the run is at epoch {self._told} and no longer has the network of epoch {epoch}: ask an event "
                    "for its model, state or test score before you take the next event"
                )
            return ask()

        return asked

    def _fetch(self, epoch: int) -> tuple[float, float, int]:
        loss, penalty, correct = self.backend.to_host(self.history[epoch])
        return float(loss), float(penalty), int(correct)

    def _check(self) -> None:
        losses = self.backend.to_host(self.history[self._sound : self.epochs, 0])
        wrong = np.flatnonzero(~np.isfinite(losses))
        if wrong.size:
            raise self._diverged(losses[wrong[0]], self._sound + int(wrong[0]) + 1)
        self._sound = self.epochs

    def _diverged(self, loss: float, epoch: int) -> DivergenceError:
        if self.rule.learning_rate is None:
            return DivergenceError(
                f"the loss is {loss} in epoch {epoch}: try features of a smaller scale, or dtype='float64'"
            )
        rate = math.ldexp(self.recipe.learning_rate, -self.halvings)
        return DivergenceError(
            f"the loss is {loss} in epoch {epoch} with learning_rate={rate:g}: "
            f"try learning_rate={rate / 10:g}, gradient_clip=1, or features of a smaller scale"
        )

    def _inside(self, vectors: Any, dtype: Any = None) -> Any:
        """Parameters, or vectors like them (..., n_params), in this run's layout, on its device; other arrays are only
        copied there.
        """
        if vectors.shape[-1:] == (self.spec.n_params,):
            if self.gpu is not None:
                vectors = self.gpu.layout.padded(vectors)
            elif self.stairs is not None:
                vectors = self.stairs.inside(self.spec, vectors)
        return self.backend.to_device(vectors, dtype=dtype)

    def _outside(self, vectors: Any) -> Any:
        """The inverse of `_inside`: a copy on the host, in the public layout."""
        vectors = self.backend.to_host(vectors)
        if self.gpu is not None and vectors.shape[-1:] == (self.gpu.layout.size,):
            return self.gpu.layout.packed(vectors)
        if self.stairs is not None and vectors.shape[-1:] == (self.spec.n_params,):
            return self.stairs.outside(self.spec, vectors)
        return np.array(vectors)

    def model(self) -> Model:
        classes = self.data.classes if self.counts else None
        return Model(
            self.spec, self._outside(self.evaluate.params), classes, self.scale, self.data.image_shape, self.recipe.name
        )

    def _test_now(self) -> Score | None:
        """The score of the current network on the test samples; the run's clock stands still meanwhile."""
        if self.data.X_test is None:
            return None
        model = self.model()  # waits until the device has finished training; this counts
        began = time.perf_counter()
        try:
            return self._score(model, self.data.X_test, self.data.y_test)
        finally:
            self.started += time.perf_counter() - began

    def _score_of_training(self, model: Model) -> Score:
        try:
            X, scale = self._training_set
            return self._score(replace(model, scale=scale), X, self.data.y)
        except DivergenceError:  # the last step diverged, after the last loss was measured
            raise self._diverged(math.nan, self.epochs) from None

    def _score(self, model: Model, X: Any, y: Any) -> Score:
        if not self.counts:
            y = targets(self.data, y)
        try:
            return model.score_encoded(X, y, device=self.backend, threads=self.plan.threads)
        except DeviceMemoryError:  # do not lose the trained network for want of memory: score on the CPU
            return model.score_encoded(self.backend.to_host(X), y, device="cpu")
