"""The number of threads of the steps in C: the fastest is found, and found again when another one is."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from fcgpu.train import pace as module
from fcgpu.train.pace import EVERY, SLICE, SOON, TRIAL, Pace


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(module, "perf_counter", lambda: now.seconds)

    def steps(pace, seconds, made=1):
        now.seconds += seconds * made
        pace.made(made)
        now.seconds += 60.0  # between calls; nothing depends on it

    def begun(threads):
        pace = Pace(threads)
        assert pace.next() == (threads, TRIAL)
        steps(pace, 1e-9)  # the first call is not counted
        return pace

    now.steps, now.begun = steps, begun
    return now


@pytest.mark.parametrize("seconds", [1e-9, 1.0])
def test_the_first_call_which_waits_for_memory_is_not_counted(clock, seconds):
    pace = Pace(2)
    for took in (seconds, 0.001):
        assert pace.next() == (2, TRIAL)
        clock.steps(pace, took)
    assert pace.next() == (1, TRIAL)
    clock.steps(pace, 0.002)
    assert pace.next() == (2, SLICE)


def test_all_threads_and_one_are_tried_and_the_faster_is_used(clock):
    for team, alone in ((0.001, 0.002), (0.002, 0.001)):
        pace = clock.begun(2)
        assert pace.next() == (2, TRIAL)
        clock.steps(pace, team)
        assert pace.next() == (1, TRIAL)
        clock.steps(pace, alone)
        for _ in range(3):
            assert pace.next() == (2 if team < alone else 1, SLICE)
            clock.steps(pace, min(team, alone))


def test_now_and_then_the_other_is_tried_again(clock):
    pace = clock.begun(2)
    for seconds in (0.001, 0.002):
        pace.next()
        clock.steps(pace, seconds)
    pace.next()
    clock.steps(pace, 1.01 * EVERY)  # held up, once
    assert pace.next() == (1, TRIAL)
    clock.steps(pace, 0.0005)
    assert pace.next() == (1, SLICE)


def test_if_one_is_faster_all_are_tried_soon_and_then_ever_less_often(clock):
    pace, spent, tried = clock.begun(2), 0.0, []
    while spent < 5 * EVERY:
        threads, _longest = pace.next()
        if threads == 2:
            tried.append(spent)
        seconds = 0.002 if threads == 2 else 0.001
        clock.steps(pace, seconds)
        spent += seconds
    waits = np.diff(tried)
    np.testing.assert_allclose(waits[:4], SOON * 1.5 ** np.arange(4), atol=0.005)
    np.testing.assert_allclose(waits[8:], EVERY, atol=0.005)
    assert len(waits) >= 10


def test_long_steps_are_tried_later_and_less_often(clock):
    pace = clock.begun(4)
    assert pace.next() == (4, TRIAL)
    clock.steps(pace, 5 * SLICE)
    assert pace.next() == (4, SLICE)  # not two, of which nothing is known, and which may take 10 SLICE
    clock.steps(pace, 5 * SLICE, 7 * EVERY / (5 * SLICE))
    assert pace.next() == (4, SLICE)
    clock.steps(pace, 5 * SLICE, 3 * EVERY / (5 * SLICE))
    assert pace.next() == (2, TRIAL)
    clock.steps(pace, 4 * SLICE)
    assert pace.next() == (2, SLICE)


@pytest.mark.parametrize("fastest", [1, 2, 3, 6, 12])
def test_the_fastest_of_half_as_many_and_half_again_is_found_and_followed(fastest, clock):
    """Also if it is another one later."""
    pace = clock.begun(12)

    def used(fastest, seconds):
        found, spent = [], 0.0
        while spent < seconds:
            threads, longest = pace.next()
            found.append((threads, longest))
            step = 0.001 * (1 + abs(math.log2(threads / fastest)))
            clock.steps(pace, step, longest / step)
            spent += longest
        return found

    assert [threads for threads, _ in used(fastest, 0.015)] == [12, 6, 3, 1, fastest if fastest != 2 else 3]
    for now in (fastest, 1, 12):
        *_, (threads, _) = [each for each in used(now, 12.0) if each[1] == SLICE]
        assert threads == (now if now != 2 else 3)


def test_one_thread_is_never_two(clock):
    pace = Pace(1)
    for _ in range(3):
        assert pace.next()[0] == 1
        clock.steps(pace, 2 * EVERY)
