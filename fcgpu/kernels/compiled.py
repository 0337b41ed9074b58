"""native.c as a module, or None: it is compiled when fcgpu is installed, on a machine that has a C compiler."""

from functools import cache
from typing import Any

native: Any
try:
    from fcgpu.kernels import _native as native
except ImportError:
    native = None


@cache
def multiplies_bytes() -> bool:
    """Has this processor a unit for products of bytes and floats, so that pixels need not become floats?"""
    return native is not None and bool(native.has_tiles())


def in_words() -> str:
    """What the CPU's kernels are here."""
    if native is None:
        return "NumPy's; with a C compiler where fcgpu is installed they are faster"
    return f"compiled C{', products of bytes on the tile unit (AMX)' if multiplies_bytes() else ''}"
