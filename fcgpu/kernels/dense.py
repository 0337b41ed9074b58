"""Loading a tile of samples, and a dense layer forward and backward. A leading axis stacks several models in a call."""

from typing import Any


def load_tile(X: Any, rows: Any, A: Any, *, xp: Any) -> None:
    """Overwrite A (n, width) with X[rows], converted to A's dtype.

    rows is a slice or (n,) indices, or a tuple of one of these and a slice of columns.
    """
    A[...] = X[rows]


def is_sparse(A: Any) -> bool:
    """Whether A is a sparse matrix, whose products skip the numbers that are 0."""
    return hasattr(A, "tocsr")


def dense_forward(A: Any, W: Any, Z: Any, scale: float = 1.0, *, xp: Any) -> None:
    """Overwrite Z (..., n, n_out) with scale A W, from A (..., n, n_in) and W (..., n_in, n_out).

    A may also be a sparse matrix of SciPy's. The scale, such as 1/255 for pixels, is applied to Z, which has fewer
    columns than A.
    """
    if is_sparse(A):
        Z[...] = A @ W
    else:
        xp.matmul(A, W, out=Z)
    if scale != 1:
        Z *= scale


def dense_backward(
    dZ: Any, A: Any, W: Any, ones: Any, dW: Any, db: Any, dA: Any, scale: float = 1.0, *, xp: Any
) -> None:
    """Overwrite db (..., 1, n_out), dW (..., n_in, n_out) and, unless None, dA (..., n, n_in).

    From dZ (..., n, n_out): dW = scale Aᵀ dZ, db = 1ᵀ dZ, dA = scale dZ Wᵀ. If scale is not 1, dZ is left scaled by it.
    A may be sparse, as in `dense_forward`. ones is 1ᵀ (1, n): as a matrix product the sum over 1,024 samples is three
    times as fast on an EPYC.
    """
    xp.matmul(ones, dZ, out=db)
    if scale != 1:
        dZ *= scale
    if is_sparse(A):
        dW[...] = A.T @ dZ
    else:
        xp.matmul(A.mT, dZ, out=dW)
    if dA is not None:
        xp.matmul(dZ, W.mT, out=dA)
