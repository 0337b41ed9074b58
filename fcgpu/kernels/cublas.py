"""Matrix products on a GPU by cuBLAS, on CuPy arrays, without a copy, an allocation or a synchronisation.

cuBLAS reads matrices in column-major order. A row-major C (m, n) is the same memory as a column-major Cᵀ (n, m), and
    C = op(A) op(B)   is   Cᵀ = op(B)ᵀ op(A)ᵀ,
so B is passed first and A second, each with its own transpose flag, and nothing is transposed.

`through_nvmath` calls cuBLAS through nvmath-python, which works while a CUDA graph is captured; `through_cupy` calls it
through CuPy, which refuses then. Both pass the same arguments to the same function.
"""

import os
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

# cudaDataType of library_types.h; cublasComputeType_t, cublasOperation_t and cublasGemmAlgo_t of cublas_api.h
DATA = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 14}
COMPUTE_32F, COMPUTE_64F, COMPUTE_TF32 = 68, 70, 77
PLAIN, TRANSPOSED = 0, 1
ALGORITHM = -1  # default: cuBLAS chooses by the shapes alone, so the same shapes give the same bits
# Held while a handle begins or ends, when cuBLAS may wait for the whole device, and while a graph is recorded, which
# such a wait makes worthless. A fork waits for it too, or its child would for ever.
ALONE = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=ALONE.acquire, after_in_parent=ALONE.release, after_in_child=ALONE.release)

WORKSPACE = 32 << 20  # bytes, what NVIDIA's manual recommends for Hopper


class Gemm:
    """cuBLAS's C = alpha op(A) op(B) + beta C on arrays of one device; sums are float32, or float64 for float64.

    A and B have the same dtype: float64, float32, float16 or bfloat16. C has it, too, or is float32 if they have 16
    bits. Rows must be contiguous.
    tf32 : round float32 operands to 10 bits of mantissa, so that tensor cores can multiply them.
    """

    def __init__(self, gemm: Callable[..., None], handle: Callable[[], int], *, tf32: bool, keep: Any = None) -> None:
        self._gemm, self.handle, self._keep = gemm, handle, keep
        self._compute = {np.dtype(np.float64): COMPUTE_64F, np.dtype(np.float32): COMPUTE_TF32 if tf32 else COMPUTE_32F}

    def __call__(
        self,
        A: Any,
        B: Any,
        C: Any,
        *,
        transposed_a: bool = False,
        transposed_b: bool = False,
        alpha: float = 1.0,
        beta: float = 0.0,
    ) -> None:
        """Overwrite C. Raises ValueError if shapes or dtypes do not match, or rows are not contiguous."""
        (m, n), k = C.shape, A.shape[0 if transposed_a else 1]
        a, b = (k, m) if transposed_a else (m, k), (n, k) if transposed_b else (k, n)
        if A.shape != a or B.shape != b:
            raise ValueError(f"a product of {A.shape} and {B.shape} does not give {C.shape}")
        if A.dtype != B.dtype or (C.dtype != A.dtype and not (A.dtype.itemsize == 2 and C.dtype == np.float32)):
            raise ValueError(f"a product of {A.dtype} and {B.dtype} does not give {C.dtype}")
        scale = np.float64 if C.dtype == np.float64 else np.float32
        factors = np.array([alpha, beta], dtype=scale)  # cuBLAS reads them during the call
        compute = self._compute.get(A.dtype, COMPUTE_32F)
        shape = (TRANSPOSED if transposed_b else PLAIN, TRANSPOSED if transposed_a else PLAIN, n, m, k)
        matrices = [(*_place(x), _row(x)) for x in (B, A, C)]
        at, beside = factors.ctypes.data, factors.ctypes.data + factors.itemsize
        self._gemm(self.handle(), *shape, at, *matrices[0], *matrices[1], beside, *matrices[2], compute, ALGORITHM)


def through_nvmath(xp: Any, stream: Any, *, tf32: bool = False) -> Gemm:
    """Products on a cuBLAS handle of their own, on `stream` and with a workspace: a call allocates nothing.

    Raises ImportError without nvmath-python, and what nvmath and CuPy raise if cuBLAS does not load or memory is short.
    """
    from nvmath.bindings import cublas

    workspace = xp.empty((WORKSPACE,), dtype=np.uint8)
    with ALONE:
        handle = cublas.create()
    gemm = Gemm(cublas.gemm_ex, lambda: handle, tf32=tf32, keep=(workspace, stream))
    weakref.finalize(gemm, _end, xp.cuda.Device(), cublas.destroy, handle).atexit = False
    cublas.set_stream(handle, stream.ptr)
    cublas.set_workspace(handle, workspace.data.ptr, WORKSPACE)  # last: set_stream resets the workspace
    return gemm


def _end(device: Any, destroy: Callable[[int], None], handle: int) -> None:
    with ALONE, device:  # cuBLAS asks for the device of the handle's beginning
        destroy(handle)


def through_cupy(xp: Any, *, tf32: bool = False) -> Gemm:
    """Products on CuPy's own cuBLAS handle, which uses CuPy's current stream.

    Each thread has a handle of its own and a run may go on in another thread, so each call asks for the handle.
    """
    return Gemm(xp.cuda.cublas.gemmEx, xp.cuda.device.get_cublas_handle, tf32=tf32)


def _place(x: Any) -> tuple[int, int]:
    return x.data.ptr, DATA[x.dtype.name]


def _row(x: Any) -> int:
    """The distance between two rows, in elements. Raises ValueError if rows are not contiguous."""
    if x.strides[-1] != x.itemsize and x.shape[-1] > 1:
        raise ValueError(f"a matrix {x.shape} with strides {x.strides}: its rows do not lie in one piece")
    distance: int = x.strides[-2] // x.itemsize
    return distance if x.shape[-2] > 1 else max(distance, x.shape[-1])
