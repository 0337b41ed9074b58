"""native.c as a module, or None: it is compiled when fcgpu is installed, if there is a C compiler, not on Windows."""

import sys
from functools import cache
from typing import Any

native: Any
try:
    from fcgpu.kernels import _native as native
except ImportError:
    native = None


@cache
def has_tile_unit() -> bool:
    """Whether native.c uses the processor's tile unit (AMX)."""
    return native is not None and bool(native.has_tiles())


def multiplies_bytes() -> bool:
    """Whether native.c multiplies uint8 by float matrices: on the tile unit, or by skipping zeros."""
    return has_tile_unit() or hasattr(native, "steps")  # it was compiled with vector types, as by GCC and clang


def in_words() -> str:
    """For `fcgpu info`: which kernels the CPU uses."""
    if native is None and sys.platform == "win32":
        return "NumPy's; the faster ones in C are not for Windows"
    if native is None:
        return "NumPy's; with a C compiler where fcgpu is installed they are faster"
    return f"compiled C{', products of bytes on the tile unit (AMX)' if has_tile_unit() else ''}"
