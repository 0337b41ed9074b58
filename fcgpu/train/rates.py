"""The learning rate of each step of a run: its recipe's schedule, the warm-up before it, and what divergence halved."""

import math
from functools import partial

from fcgpu.optim.schedules import SCHEDULES, Position, warm_up
from fcgpu.train.recipe import Recipe


class Rates:
    """rates(position, halvings) is a step's learning rate; `steps_per_epoch` is the run's."""

    def __init__(self, recipe: Recipe, steps_per_epoch: int) -> None:
        schedule = SCHEDULES[recipe.schedule]
        self._factor = partial(schedule.factor, **{key: getattr(recipe, key) for key in schedule.defaults})
        self._initial, self._by_step = recipe.learning_rate, schedule.by_step
        self._warm_up_steps = recipe.warmup * steps_per_epoch

    def __call__(self, at: Position, halvings: int) -> float:
        return math.ldexp(self._initial * self._factor(at) * warm_up(at, self._warm_up_steps), -halvings)

    def change_within_an_epoch(self, step: int) -> bool:
        """In the one that begins with this step."""
        return self._by_step or step < self._warm_up_steps
