"""Memory, streams and events of the device double: what CuPy's pool hands out, and in which order copies happen.

`Memory` is the device's memory behind a pool that gives blocks of one size again and again, as CuPy's does. It counts
what the pool had to ask the device for, `allocations`, and can refuse any of them.

The double computes at once; a copy on a stream of its own is put off for as long as the program's events allow, so
that data which nobody waited for are not there. What this cannot show is refused: a copy into a buffer that the
computation may still be reading, and a look at a buffer whose copy was not waited for.
"""

from collections import Counter
from typing import NamedTuple

import numpy as np

UNIT = 512  # bytes that CuPy's pool rounds up to


class OutOfMemoryError(MemoryError):
    """cupy.cuda.memory.OutOfMemoryError."""


class Memory:
    """`total` bytes of device memory. `refused` holds the numbers of the allocations, from 1, that fail."""

    def __init__(self, total):
        self.total, self.limit, self.held, self.peak = total, total, 0, 0
        self.allocations, self.refused = 0, set()
        self.free = Counter()  # blocks by size

    def block(self, nbytes):
        return Block(self, nbytes)

    def take(self, size):
        if self.free[size]:
            self.free[size] -= 1
            return
        self.allocations += 1
        if self.allocations in self.refused:
            raise OutOfMemoryError(f"Out of memory allocating {size:,} bytes (refused by a test).")
        if self.held + size > self.limit:
            self.free_all_blocks()
        if self.held + size > self.limit:
            raise OutOfMemoryError(f"Out of memory allocating {size:,} bytes (allocated so far: {self.held:,} bytes).")
        self.held += size
        self.peak = max(self.peak, self.used_bytes())

    def set_limit(self, size=0):
        self.limit = size or self.total

    def free_bytes(self):
        return sum(size * n for size, n in self.free.items())

    def used_bytes(self):
        return self.held - self.free_bytes()

    def total_bytes(self):
        return self.held

    def free_all_blocks(self):
        self.held -= self.free_bytes()
        self.free.clear()

    def info(self):
        """cudaMemGetInfo: (free, total)."""
        return self.total - self.held, self.total


class Block:
    """Memory of one array and its views; back in the pool when the last of them is gone.

    used : the time of the last launch that touched it. coming : a copy into it that nobody has waited for.
    """

    def __init__(self, memory, nbytes):
        self.memory, self.size, self.used, self.coming = memory, 0, 0, None
        size = -(-nbytes // UNIT) * UNIT
        if size:
            memory.take(size)
        self.size = size  # and is given back

    def __del__(self):
        if self.size:
            self.memory.free[self.size] += 1


class Copy(NamedTuple):
    target: np.ndarray
    source: np.ndarray
    block: Block


class Clock:
    """Launches so far: what an event of the computing stream remembers."""

    now = 0


class Stream:
    """cupy.cuda.Stream with work that is put off; `null`, the computing one, does all at once."""

    def __init__(self, clock, *, null=False):
        self.clock, self.null = clock, null
        self.work = []  # (number, Copy)
        self.given = self.done = 0  # pieces of work
        self.seen = 0  # of the computing stream, by the events waited for

    def wait_event(self, event):
        if event.stream is None:  # never recorded: no wait
            return
        if event.stream.null:
            self.seen = max(self.seen, event.time)
        elif self.null:
            event.stream.run(event.time)

    def record(self, event):
        event.record(self)
        return event

    def copy(self, copy):
        if copy.block.used > self.seen:
            raise AssertionError("a copy into a buffer that the computation may still be reading: wait for its event")
        self.given += 1
        copy.block.coming = copy
        self.work.append((self.given, copy))

    def run(self, until):
        while self.work and self.work[0][0] <= until:
            number, copy = self.work.pop(0)
            copy.target[...] = copy.source
            copy.block.coming, self.done = None, number

    def synchronize(self):
        self.run(self.given)


class Event:
    """cupy.cuda.Event. Its time is a launch of the computing stream, or a piece of another's work."""

    def __init__(self, current, waits):
        self.current, self.waits, self.stream, self.time = current, waits, None, 0

    def record(self, stream=None):
        self.stream = stream or self.current
        self.time = self.stream.clock.now if self.stream.null else self.stream.given

    def synchronize(self):
        if self.stream is not None and not self.stream.null:
            self.waits["events"] += 1
            self.stream.run(self.time)


PINNED = []  # kept, so that no other array ever lies where one was


def pinned(nbytes):
    """cupy.cuda.alloc_pinned_memory: a buffer, which holds anything but zeros."""
    PINNED.append(np.full(nbytes, 0xA5, np.uint8))
    return PINNED[-1].data


def is_pinned(array):
    low, high = np.lib.array_utils.byte_bounds(array)
    bounds = map(np.lib.array_utils.byte_bounds, PINNED)
    return array.flags.c_contiguous and any(start <= low and high <= end for start, end in bounds)
