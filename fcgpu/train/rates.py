"""The learning rate of each step of a run: schedule, warm-up, and halvings after a divergence."""

import math
from functools import partial

from fcgpu.optim import FULL_BATCH
from fcgpu.optim.schedules import SCHEDULES, Position, warm_up
from fcgpu.train.plan import Plan
from fcgpu.train.recipe import Recipe
from fcgpu.train.state import State


class Rates:
    """The learning rates of a run that began with the State `start`.

    Epochs, and the steps of an epoch, are counted from 0. drops : how often the adaptive schedule has lowered the rate.
    """

    def __init__(self, recipe: Recipe, plan: Plan, start: State) -> None:
        schedule = SCHEDULES[recipe.schedule or ("constant" if recipe.optimizer in FULL_BATCH else "cosine")]
        self._factor = partial(schedule.factor, **{key: getattr(recipe, key) for key in schedule.keys})
        self._initial = math.ldexp(recipe.learning_rate, -start.halvings)
        self._by_step, self._epochs = schedule.by_step, recipe.epochs
        self._per_epoch, self._samples = plan.steps_per_epoch, plan.samples
        self._warm_up_steps = recipe.warmup * self._per_epoch
        self._done, self._seen, self._is_new = start.epochs, start.samples, not start.rule
        # A schedule counts the start's epochs as of this run's batches; they may have been of others.
        self._before = 0 if start.epochs else start.steps

    def __call__(self, epoch: int, step: int, drops: int) -> float:
        """The learning rate of a step; one beyond the end of the epoch is in a later one."""
        at = self._position(epoch + step // self._per_epoch, step % self._per_epoch, drops)
        return self._initial * self._factor(at) * warm_up(at, self._warm_up_steps)

    def of(self, n: int, epoch: int, drops: int) -> list[float]:
        """The learning rates of n steps, from the first one of an epoch on."""
        change = self._by_step or self._position(epoch, 0, drops).step < self._warm_up_steps  # within epochs
        each = 1 if change else self._per_epoch
        rates = [self(epoch, step, drops) for step in range(0, n, each)]
        return [rate for rate in rates for _ in range(each)][:n]

    def _position(self, epoch: int, step: int, drops: int) -> Position:
        seen = 0 if epoch == 0 and self._is_new else self._seen + (epoch - self._done) * self._samples
        n = self._per_epoch
        return Position(self._before + epoch * n + step, self._epochs * n, epoch, seen, drops)
