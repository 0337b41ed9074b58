"""The training loop: checks, plans, then yields events. It prints nothing; callers do what they like with events."""

import math
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from fcgpu.backend import Backend, Workers, choose
from fcgpu.data.dataset import Dataset, dataset, not_a_label, shown
from fcgpu.errors import DataError, DivergenceError
from fcgpu.kernels.losses import OUTPUTS
from fcgpu.kernels.updates import UPDATES
from fcgpu.model import Model
from fcgpu.optim.first_order import FirstOrder
from fcgpu.optim.schedules import SCHEDULES, Progress, warm_up
from fcgpu.params import Spec, initial, weights_only
from fcgpu.train.events import EpochEnded, Event, Finished, Started
from fcgpu.train.plan import plan
from fcgpu.train.recipe import Recipe
from fcgpu.train.step import Evaluate, Step

LOOK_SECONDS = 0.25  # on a GPU the loss is looked at this often, not every epoch: a look waits for the device


def train(
    data: Dataset | tuple[Any, Any],
    recipe: Recipe | None = None,
    *,
    device: str | Backend = "auto",
    threads: int | None = None,
    memory_budget: int | None = None,
    **changes: Any,
) -> Iterator[Event]:
    """Train a network and yield Started, an EpochEnded for each epoch, and Finished with the model.

        *_, finished = fcgpu.train((X, y), hidden=(128, 64), epochs=50)
        finished.model.predict(X)

    data : a Dataset, or (X, y) with X (n_samples, n_features) and y (n_samples,) labels or targets.
    recipe, **changes : what to do, and keys of it to change; see `Recipe`.
    device, threads, memory_budget : where; they change no bit of the result on the CPU, unless the budget (bytes) is
        too small for the usual tiles.

    Everything is checked before the first event. Raises DataError, ConfigError, DeviceError; DivergenceError from the
    epoch after which the loss is not finite.
    """
    recipe = (recipe or Recipe()).but(**changes)
    if not isinstance(data, Dataset):
        data = dataset(*data)
    spec, y = fit_to(recipe, data)
    backend = choose(device) if isinstance(device, str) else device
    cut = plan(
        spec, (data.X, y), recipe.batch, recipe.dtype, recipe.optimizer, backend,
        threads=threads, memory_budget=memory_budget,
    )  # fmt: skip
    run = _Run(recipe, data, spec, y, backend, cut)
    return run.events()


def fit_to(recipe: Recipe, data: Dataset) -> tuple[Spec, Any]:
    """The network that a recipe means for these data, and the training targets as its loss takes them.

    Raises DataError where labels and output do not go together.
    """
    if OUTPUTS[recipe.output].classifies:
        if data.classes is None:
            raise DataError(
                f"{data.name}: output={recipe.output!r} needs whole-number or text labels in one column, not "
                f"{not_a_label(data.y)}; for real-valued targets use output='identity'"
            )
        if len(data.classes) < 2:
            raise DataError(
                f"{data.name}: every label is {shown(data.classes)}; at least two classes are needed to classify"
            )
        n_outputs = 1 if recipe.output == "sigmoid" and len(data.classes) == 2 else len(data.classes)
        y = data.y
    else:
        y = targets(data, data.y).astype(recipe.dtype)
        n_outputs = y.shape[1]
    return Spec((data.n_features, *recipe.hidden, n_outputs), recipe.activation, recipe.output, recipe.init), y


def targets(data: Dataset, y: Any) -> Any:
    """Regression targets (n, n_outputs): y itself, or the numbers that whole-number labels stand for."""
    if data.classes is not None:
        if isinstance(data.classes[0], str):
            raise DataError(f"{data.name}: labels are text ({shown(data.classes)}); output='identity' needs numbers")
        y = np.asarray(data.classes, dtype=np.float64)[y]
    return y.reshape(len(y), -1)


class _Run:
    """The state of one training run, all of it here or in the step's device arrays."""

    def __init__(self, recipe: Recipe, data: Dataset, spec: Spec, y: Any, backend: Backend, cut: Any) -> None:
        self.recipe, self.data, self.spec, self.backend, self.plan = recipe, data, spec, backend, cut
        self.scale = recipe.scale or data.scale
        self.classifies = OUTPUTS[recipe.output].classifies
        self.workers = Workers(cut.threads)
        on_device = backend.to_device(data.X), backend.to_device(y)
        evaluate = Evaluate(
            spec, on_device, cut, backend, self.workers, recipe.dtype, scale=self.scale, count=self.classifies
        )
        evaluate.params[...] = backend.to_device(initial(spec, recipe.seed), dtype=recipe.dtype)
        self.rule = FirstOrder(recipe.optimizer, evaluate.params, evaluate.net.kernels, backend.xp, **self._options())
        self.step = Step(evaluate, self.rule, backend, l2=recipe.l2, gradient_clip=recipe.gradient_clip)
        self.history = backend.xp.zeros((recipe.epochs, 2), dtype=np.float64)  # loss, right answers
        self.order = np.random.Generator(np.random.PCG64(np.random.SeedSequence(recipe.seed).spawn(1)[0]))
        self.steps = 0

    def _options(self) -> dict[str, Any]:
        options = {key: getattr(self.recipe, key) for key in UPDATES[self.recipe.optimizer].defaults}
        if "weight_decay" in options:
            flat = weights_only(self.spec, options["weight_decay"])
            options["weight_decay"] = self.backend.to_device(flat, dtype=self.recipe.dtype)
        return options

    def events(self) -> Iterator[Event]:
        recipe, n = self.recipe, self.plan.samples
        yield Started(recipe, self.data, self.backend, self.plan)
        started = looked = time.perf_counter()
        try:
            for epoch in range(recipe.epochs):
                with self.workers.quiet():
                    rate = self._epoch(epoch)
                last = epoch + 1 == recipe.epochs
                if not self.backend.on_gpu or last or time.perf_counter() - looked > LOOK_SECONDS:
                    self._check(epoch)
                    looked = time.perf_counter()
                yield EpochEnded(
                    epoch + 1, recipe.epochs, self.steps, time.perf_counter() - started, (epoch + 1) * n, rate,
                    partial(self._fetch, epoch), self.model, n, self.classifies,
                )  # fmt: skip
            seconds = time.perf_counter() - started
        finally:
            self.workers.close()
        model = self.model()
        try:
            score = self._score(model, self.data.X, self.data.y)
        except DivergenceError:  # in the last step: the epoch's loss was measured before it
            raise self._diverged(math.nan, recipe.epochs) from None
        yield Finished(
            model, recipe.epochs, self.steps, seconds, recipe.epochs * n, score,
            None if self.data.X_test is None else self._score(model, self.data.X_test, self.data.y_test),
        )  # fmt: skip

    def _epoch(self, epoch: int) -> float:
        """Every batch once; returns the last learning rate. Adds the epoch's loss and right answers to the history."""
        n, size, evaluate = self.plan.samples, self.plan.batch, self.step.evaluate
        total = self.recipe.epochs * self.plan.steps_per_epoch
        order = None
        if self.recipe.shuffle and size < n:
            order = self.backend.to_device(self.order.permutation(n))
        loss, correct = self.history[epoch, 0:1], self.history[epoch, 1:2]
        rate = 0.0
        for start in range(0, n, size):
            stop = min(start + size, n)
            rate = self._learning_rate(Progress(self.steps, total, epoch))
            self.rule.learning_rate.fill(rate)
            self.step(slice(start, stop) if order is None else order[start:stop], stop - start)
            loss += evaluate.loss * ((stop - start) / n)
            correct += evaluate.correct
            self.steps += 1
        return rate

    def _learning_rate(self, at: Progress) -> float:
        recipe, row = self.recipe, SCHEDULES[self.recipe.schedule]
        factor = row.factor(at, **{key: getattr(recipe, key) for key in row.defaults})
        return recipe.learning_rate * factor * warm_up(at, recipe.warmup * self.plan.steps_per_epoch)

    def _fetch(self, epoch: int) -> tuple[float, int]:
        loss, correct = self.backend.to_host(self.history[epoch])
        return float(loss), int(correct)

    def _check(self, epoch: int) -> None:
        losses = self.backend.to_host(self.history[: epoch + 1, 0])
        if math.isfinite(losses[-1]):
            return
        first = int(np.flatnonzero(~np.isfinite(losses))[0])
        raise self._diverged(losses[first], first + 1)

    def _diverged(self, loss: float, epoch: int) -> DivergenceError:
        rate = self.recipe.learning_rate
        return DivergenceError(
            f"the loss is {loss} in epoch {epoch} with learning_rate={rate:g}: "
            f"try learning_rate={rate / 10:g}, gradient_clip=1, or features of a smaller scale"
        )

    def model(self) -> Model:
        params = np.array(self.backend.to_host(self.step.evaluate.params))
        classes = self.data.classes if self.classifies else None
        return Model(self.spec, params, classes, self.scale, self.data.image_shape, self.recipe.name)

    def _score(self, model: Model, X: Any, y: Any) -> Any:
        if not self.classifies:
            y = targets(self.data, y)
        return model.score(X, y, device=self.backend, threads=self.plan.threads)
