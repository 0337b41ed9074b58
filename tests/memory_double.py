"""The device double's memory: addresses, and a pool that can run out."""

import weakref
from collections import Counter

import numpy as np

UNIT = 512  # bytes that CuPy's pool rounds up to


class OutOfMemoryError(MemoryError):
    """cupy.cuda.memory.OutOfMemoryError."""


def owner_of(host):
    """The array that owns a view's memory."""
    while host.base is not None:
        host = host.base
    return host


class Memory:
    """`total` bytes of a device: (weak reference, address, bytes) of each array that owns some, and a pool like CuPy's,
    which reuses freed blocks of the same size.

    `allocations` counts the pool's requests to the device; those whose numbers, from 1, are in `refused` fail.
    """

    def __init__(self, total):
        self._owners = {}
        self.total, self.limit, self.held = total, total, 0
        self.allocations, self.refused = 0, set()
        self._free = Counter()  # blocks by size

    def add(self, host):
        """Raises OutOfMemoryError."""
        owner = owner_of(host)
        size = -(-owner.nbytes // UNIT) * UNIT
        self._take(size)

        key = id(owner)

        def gone(_):
            del self._owners[key]
            self._free[size] += 1

        self._owners[key] = weakref.ref(owner, gone), owner.ctypes.data, owner.nbytes

    def _take(self, size):
        if self._free[size] or not size:
            self._free[size] -= 1
            return
        self.allocations += 1
        if self.allocations in self.refused:
            raise OutOfMemoryError(f"Out of memory allocating {size:,} bytes (refused by a test).")
        if self.held + size > self.limit:
            self.free_all_blocks()
        if self.held + size > self.limit:
            raise OutOfMemoryError(f"Out of memory allocating {size:,} bytes (allocated so far: {self.held:,} bytes).")
        self.held += size

    def set_limit(self, size=0):
        self.limit = size or self.total

    def free_bytes(self):
        return sum(size * n for size, n in self._free.items())

    def used_bytes(self):
        return self.held - self.free_bytes()

    def total_bytes(self):
        return self.held

    def free_all_blocks(self):
        self.held -= self.free_bytes()
        self._free.clear()

    def info(self):
        """cudaMemGetInfo: (free, total)."""
        return self.total - self.held, self.total

    def holds(self, host):
        return id(owner_of(host)) in self._owners

    def view(self, address, shape, strides, dtype):
        """The memory at an address; IndexError if it is not completely inside one allocation."""
        end = address + dtype.itemsize + sum(max(0, n - 1) * s for n, s in zip(shape, strides, strict=True))
        for reference, first, size in list(self._owners.values()):
            if first <= address < first + size and (owner := reference()) is not None:
                if end > first + size:
                    raise IndexError(f"cuBLAS is sent {end - first - size} bytes beyond the end of an array")
                flat = owner.ravel("K").view(np.uint8)  # a view, also of an array in Fortran order
                return np.ndarray(shape, dtype, flat, address - first, strides)
        raise IndexError("cuBLAS is sent to an address that is not the device's")

    def borrowed(self, host):
        """A function that returns the same view again as long as its memory exists."""
        if not (isinstance(host, np.ndarray) and self.holds(host)):
            return lambda: host
        owner = owner_of(host)
        reference, offset = weakref.ref(owner), host.ctypes.data - owner.ctypes.data
        shape, strides, dtype = host.shape, host.strides, host.dtype

        def again():
            if (there := reference()) is None:
                raise RuntimeError("a graph uses memory that was freed")
            return np.ndarray(shape, dtype, there.ravel("K").view(np.uint8), offset, strides)

        return again
