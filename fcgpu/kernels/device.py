"""Kernels of a training step as a CUDA graph can hold it: each is one launch, allocates nothing and fetches nothing.

What changes from step to step they read on the device: `at` counts the steps, and says which rows are next, where their
loss is written and which learning rate is due. Sums go block by block into an array of partial sums, which `turn` adds
up in order: no order of threads changes a bit.

A layer is one matrix [W; b] of n_in + 1 rows and n_out columns, and its input has one unit more, which is always 1:
    Z = [A 1] [W; b]   and   [dW; db] = [A 1]ᵀ dZ,
and neither the bias nor its gradient costs a launch. Rows and columns are padded to multiples of 8, and what is padded
is 0 and stays 0: the products find whole vectors of 16 bytes, and so do the kernels here, which take 8 numbers a
thread. Their text is in `kernels/formulas.py`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fcgpu.kernels import updates
from fcgpu.kernels.dropout import threshold
from fcgpu.kernels.formulas import BLOCK, ONE_BLOCK, WIDTH, kernel
from fcgpu.kernels.fused import COUNTED, FUSED


def activate(name: str, A: Any, n: int, *, xp: Any) -> None:
    """Overwrite A (..., rows, width), which holds Z in its first n columns, with [g(Z) 1 0]."""
    kernel(name, xp)(n, A.shape[-1] // WIDTH, A, size=A.size // WIDTH)


def derive(name: str, A: Any, dA: Any, n: int, *, xp: Any) -> None:
    """Overwrite dA (..., rows, width) with [dA g'(Z) 0] of its first n columns, from A = [g(Z) 1 0]."""
    kernel(f"{name}_backward", xp)(A, n, A.shape[-1] // WIDTH, dA, size=A.size // WIDTH)


class Place(NamedTuple):
    """Where a step finds its samples: from row at % steps * batch on of `order`, or of their own where that is None.

    at (1,) int64 counts the steps, of which `steps` make an epoch; order is (n_samples,) int64. Where not all features
    are on the device, their row 0 is row `first`.
    """

    at: Any
    steps: int
    batch: int
    order: Any
    first: int = 0


class Rows(NamedTuple):
    """Samples: X (n, d) as stored or (n, width) as [scale X, one, 0]; y; and, of any size where they do not serve,
    weights (n,) and ids (n,) uint32.
    """

    X: Any
    y: Any
    weights: Any
    ids: Any


def load(
    samples: Rows,
    place: Place,
    start: int,
    scale: float,
    one: float,
    into: Rows,
    weighted: bool,
    named: bool,
    *,
    xp: Any,
) -> None:
    """Fill `into` with the step's samples from its row `start` on; its X is [scale X, one, 0]."""
    X, A = samples.X, into.X
    order = place.at if place.order is None else place.order
    k = samples.y.size // len(samples.y)
    kernel("load", xp)(
        *samples, order, place.at, place.steps, place.batch, start, place.first, X.shape[-1], k, A.shape[-1] // WIDTH,
        scale, one, place.order is not None, weighted, named, *into, size=A.size // WIDTH,
    )  # fmt: skip


def split(M: Any, n: int, scale: float, parts: Any, *, xp: Any) -> None:
    """Overwrite parts (rows, pieces, columns), of a half's type, with numbers whose sum over the pieces is M (rows,
    columns), its first n rows times scale: each piece is what the ones before it leave, rounded.
    """
    kernel("split", xp)(M, M.shape[1], n, scale, parts.shape[1], parts)


def merge(parts: Any, n: int, scale: float, M: Any, *, xp: Any) -> None:
    """Overwrite M (rows, columns) with the sum of parts (rows, pieces, columns) over the pieces; its first n rows times
    scale.
    """
    kernel("merge", xp)(parts, M.shape[1], n, scale, parts.shape[1], M)


def share(weights: Any, place: Place, n: int, tiny: float, share: Any, *, xp: Any) -> None:
    """Overwrite share (1,) with 1 / Σ weights over the n samples of the step; where all are 0 with 0, which makes the
    loss, its penalty and gradient 0.
    """
    kernel("share", xp)(
        weights, place.at if place.order is None else place.order, place.at, place.steps, place.batch, n, tiny,
        place.order is not None, share, size=ONE_BLOCK, block_size=ONE_BLOCK,
    )  # fmt: skip


def loss(
    name: str, rows: Rows, share: Any, n_outputs: int, loss_scale: float, weighted: bool, count: bool, Z: Any, dZ: Any,
    losses: Any, rights: Any, *, xp: Any,
) -> None:  # fmt: skip
    """Overwrite the first n_outputs columns of dZ with (prediction - target) weight loss_scale, from the logits Z
    (..., n, width), which it uses up and which dZ may be; losses and rights with the sums, over each block of rows, of
    weight * loss and, to count, of right answers. weight is share, `weighted` times the sample's own.
    """
    y = rows.y
    kernel(name, xp)(
        y, rows.weights, share, len(y), n_outputs, Z.shape[-1], y.ndim == 2, weighted, count, loss_scale, Z, dZ,
        losses, rights, size=Z.size // Z.shape[-1],
    )  # fmt: skip


def blocks(n: int) -> int:
    """Partial sums of n rows or numbers."""
    return -(-n // BLOCK)


def dropout(A: Any, n: int, keep: Any, key: Any, ids: Any, rate: float, *, xp: Any) -> None:
    """As the reference, of the first n columns of A (rows, width). keep is (rows, n) bool, key (2,), ids (rows,)."""
    kernel("dropout", xp)(key, ids, n, threshold(rate), 1 / (1 - rate), A[:, :n], keep)


def dropout_backward(A: Any, dA: Any, n: int, keep: Any, rate: float, *, xp: Any) -> None:
    """As the reference, of the first n columns of A and dA (rows, width)."""
    kernel("dropout_backward", xp)(keep, 1 - rate, 1 / (1 - rate), A[:, :n], dA[:, :n])


def to_bytes(X: Any, times: int, rounding: float, *, xp: Any) -> tuple[Any, Any]:
    """times X as bytes, and (1,) whether some number is another, by more than so much of it."""
    made, others = xp.empty(X.shape, dtype=np.uint8), xp.zeros((1,), dtype=np.int32)
    kernel("to_bytes", xp)(X, times, rounding, made, others)
    return made, others


class Sums(NamedTuple):
    """Partial sums of a step, each (blocks,) float64: of loss, right answers, penalty, squares of the gradient."""

    losses: Any
    rights: Any
    penalties: Any
    squares: Any


class Tables(NamedTuple):
    """What the host knows ahead: rates (n,), keys (n + 1, 2 layers) uint32 of the steps from first (1,) int64 on."""

    rates: Any
    keys: Any
    first: Any


class Now(NamedTuple):
    """What a step leaves to the next, and to the host."""

    totals: Any  # (3,) float64: loss with penalty, penalty, right answers
    history: Any  # (epochs, 3) float64, their sums by epoch
    at: Any  # (1,) int64, steps done
    t: Any  # (1,) float64, steps done as the optimizer counts them
    rate: Any  # (1,)
    clip: Any  # (1,), what the gradient is to be multiplied by
    key: Any  # (2 layers,) uint32


def turn(
    sums: Sums, tables: Tables, now: Now, used: Sequence[int], steps: int, portion: float, limit: float,
    advance: bool, *, xp: Any,
) -> None:  # fmt: skip
    """Add up the partial sums, of which `used` serve: of losses and rights, of penalties, of squares. To advance, add
    to this epoch's row of the history, set the rate of this step and the keys of the next, and count. An epoch has
    `steps` steps, and this one a `portion` of its samples; limit is the greatest norm of a gradient.
    """
    kernel("turn", xp)(
        *sums, *tables, *used, now.key.size, steps, portion, limit, advance, *now, size=ONE_BLOCK, block_size=ONE_BLOCK
    )


UPDATES = {name: (FUSED | COUNTED)[name] for name in updates.UPDATES}
