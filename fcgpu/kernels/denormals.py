"""Flush denormals, numbers below the least normal one (1.2e-38 in float32), to zero while training.

A processor takes up to a hundred times as long to compute with one. They are common among squares of small gradients,
and among probabilities of classes that a network is sure of. Works on x86-64 Linux and on Windows; elsewhere nothing is
done.
"""

import ctypes
import platform
import sys
from typing import Any

ZERO = 0x8040  # bits of MXCSR: flush denormal results to zero, and take denormal operands as zero
FLUSH, DENORMALS = 1 << 24, 3 << 24  # the same in the control word of Windows, and the bits of that word for denormals


class _Environment(ctypes.Structure):
    """fenv_t of glibc and musl on x86-64."""

    _fields_ = (("x87", ctypes.c_char * 28), ("mxcsr", ctypes.c_uint32))


_C = ctypes.PyDLL(None) if sys.platform == "linux" and platform.machine() == "x86_64" else None
_get, _set = (getattr(_C, name, None) for name in ("fegetenv", "fesetenv"))
_control: Any = ctypes.PyDLL("ucrtbase")._controlfp if sys.platform == "win32" else None  # (new, which bits) -> all


def are_counted_as_zero() -> bool:
    """Whether this thread flushes denormals to zero."""
    if _control is not None:
        return bool(_control(0, 0) & DENORMALS == FLUSH)
    return bool(_now().mxcsr & ZERO == ZERO)


def count_as_zero(zero: bool) -> bool:
    """Set whether this thread flushes denormals to zero; return whether it did before."""
    if _control is not None:
        before = are_counted_as_zero()
        _control(FLUSH if zero else 0, DENORMALS)
        return before
    now = _now()
    before = bool(now.mxcsr & ZERO == ZERO)
    if zero != before and _set is not None:
        now.mxcsr = now.mxcsr | ZERO if zero else now.mxcsr & ~ZERO
        _set(ctypes.byref(now))
    return before


def _now() -> _Environment:
    now = _Environment()
    if _get is not None:
        _get(ctypes.byref(now))
    return now


class AsZeros:
    """A context manager: inside, this thread flushes denormals to zero.

    Not a generator: one that an interrupt has stopped at its begin would end, and restore the setting, at any later
    time.
    """

    def __enter__(self) -> None:
        self._before = count_as_zero(True)

    def __exit__(self, *error: object) -> None:
        count_as_zero(self._before)
