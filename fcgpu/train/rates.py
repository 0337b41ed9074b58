"""The learning rate of each step of a run: schedule, warm-up, and halvings after a divergence."""

import math
from functools import partial

from fcgpu.optim import FULL_BATCH
from fcgpu.optim.schedules import SCHEDULES, Position, warm_up
from fcgpu.train.recipe import Recipe


class Rates:
    """rates(position, halvings) is the learning rate of the step at a Position, after so many halvings."""

    def __init__(self, recipe: Recipe, steps_per_epoch: int) -> None:
        schedule = SCHEDULES[recipe.schedule or ("constant" if recipe.optimizer in FULL_BATCH else "cosine")]
        self._factor = partial(schedule.factor, **{key: getattr(recipe, key) for key in schedule.keys})
        self._initial, self._by_step = recipe.learning_rate, schedule.by_step
        self._warm_up_steps = recipe.warmup * steps_per_epoch

    def __call__(self, at: Position, halvings: int) -> float:
        return math.ldexp(self._initial * self._factor(at) * warm_up(at, self._warm_up_steps), -halvings)

    def change_within_epochs(self, step: int) -> bool:
        """Whether the rate changes within the epoch that begins with this step, or a later one."""
        return self._by_step or step < self._warm_up_steps
