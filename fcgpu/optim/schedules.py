"""Learning rate schedules: each returns a factor of the initial learning rate from the position in the run."""

import math
from collections.abc import Callable
from typing import NamedTuple

from fcgpu.errors import ConfigError


class Position(NamedTuple):
    step: int  # updates before this one
    steps: int  # updates of the whole run
    epoch: int  # epochs finished before this one
    samples: int  # samples seen in those epochs
    drops: int  # how often n_iter_no_change epochs passed without improvement


class Schedule(NamedTuple):
    factor: Callable[..., float]
    keys: tuple[str, ...] = ()  # of the recipe, which the factor also takes
    by_step: bool = False  # whether it changes within an epoch


def constant(at: Position) -> float:
    return 1.0


def step(at: Position, *, step_size: int, gamma: float) -> float:
    """γ^(epoch // step_size), with γ = gamma. Raises ConfigError if that overflows a float."""
    try:
        return float(gamma ** (at.epoch // step_size))
    except OverflowError:
        raise ConfigError(f"gamma={gamma:g} to the power {at.epoch // step_size} overflows; expected less") from None


def cosine(at: Position) -> float:
    """Half a cosine from 1 to 0; 0 is reached after the last step (Loshchilov and Hutter 2017, without restarts)."""
    return 0.5 * (1 + math.cos(math.pi * at.step / at.steps))


def one_cycle(at: Position) -> float:
    """Half a cosine from 1/25 to 1 at 30 % of the run, then another one to 1/250,000 (Smith and Topin 2018)."""
    top = 0.3 * at.steps
    if at.step < top:
        start, end, share = 1 / 25, 1.0, at.step / top
    else:
        start, end, share = 1.0, 4e-6, (at.step - top) / max(1.0, at.steps - 1 - top)
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))


def inverse_scaling(at: Position, *, power_t: float) -> float:
    """1 / (t + 1)^power_t, where t counts the samples of all earlier epochs, as scikit-learn's "invscaling"."""
    return float((at.samples + 1) ** -power_t)


def adaptive(at: Position) -> float:
    """Divided by 5 whenever `n_iter_no_change` epochs bring no improvement, as scikit-learn's "adaptive"."""
    return float(5.0**-at.drops)


SCHEDULES = {
    "constant": Schedule(constant),
    "step": Schedule(step, ("step_size", "gamma")),
    "cosine": Schedule(cosine, by_step=True),
    "one_cycle": Schedule(one_cycle, by_step=True),
    "inverse_scaling": Schedule(inverse_scaling, ("power_t",)),
    "adaptive": Schedule(adaptive),
}


def warm_up(at: Position, steps: int) -> float:
    """Linear warm-up factor 1/steps, 2/steps, ..., 1, which multiplies any schedule (Goyal et al. 2017)."""
    return min(1.0, (at.step + 1) / steps) if steps else 1.0
