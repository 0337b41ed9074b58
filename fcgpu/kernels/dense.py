"""The tile of samples, and the two faces of a dense layer. Leading axes are free: M stacked models are one call."""

from typing import Any


def load_tile(X: Any, rows: Any, scale: Any, A: Any, *, xp: Any) -> None:
    """Overwrite A (n, width) with X[rows] * scale. X stays as it is stored.

    rows is a slice or (n,) indices, or one of them with a slice of columns behind it.
    """
    A[...] = X[rows]
    if scale != 1:
        A *= scale


def dense_forward(A: Any, W: Any, Z: Any, *, xp: Any) -> None:
    """Overwrite Z (..., n, n_out) with A W, from A (..., n, n_in) and W (..., n_in, n_out)."""
    xp.matmul(A, W, out=Z)


def dense_backward(dZ: Any, A: Any, W: Any, ones: Any, dW: Any, db: Any, dA: Any, *, xp: Any) -> None:
    """Overwrite dW (..., n_in, n_out), db (..., 1, n_out) and, unless None, dA (..., n, n_in), from dZ (..., n, n_out).

    dW = Aᵀ dZ, db = 1ᵀ dZ, dA = dZ Wᵀ. ones is 1ᵀ (1, n): as a product the sum over the samples is three times as fast.
    """
    xp.matmul(xp.swapaxes(A, -1, -2), dZ, out=dW)
    xp.matmul(ones, dZ, out=db)
    if dA is not None:
        xp.matmul(dZ, xp.swapaxes(W, -1, -2), out=dA)
