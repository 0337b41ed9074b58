"""A step along a descent direction that meets the strong Wolfe conditions, by the search of Moré and Thuente (1994).

    loss(α) ≤ loss(0) + c₁ α slope(0)      sufficient decrease
    |slope(α)| ≤ c₂ |slope(0)|             curvature: the line is nearly flat there

This file handles scalars only. The caller owns the vectors: it moves to w + α d and returns the loss and slope there.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

C1, C2 = 1e-3, 0.9  # as in L-BFGS-B (Zhu, Byrd, Lu and Nocedal 1997, section 4); most searches need one trial
GROWTH = 1.1, 4.0  # bounds of an extrapolation, in units of the distance from the best point to the last trial
SHRINKAGE = 0.66  # bisect if the interval is still wider than this fraction of its width two trials before
RETREAT = 0.25  # after a loss or slope that is not finite, the next trial is at this fraction of the distance to it
NARROWEST = 0.1  # relative width of the interval at which to give up: around a kink it could shrink without end


class Point(NamedTuple):
    """A trial: its step α, the loss there, and the derivative of the loss with respect to α."""

    step: float
    loss: float
    slope: float


def strong_wolfe(
    evaluate: Callable[[float], tuple[float, float]], start: Point, step: float, *, max_trials: int, noise: float
) -> Point | None:
    """The first trial that meets both conditions, beginning with `step`.

    Returns None if `max_trials` trials found none, or the bracketing interval has become narrower than NARROWEST.

    evaluate : returns (loss, slope) at a step. If one of them is not finite, all later trials are shorter.
    start : the point at step 0; its slope is negative.
    noise : rounding error of a loss. It is subtracted from the decrease required, which never falls below 0.
    """
    best, other, bracketed = start, start, False  # the ends of the interval; `other` is only valid once bracketed
    width = last_width = wall = math.inf
    for _ in range(max_trials):
        at = Point(step, *evaluate(step))
        if not (math.isfinite(at.loss) and math.isfinite(at.slope)):
            wall, step = step, best.step + RETREAT * (step - best.step)
            continue
        fell = at.loss <= start.loss - max(0.0, -C1 * step * start.slope - noise)
        if fell and abs(at.slope) <= -C2 * start.slope:
            return at
        # Such trials are compared by the loss minus the line of sufficient decrease (their section 3). There is none
        # once one has fallen and has a slope of 0 or more: those that follow are nearer, where the line is higher.
        tilt = C1 * start.slope if not fell and at.loss <= best.loss else 0.0
        nearest, farthest = (at.step + factor * (at.step - best.step) for factor in GROWTH)
        farthest = min(farthest, (at.step + wall) / 2)
        low, end, trial = (Point(p.step, p.loss - tilt * p.step, p.slope - tilt) for p in (best, other, at))
        step, bracketed = _next_step(low, end, trial, bracketed, min(nearest, farthest), farthest)
        if trial.loss > low.loss:
            other = at
        else:
            if trial.slope * low.slope < 0:
                other = best
            best = at
        if bracketed:
            distance = abs(other.step - best.step)
            if distance <= NARROWEST * max(other.step, best.step):
                return None
            inside = min(other.step, best.step) < step < max(other.step, best.step)  # rounding can break this
            if distance >= SHRINKAGE * last_width or not inside:
                step = (best.step + other.step) / 2
            last_width, width = width, distance
    return None


def _next_step(
    best: Point, other: Point, at: Point, bracketed: bool, nearest: float, farthest: float
) -> tuple[float, bool]:
    """(next step, whether a minimum is bracketed): the four cases of section 4 of Moré and Thuente."""
    cubic = _cubic(best, at)
    if at.loss > best.loss:
        rise = (at.loss - best.loss) / (at.step - best.step)
        quadratic = best.step + (at.step - best.step) * best.slope / (best.slope - rise) / 2
        if abs(cubic - best.step) < abs(quadratic - best.step):
            return cubic, True
        return (cubic + quadratic) / 2, True
    flattens = at.slope != best.slope
    secant = at.step + (best.step - at.step) * at.slope / (at.slope - best.slope) if flattens else farthest
    if at.slope * best.slope < 0:
        return (cubic if abs(cubic - at.step) >= abs(secant - at.step) else secant), True
    if abs(at.slope) > abs(best.slope):  # the loss falls more steeply than before
        return (_cubic(other, at) if bracketed else farthest), bracketed
    if (cubic - at.step) * (at.step - best.step) <= 0:  # the cubic has no minimum ahead
        cubic = other.step if bracketed else farthest
    if not bracketed:
        ahead = cubic if abs(cubic - at.step) > abs(secant - at.step) else secant
        return min(max(ahead, nearest), farthest), False
    ahead = cubic if abs(cubic - at.step) < abs(secant - at.step) else secant
    limit = at.step + SHRINKAGE * (other.step - at.step)
    return (min(ahead, limit) if at.step > best.step else max(ahead, limit)), True


def _cubic(a: Point, b: Point) -> float:
    """The minimiser of the cubic that interpolates the losses and slopes of a and b (Nocedal and Wright 2006, 3.59)."""
    d1 = a.slope + b.slope - 3 * (a.loss - b.loss) / (a.step - b.step)
    d2 = math.copysign(math.sqrt(max(0.0, d1 * d1 - a.slope * b.slope)), b.step - a.step)
    curvature = b.slope - a.slope + 2 * d2
    return b.step - (b.step - a.step) * (b.slope + d2 - d1) / curvature if curvature else a.step
