"""The threads of a run: every index once, errors to the caller, none left."""

import threading

import pytest
import threadpoolctl

from fcgpu.workers import Workers


@pytest.fixture
def before():
    return threading.active_count()


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("n", [1, 2, 7])
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


def blas_threads():
    return {library["num_threads"] for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"}


def test_blas_is_on_one_thread_in_a_run_and_then_as_it_was():
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        with Workers(2).quiet():
            assert blas_threads() == {1}
        assert blas_threads() == {2}


def test_blas_stays_on_one_thread_until_the_last_of_several_runs_has_ended():
    """Each in a thread of its own; the first to begin is the first to end."""
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
