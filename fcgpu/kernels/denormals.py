"""Denormals, the numbers nearer to 0 than the least normal one (1.2e-38 in float32): as zeros, while training.

A processor takes up to a hundred times as long to compute with one. Squares of small gradients are full of them, and
so are probabilities of what a network is sure not to see. x86-64 on Linux; on others nothing is done, and little lost.
"""

import ctypes
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager

ZERO = 0x8040  # of MXCSR: results are flushed to zero, operands count as zeros


class _Environment(ctypes.Structure):
    """fenv_t of glibc and musl on x86-64."""

    _fields_ = (("x87", ctypes.c_char * 28), ("mxcsr", ctypes.c_uint32))


_C = ctypes.PyDLL(None) if sys.platform == "linux" and platform.machine() == "x86_64" else None
_get, _set = (getattr(_C, name, None) for name in ("fegetenv", "fesetenv"))


def do_count_as_zero() -> bool:
    """Do denormals count as zeros in this thread?"""
    if _get is None or _set is None:
        return False
    now = _Environment()
    _get(ctypes.byref(now))
    return bool(now.mxcsr & ZERO == ZERO)


def count_as_zero(zero: bool) -> bool:
    """Do denormals count as zeros in this thread from now on? Returns whether they did."""
    before = do_count_as_zero()
    if zero != before and _get is not None and _set is not None:
        now = _Environment()
        _get(ctypes.byref(now))
        now.mxcsr = now.mxcsr | ZERO if zero else now.mxcsr & ~ZERO
        _set(ctypes.byref(now))
    return before


@contextmanager
def as_zeros() -> Iterator[None]:
    """In this thread."""
    before = count_as_zero(True)
    try:
        yield
    finally:
        count_as_zero(before)
