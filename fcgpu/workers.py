"""Threads: how many there are, workers that take turns at a loop, and BLAS held to one of them meanwhile."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import cache
from queue import SimpleQueue
from typing import Any

import numpy as np

BLOCK = 1000  # rows of data looked at together


def cpu_count() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers:
    """Calls f(0), ..., f(n - 1) on up to `threads` threads, where each product runs on the thread that asked for it.

    The calling thread is one of them; the others are started by the first call that needs them, sleep between calls,
    and end with `close`. Which thread gets which index is not fixed, so f must write only what belongs to its index or
    its thread. Inside `with workers.quiet()` BLAS is held to one thread, and given back afterwards: two BLAS threads on
    a small product can be 20 times slower than one, and one thread a product gives the same bits on every machine.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._helpers: list[_Helper] = []

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """BLAS on one thread, and no warnings for the infinities that the divergence check will find."""
        with ONE_BLAS_THREAD, np.errstate(all="ignore"):
            yield

    def run(self, function: Callable[[int], None], n: int) -> None:
        """Raises what a call of `function` raised, after all threads have stopped."""
        indices = iter(range(n))  # threads take turns at it
        needed = min(self.threads, n) - 1
        while len(self._helpers) < needed:
            self._helpers.append(_Helper())
        for helper in self._helpers[:needed]:
            helper.jobs.put((function, indices))
        try:
            for i in indices:
                function(i)
        finally:
            errors = [helper.ended.get() for helper in self._helpers[:needed]]
        for error in filter(None, errors):
            raise error

    def close(self) -> None:
        for helper in self._helpers:
            helper.jobs.put(None)
            helper.thread.join()
        self._helpers = []


def by_blocks(n: int, threads: int, function: Callable[[slice], None]) -> None:
    """Calls the function with every BLOCK of n rows, on so many threads."""
    with closing(Workers(threads)) as workers:
        workers.run(lambda i: function(slice(i * BLOCK, min(n, (i + 1) * BLOCK))), -(-n // BLOCK))


@cache
def _blas() -> Any:
    """The BLAS libraries of this process, NumPy's among them. To find them takes as long as some 50 small updates."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


class _OneBlasThread:
    """BLAS on one thread while any thread of ours is inside: who comes first sets it, who leaves last gives it back."""

    def __init__(self) -> None:
        self._lock, self._inside, self._limits = threading.Lock(), 0, None

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                _be_heard()
                self._limits = _blas().limit(limits=1, user_api="blas")
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._limits is not None:
                _be_heard()
                self._limits.restore_original_limits()
                _be_heard()


ONE_BLAS_THREAD = _OneBlasThread()


def _be_heard() -> None:
    """From 3.8 on threadpoolctl heeds the first thread that sets a limit, and no other until that one lets go."""
    import threadpoolctl

    let_go = getattr(getattr(threadpoolctl, "OpenBLASController", None), "clear_controlling_thread", None)
    if let_go is not None:
        let_go(force=True)


class _Helper:
    """A thread that takes jobs from one queue and says in another, by None or an error, that it has done one."""

    def __init__(self) -> None:
        self.jobs: SimpleQueue[tuple[Callable[[int], None], Iterator[int]] | None] = SimpleQueue()
        self.ended: SimpleQueue[BaseException | None] = SimpleQueue()
        self.thread = threading.Thread(target=self._work, name="fcgpu", daemon=True)
        self.thread.start()

    def _work(self) -> None:
        np.seterr(all="ignore")
        while job := self.jobs.get():
            function, indices = job
            error = None
            try:
                for i in indices:
                    function(i)
            except BaseException as caught:  # the thread that asked raises it
                error = caught
            self.ended.put(error)
