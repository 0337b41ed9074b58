"""The threads of a run: every index is processed once, errors reach the caller, no thread is left."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import threadpoolctl

import fcgpu
from fcgpu.kernels.denormals import are_counted_as_zero
from fcgpu.workers import ONE_BLAS_THREAD, Workers, _blas

LIMITS_BLAS = pytest.mark.skipif(
    not any(library["user_api"] == "blas" for library in threadpoolctl.threadpool_info()),
    reason="threadpoolctl does not know NumPy's BLAS",
)


@pytest.fixture
def before():
    return threading.active_count()


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("n", [1, 2, 7, 5000])
def test_each_index_is_called_once_and_no_thread_is_left(threads, n, before):
    workers, seen = Workers(threads), []
    for _ in range(20):
        workers.run(seen.append, n)
    assert threading.active_count() == before + min(threads, n) - 1
    workers.close()
    assert sorted(seen) == sorted(20 * list(range(n)))
    assert threading.active_count() == before


def test_the_caller_and_a_helper_work_side_by_side(before):
    workers, together = Workers(2), threading.Barrier(2, timeout=60)
    workers.run(lambda i: together.wait(), 2)
    workers.close()
    assert not together.broken


@pytest.mark.parametrize("in_helper", [True, False])
def test_an_error_of_either_thread_reaches_the_caller_and_the_next_run_works(in_helper, before):
    workers, together = Workers(2), threading.Barrier(2, timeout=60)
    caller = threading.current_thread()

    def fail(i):
        together.wait()
        if (threading.current_thread() is not caller) == in_helper:
            raise KeyError("planted")

    with pytest.raises(KeyError, match="planted"):
        workers.run(fail, 2)
    seen = []
    workers.run(seen.append, 2)
    workers.close()
    assert sorted(seen) == [0, 1]
    assert threading.active_count() == before


@pytest.mark.parametrize("in_helper", [True, False])
def test_after_an_error_no_thread_begins_another_call(in_helper, before):
    """Else Ctrl-C in the prediction of many samples would wait until the other threads have predicted them all."""
    workers, together, seen = Workers(2), threading.Barrier(2, timeout=60), []
    caller = threading.current_thread()

    def work(i):
        if i < 2:
            together.wait()
            if (threading.current_thread() is not caller) == in_helper:
                raise KeyError("planted")
        seen.append(i)
        time.sleep(0.001)

    with pytest.raises(KeyError, match="planted"):
        workers.run(work, 2000)
    workers.close()
    assert len(seen) < 1000
    assert threading.active_count() == before


def test_a_run_that_is_left_open_does_not_keep_python_from_ending():
    """Nor does work that begins then: no thread runs any more that could be waited for."""
    program = """
import threading
import fcgpu
import numpy as np
from fcgpu.workers import Workers

class Late:
    def __del__(self, Workers=Workers):
        workers, seen = Workers(2), []
        workers.run(seen.append, 3)
        workers.close()
        print(sorted(seen))

late, X = Late(), np.arange(800_000, dtype=np.float32).reshape(20_000, 40) % 7
events = fcgpu.train((X, np.arange(20_000) % 3), hidden=(32,), output="exp", device="cpu", threads=2)
next(events), next(events)
assert threading.active_count() == 2
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (ended.stdout, ended.stderr, ended.returncode) == ("[0, 1, 2]\n", "", 0)


def test_the_threads_that_can_be_started_do_the_work(before, monkeypatch):
    start, left_to_start = threading.Thread.start, [1]

    def limited(thread):
        if not left_to_start:
            raise RuntimeError("can't start new thread")
        left_to_start.pop()
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    workers, seen = Workers(4), []
    for _ in range(2):
        workers.run(seen.append, 4)
    assert threading.active_count() == before + 1
    workers.close()
    assert sorted(seen) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert threading.active_count() == before


def test_no_thread_is_left_where_an_interrupt_comes_while_one_starts(before, monkeypatch):
    start = threading.Thread.start

    def interrupted(thread):
        start(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    workers = Workers(2)
    with pytest.raises(KeyboardInterrupt):
        workers.run(print, 2)
    workers.close()
    assert left(before) == before


def test_no_thread_is_left_where_an_interrupt_comes_while_one_is_waited_for(before, monkeypatch):
    def interrupted(thread):
        raise KeyboardInterrupt

    workers = Workers(3)
    workers.run(lambda i: None, 3)
    monkeypatch.setattr(threading.Thread, "join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        workers.close()
    assert left(before) == before


def left(before):
    """The number of threads, once it is no more than before, or after a minute."""
    deadline = time.monotonic() + 60
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    return threading.active_count()


def blas_threads():
    """Of the libraries that are limited; SciPy may load one of its own after the first training."""
    return {library.num_threads for library in _blas().lib_controllers if library.user_api == "blas"}


@LIMITS_BLAS
def test_blas_is_on_one_thread_in_a_run_and_then_as_it_was():
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        with Workers(2).quiet():
            assert blas_threads() == {1}
        assert blas_threads() == {2}


@LIMITS_BLAS
def test_blas_stays_on_one_thread_until_the_last_of_several_runs_has_ended():
    """Each run has its own thread; the first to begin is the first to end."""
    inside, first_may_end, first_has_ended, seen = threading.Barrier(3), threading.Event(), threading.Event(), []

    def first():
        with Workers(1).quiet():
            inside.wait()
            first_may_end.wait()
        first_has_ended.set()

    def second():
        with Workers(1).quiet():
            inside.wait()
            first_has_ended.wait()
            seen.append(blas_threads())

    runs = [threading.Thread(target=target) for target in (first, second)]
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        for run in runs:
            run.start()
        inside.wait()
        seen.append(blas_threads())
        first_may_end.set()
        for run in runs:
            run.join()
        assert seen == [{1}, {1}]
        assert blas_threads() == {2}


def test_blas_is_looked_for_once_a_process(monkeypatch):
    with Workers(1).quiet():
        pass
    monkeypatch.setattr(threadpoolctl, "ThreadpoolController", None)
    with Workers(1).quiet():
        pass


def interrupted(n, output):
    """Train, with a KeyboardInterrupt at the nth line, or return, of the files that set BLAS's threads and denormals;
    returns whether it was raised.
    """
    left, files = [n], ("workers.py", "denormals.py", "contextlib.py")

    def trace(frame, event, argument):
        if not frame.f_code.co_filename.endswith(files):
            return None
        if event in ("line", "return"):
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt
        return trace

    data = np.random.default_rng(0).normal(size=(60, 4)), np.arange(60) % 3
    events = fcgpu.train(data, hidden=(3,), output=output, epochs=2, device="cpu", threads=1)
    next(events)
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        for _ in events:
            pass
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
        events.close()
        while ONE_BLAS_THREAD.lock._is_owned():  # only a trace can interrupt the end of a `with`
            ONE_BLAS_THREAD.lock.release()
    return False


@LIMITS_BLAS
@pytest.mark.parametrize("output", ["softmax", "exp"])  # in C, and tile by tile
def test_an_interrupt_at_any_line_leaves_blas_and_denormals_as_they_were(output):
    before, points = blas_threads(), 0
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        while interrupted(points + 1, output):
            points += 1
            assert blas_threads() == {2}, points
            assert not are_counted_as_zero(), points
    assert points > 50
    assert blas_threads() == before


def forked(work):
    """Whether `work`, called in a forked child, returned true there within a minute."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if work() else 3)
        finally:
            os._exit(4)
    deadline = time.monotonic() + 60
    while (ended := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    if ended[0] == 0:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return ended == (child, 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_run_goes_on_in_a_forked_child():
    data = np.random.default_rng(0).integers(0, 256, (20_000, 40), np.uint8), np.arange(20_000) % 3
    events = fcgpu.train(data, hidden=(32,), epochs=4, device="cpu", threads=2, seed=1)
    assert next(events).plan.at_once == 2  # not in C, whose threads end with each call
    next(events)
    assert forked(lambda: list(events)[-1].epochs == 4)
    events.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@LIMITS_BLAS
def test_a_child_forked_while_another_thread_trains_trains_too():
    changing, holds, may_end = threading.Event(), threading.Event(), threading.Event()

    def another():
        with Workers(1).quiet():
            with ONE_BLAS_THREAD.lock:  # held for microseconds in each epoch
                changing.set()
                time.sleep(0.2)
            holds.set()
            may_end.wait()

    def in_child():
        free = blas_threads() == {2}
        with Workers(1).quiet():
            held = blas_threads() == {1}
        return free and held and blas_threads() == {2}

    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        thread = threading.Thread(target=another, daemon=True)
        thread.start()
        changing.wait()
        trained = forked(in_child)
        holds.wait()
        trained_again = forked(in_child)
        assert blas_threads() == {1}
        may_end.set()
        thread.join()
        assert blas_threads() == {2}
    assert trained
    assert trained_again
