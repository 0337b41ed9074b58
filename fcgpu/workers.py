"""Threads that share the iterations of a loop, and BLAS limited to one thread meanwhile."""

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import cache
from queue import SimpleQueue
from typing import Any

import numpy as np

BLOCK, NUMBERS = 1000, 1 << 22  # most rows of a block, and most numbers in one of several rows


class Workers:
    """Calls f(0), ..., f(n - 1) on up to `threads` threads, of which the calling thread is one.

    The other threads are started by the first call that needs them, sleep between calls, and end with `close`. There
    are fewer where the system refuses to start one, as in a container with a limit of processes. Which thread gets
    which index is not fixed, so f must write only what belongs to its index or its thread.
    Inside `with workers.quiet()` BLAS uses one thread, so each matrix product runs on the thread that calls it: two
    BLAS threads on a small product can be 20 times slower than one, and one gives the same bits on every machine.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._helpers: list[_Helper] = []
        self._process = os.getpid()

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Inside, BLAS uses one thread, and NumPy does not warn of infinities, which the divergence check finds."""
        try:
            ONE_BLAS_THREAD.hold(id(self))
            with np.errstate(all="ignore"):
                yield
        finally:
            ONE_BLAS_THREAD.leave(id(self))

    def run(self, function: Callable[[int], None], n: int) -> None:
        """Call function(0), ..., function(n - 1). Raises what a call raised, after all threads have stopped; no thread
        begins another call then.
        """
        if self._process != os.getpid():  # after a fork the threads are the parent's
            self._process, self._helpers = os.getpid(), []
        needed = 0 if sys.is_finalizing() else min(self.threads, n) - 1  # at its end Python runs no other thread
        # Shared: each thread takes the next index, and at last a None. An iterator of range may give two threads of a
        # free-threaded Python the same index.
        indices = deque([*range(n), *[None] * self.threads])

        def work() -> None:
            try:
                for i in iter(indices.popleft, None):
                    function(i)
            except BaseException:
                indices.extendleft([None] * self.threads)
                raise

        with suppress(RuntimeError):  # "can't start new thread"
            while len(self._helpers) < needed:
                self._helpers.append(_Helper())
        helpers = self._helpers[:needed]
        for helper in helpers:
            helper.jobs.put(work)
        try:
            work()
        finally:
            errors = [helper.ended.get() for helper in helpers]
        for error in filter(None, errors):
            raise error

    def close(self) -> None:
        if sys.is_finalizing():  # Python has stopped the other threads where they were: waiting for one has no end
            return
        ONE_BLAS_THREAD.leave(id(self))
        helpers, self._helpers = self._helpers if self._process == os.getpid() else [], []
        for helper in helpers:
            helper.jobs.put(None)  # tell all before waiting for the first, which an interrupt may end
        for helper in helpers:
            helper.thread.join()


def block_of(width: int) -> int:
    """Rows of `width` numbers in a block: it bounds the temporary memory of a pass over wide data."""
    return max(1, min(BLOCK, NUMBERS // width))


def by_blocks(shape: tuple[int, int], threads: int, function: Callable[[slice], None]) -> None:
    """Call the function with a slice for every block of the rows of an array, on up to `threads` threads."""
    n, rows = shape[0], block_of(shape[1])
    with closing(Workers(threads)) as workers:
        workers.run(lambda i: function(slice(i * rows, min(n, (i + 1) * rows))), -(-n // rows))


@cache
def _blas() -> Any:
    """The BLAS libraries of this process, including NumPy's. Cached: finding them takes as long as 50 small updates."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


class _OneBlasThread:
    """Limits BLAS to one thread while it has a holder; the last holder that leaves restores the number of threads.

    An interrupt may come between any two statements here. Holders call `leave` in any case, which repairs the state.
    A holder that is the only one may lift the limit for a call in which it has the `lock`: nobody begins to hold then.
    """

    def __init__(self) -> None:
        self.lock, self._holders = threading.RLock(), set[int]()
        self._before: list[tuple[Any, int]] = []  # (library, its number of threads before)
        if hasattr(os, "register_at_fork"):  # forks wait for the lock
            acquire, release = self.lock.acquire, self.lock.release
            os.register_at_fork(before=acquire, after_in_parent=release, after_in_child=self._in_child)

    def hold(self, holder: int) -> None:
        with self.lock:
            self._holders.add(holder)
            if not self._before:
                self._before = [(b, b.num_threads) for b in _blas().lib_controllers if b.user_api == "blas"]
                _set_threads([(library, 1) for library, _ in self._before])

    def leave(self, holder: int) -> None:
        with self.lock:
            self._holders.discard(holder)
            if self._before and not self._holders:
                _set_threads(self._before)
                self._before = []

    def is_shared(self) -> bool:
        """Whether there are several holders. Ask it inside `lock`."""
        return len(self._holders) > 1

    def _in_child(self) -> None:
        """Forget all holders: a forked child has only the thread that forked."""
        self._holders.clear()
        self.leave(0)
        self.lock.release()


ONE_BLAS_THREAD = _OneBlasThread()


def _set_threads(wanted: list[tuple[Any, int]]) -> None:
    _be_heard()
    for library, threads in wanted:
        library.set_num_threads(threads)
    _be_heard()


def _be_heard() -> None:
    """Let this thread set limits: since 3.8 threadpoolctl ignores all threads but the first that has set one."""
    import threadpoolctl

    let_go = getattr(getattr(threadpoolctl, "OpenBLASController", None), "clear_controlling_thread", None)
    if let_go is not None:
        let_go(force=True)


class _Helper:
    """A thread that takes jobs from one queue and, after each, puts None or the error that it raised into another."""

    def __init__(self) -> None:
        self.jobs: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self.ended: SimpleQueue[BaseException | None] = SimpleQueue()
        self.thread = threading.Thread(target=self._work, name="fcgpu", daemon=True)
        try:
            self.thread.start()
        except BaseException:  # after an interrupt the thread may run already, so tell it to end
            self.jobs.put(None)
            raise

    def _work(self) -> None:
        np.seterr(all="ignore")
        while job := self.jobs.get():
            error = None
            try:
                job()
            except BaseException as caught:  # the calling thread raises it
                error = caught
            self.ended.put(error)
