"""Shared by the tests of the C: arrays that end at the end of accessible memory, and small pictures."""

import ctypes
import mmap

import numpy as np

import fcgpu


def at_the_end(array):
    """A copy that ends at an inaccessible page: reading or writing behind it kills the process."""
    pages = mmap.mmap(-1, (array.nbytes // mmap.PAGESIZE + 2) * mmap.PAGESIZE)
    behind = ctypes.addressof(ctypes.c_char.from_buffer(pages)) + len(pages) - mmap.PAGESIZE
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(behind), mmap.PAGESIZE, 0) == 0
    made = np.frombuffer(pages, array.dtype, array.size, len(pages) - mmap.PAGESIZE - array.nbytes)
    made.reshape(array.shape)[...] = array
    return made.reshape(array.shape)


def digits(n):
    """50 pixels a sample that are mostly 0, and classes that depend on them."""
    random = np.random.default_rng(0)
    X, y = random.integers(0, 256, (n, 50), dtype=np.uint8), random.integers(0, 4, n)
    X[random.random(X.shape) < 0.6] = 0
    X[np.arange(n), y] = 255
    return fcgpu.dataset(X, y, scale=1 / 255)
