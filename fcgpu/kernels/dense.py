"""The tile of samples, and the two faces of a dense layer. Leading axes are free: M stacked models are one call."""

from typing import Any


def load_tile(X: Any, rows: Any, A: Any, *, xp: Any) -> None:
    """Overwrite A (n, width) with X[rows], in A's type. X stays as it is stored.

    rows is a slice or (n,) indices, or one of them with a slice of columns behind it.
    """
    A[...] = X[rows]


def dense_forward(A: Any, W: Any, Z: Any, scale: float = 1.0, *, xp: Any) -> None:
    """Overwrite Z (..., n, n_out) with scale A W, from A (..., n, n_in) and W (..., n_in, n_out).

    The scale of pixels multiplies Z and not A, which is wider.
    """
    xp.matmul(A, W, out=Z)
    if scale != 1:
        Z *= scale


def dense_backward(
    dZ: Any, A: Any, W: Any, ones: Any, dW: Any, db: Any, dA: Any, scale: float = 1.0, *, xp: Any
) -> None:
    """Overwrite db (..., 1, n_out), dW (..., n_in, n_out) and, unless None, dA (..., n, n_in).

    From dZ (..., n, n_out): dW = scale Aᵀ dZ, db = 1ᵀ dZ, dA = scale dZ Wᵀ. A scale multiplies dZ, and leaves it so.
    ones is 1ᵀ (1, n): as a product the sum over the samples is three times as fast.
    """
    xp.matmul(ones, dZ, out=db)
    if scale != 1:
        dZ *= scale
    xp.matmul(A.mT, dZ, out=dW)
    if dA is not None:
        xp.matmul(dZ, W.mT, out=dA)
