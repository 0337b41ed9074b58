"""How many threads take the steps in C: measured while they train, because other programs come and go."""

from collections import deque
from time import perf_counter

SLICE, TRIAL = 0.05, 0.003  # seconds of a call; of one that tries another number of threads
LONG = 0.005  # seconds of a step from which fewer threads are not tried at once
SOON, EVERY = 0.05, 1.0  # seconds of steps between such trials; if fewer seem faster, first SOON, then ever longer


class Pace:
    """How many threads are fastest: all, half of them, a quarter, ..., or one. No bit of the result depends on it.

    All often are not where another program runs on one of the processors, where these share no cache, or where two of
    them share a core.
    """

    def __init__(self, threads: int) -> None:
        self._sizes = [threads]
        while self._sizes[-1] > 1:
            self._sizes.append(self._sizes[-1] // 2)
        self._took = {n: deque([0.0], maxlen=2) for n in self._sizes}  # seconds of a step, when last tried
        self._tried = dict.fromkeys(self._sizes, 0)  # the number of the trial in which it was tried last
        self._now, self._all, self._soon, self._warm = threads, threads, SOON, False
        self._spent = self._looked = self._began = 0.0  # seconds of all steps, now and when a trial began; the clock

    def next(self) -> tuple[int, float]:
        """How many threads to use next, and for how long."""
        seconds = {n: min(took) for n, took in self._took.items()}  # the better of two: one may have been held up
        if (step := seconds[self._all]) > LONG:  # until they are tried, fewer threads are taken as slower in proportion
            seconds = {n: took or step * self._all / n for n, took in seconds.items()}
        best = min(seconds, key=lambda n: (seconds[n], -n))
        at = self._sizes.index(best)
        near = self._sizes[max(0, at - 1) : at] + self._sizes[at + 1 : at + 2]  # twice as many, and half
        # What keeps the others from their work is often gone soon, such as BLAS's threads, which spin after a product.
        wait = EVERY if best == self._all else self._soon
        # A trial takes a step at least: where that is long they are rarer, and take a twentieth of the time at most.
        trial = any(self._spent - self._looked > wait * max(1, seconds[n] / SLICE) for n in near)
        if trial:
            best = min(near, key=self._tried.__getitem__)
            self._tried[best] = max(self._tried.values()) + 1
            self._looked, self._soon = self._spent, min(EVERY, 1.5 * self._soon)
        self._now, self._began = best, perf_counter()
        return best, TRIAL if trial or not seconds[best] else SLICE

    def made(self, steps: int) -> None:
        """So many steps were made since `next`."""
        if not self._warm:  # the first call, which waits for memory and caches, is not counted
            self._warm = True
            return
        seconds = perf_counter() - self._began
        self._spent += seconds
        took = self._took[self._now]
        if not took[0]:  # it has not been tried before
            took.clear()
        took.append(seconds / steps)
