"""The CPU's kernels in C: each makes one pass through memory, where the reference needs several.

`native.c` is compiled when fcgpu is installed, if the machine has a C compiler. A kernel returns False, or None, for
arrays that it does not support, such as ones that are not contiguous; then the NumPy reference is called.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fcgpu.kernels import compiled
from fcgpu.kernels.dense import is_sparse
from fcgpu.kernels.updates import Moments, one_minus_power

ALIKE = (
    *("sigmoid", "logistic", "tanh", "relu", "leaky_relu", "softmax"),
    *("sigmoid_backward", "tanh_backward", "relu_backward", "leaky_relu_backward"),
    "count_correct",
    *(f"{loss}{half}" for loss in ("binary_cross_entropy", "cross_entropy") for half in ("", "_delta")),
)  # same name and arguments in C as in the reference

Kernel = Callable[..., None]


def is_plain(X: Any, dtype: Any) -> bool:
    """Whether X (n, n_features) is an array of this dtype whose rows are contiguous and aligned."""
    return isinstance(X, np.ndarray) and X.dtype == dtype and X.strides[1] == X.itemsize and X.flags.aligned


def plain(array: Any, dtype: Any = None) -> Any:
    """The array contiguous, aligned and in native byte order: its layout must not choose the kernel."""
    with np.errstate(over="ignore"):  # the divergence check finds infinities
        return np.require(array, dtype or array.dtype.newbyteorder("="), ["C", "A"])


def faster(name: str, reference: Kernel) -> Kernel:
    """The compiled variant of a kernel; `reference` itself if there is none."""
    if name not in (*ALIKE, *SPECIAL):
        return reference
    function = SPECIAL.get(name) or getattr(compiled.native, name)

    def kernel(*args: Any, xp: Any, **options: Any) -> None:
        if not function(*args, **options):
            reference(*args, xp=xp, **options)

    return kernel


def load_tile(X: Any, rows: Any, A: Any) -> bool:
    rows, columns = rows if isinstance(rows, tuple) else (rows, slice(None))
    if not isinstance(X, np.ndarray) or columns.start or columns.step:
        return False
    indices = None if isinstance(rows, slice) else rows
    return bool(compiled.native.load_tile(X[rows] if indices is None else X, indices, A))


def _are_bytes(A: Any) -> bool:
    """Whether A is uint8 and has contiguous rows or columns."""
    return A.dtype == np.uint8 and 1 in A.strides


def _multiply_sparse(A: Any, B: Any, C: Any, scale: float, *, across: bool) -> bool:
    return bool(compiled.native.multiply_sparse(A.data, A.indices, A.indptr, B, C, scale, across))


def dense_forward(A: Any, W: Any, Z: Any, scale: float = 1.0) -> bool:
    if is_sparse(A):
        return _multiply_sparse(A, W, Z, scale, across=False)
    if not _are_bytes(A):
        return False
    compiled.native.multiply_bytes(A, W, Z, scale, False, compiled.has_tile_unit())
    return True


def dense_backward(dZ: Any, A: Any, W: Any, ones: Any, dW: Any, db: Any, dA: Any, scale: float = 1.0) -> bool:
    if dA is not None or not (is_sparse(A) or _are_bytes(A)):  # the first layer, that of samples, needs no dA
        return False
    np.matmul(ones, dZ, out=db)
    if is_sparse(A):
        return _multiply_sparse(A, dZ, dW, scale, across=True)
    compiled.native.multiply_bytes(A.mT, dZ, dW, scale, False, compiled.has_tile_unit())
    return True


def adam(w: Any, g: Any, state: Moments, learning_rate: Any, *, beta_1: float, beta_2: float, epsilon: float) -> bool:
    m, v, t = state
    now = t.item() + 1
    eta_t = learning_rate.item() * math.sqrt(one_minus_power(beta_2, now, math)) / one_minus_power(beta_1, now, math)
    done = compiled.native.adam(w, g, m, v, beta_1, beta_2, epsilon, eta_t)
    if done:
        t += 1
    return bool(done)


def adamw(w: Any, g: Any, state: Moments, learning_rate: Any, *, weight_decay: Any, **options: float) -> bool:
    decay = learning_rate * weight_decay * w
    done = adam(w, g, state, learning_rate, **options)
    if done:
        w -= decay
    return done


def add_l2(W: Any, dW: Any, alpha: float, share: Any, penalty: Any) -> bool:
    pull = float(alpha * share)
    squares = compiled.native.add_l2(W, dW, pull)
    if squares is None:
        return False
    penalty += 0.5 * pull * squares
    return True


SPECIAL: dict[str, Callable[..., bool]] = {
    f.__name__: f for f in (load_tile, dense_forward, dense_backward, adam, adamw, add_l2)
}
