"""Rounds and ratios. A round calls every peer once; ratios are taken within a round, so that drift cancels."""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

PAUSE = 0.2  # seconds between calls: by then a library's spinning threads sleep (OpenBLAS's spin for 0.13 s)

Times = dict[str, list[float | None]]  # seconds by round; None once a peer is no longer called


def interleave(
    calls: Mapping[str, Callable[[], float | None]],
    rounds: int,
    *,
    limit: float = math.inf,
    pause: float = PAUSE,
    times: Times | None = None,
) -> Times:
    """Run `rounds` rounds of all calls, each of which returns its seconds or None; append to `times` if given.

    Every round starts with the next peer, and there are `pause` seconds between calls. A peer that has used `limit`
    seconds is no longer called; every peer is called at least once.
    """
    names = list(calls)
    times = {name: [] for name in names} if times is None else times
    done = len(times[names[0]]) if names else 0
    for number in range(done, done + rounds if names else done):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            spent = sum(filter(None, times[name]))
            if spent >= limit:
                times[name].append(None)
                continue
            time.sleep(pause)
            times[name].append(calls[name]())
    return times


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """(first quartile, median, third quartile)."""
    if len(values) == 1:
        return (values[0],) * 3
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def ratios(times: Sequence[float | None], others: Sequence[float | None]) -> list[float]:
    """times / others for each round in which both were called."""
    return [a / b for a, b in zip(times, others, strict=True) if a is not None and b is not None]


def measured(times: Sequence[float | None]) -> list[float]:
    return [t for t in times if t is not None]


def best(times: Mapping[str, Sequence[float | None]], without: str = "") -> str | None:
    """The name with the lowest median, ignoring names that start with `without`; None if no name is left."""
    names = [name for name in times if not (without and name.startswith(without))]
    return min(names, key=lambda name: statistics.median(measured(times[name])), default=None)
