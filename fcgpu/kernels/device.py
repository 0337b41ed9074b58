"""Kernels of a training step that a CUDA graph can record: each is one launch, allocates nothing, copies nothing to the
host.

What changes from step to step is read on the device: `at` counts the steps and determines which rows are next, which
learning rate applies, and which row of the history gets the loss. Sums go block by block into an array of partial sums,
which `end_step` adds up in a fixed order, so the order of threads changes no bit.

A layer is one matrix [W; b] of n_in + 1 rows and n_out columns, and its input has one more unit, which is always 1:
    Z = [A 1] [W; b]   and   [dW; db] = [A 1]ᵀ dZ,
so neither the bias nor its gradient costs a launch. Rows and columns are padded with zeros to multiples of 8, and the
padding stays 0: the products work on aligned vectors of 16 bytes, and so do these kernels, with 8 numbers per thread.
Their text is in `kernels/formulas.py`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fcgpu.kernels.dropout import threshold
from fcgpu.kernels.formulas import BLOCK, ONE_BLOCK, WIDTH, kernel


def activate(name: str, A: Any, n: int, *, xp: Any) -> None:
    """Overwrite A (..., rows, width), which holds Z in its first n columns, with [g(Z) 1 0]."""
    kernel(name, xp)(n, A.shape[-1] // WIDTH, A, size=A.size // WIDTH)


def derive(name: str, A: Any, dA: Any, n: int, *, xp: Any) -> None:
    """Overwrite the first n columns of dA (..., rows, width) with dA g'(Z), the others with 0, from A = [g(Z) 1 0]."""
    kernel(f"{name}_backward", xp)(A, n, A.shape[-1] // WIDTH, dA, size=A.size // WIDTH)


class Place(NamedTuple):
    """Where a step finds its samples: rows order[i], for i from at % steps * batch on; without an order, rows i.

    at (1,) int64 counts the steps; an epoch has `steps`. order is (n_samples,) int64 or None. If only a chunk of the
    features is on the device, its row 0 is row `first` of the data.
    """

    at: Any
    steps: int
    batch: int
    order: Any
    first: int = 0


class Rows(NamedTuple):
    """Samples: X (n, d) as stored, or (n, width) as [scale X, one, 0]; y; weights (n,); ids (n,) uint32.

    weights and ids may be of any size if they are not used.
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
    with_ids: bool,
    *,
    xp: Any,
) -> None:
    """Fill `into` with the samples of the step from its row `start` on; into.X becomes [scale X, one, 0].

    weighted, with_ids : whether weights and ids are used.
    """
    X, A = samples.X, into.X
    order = place.at if place.order is None else place.order
    k = samples.y.size // len(samples.y)
    kernel("load", xp)(
        *samples, order, place.at, place.steps, place.batch, start, place.first, X.shape[-1], k, A.shape[-1] // WIDTH,
        scale, one, place.order is not None, weighted, with_ids, *into, size=A.size // WIDTH,
    )  # fmt: skip


def split(M: Any, n: int, scale: float, parts: Any, *, xp: Any) -> None:
    """Overwrite parts (rows, pieces, columns), of a 16-bit dtype, with pieces whose sum is M (rows, columns), where the
    first n rows of M are multiplied by scale. Each piece is the rounded remainder of those before it.
    """
    kernel("split", xp)(M, M.shape[1], n, scale, parts.shape[1], parts)


def merge(parts: Any, n: int, scale: float, M: Any, *, xp: Any) -> None:
    """Overwrite M (rows, columns) with the sum of parts (rows, pieces, columns) over the pieces, the first n rows
    multiplied by scale.
    """
    kernel("merge", xp)(parts, M.shape[1], n, scale, parts.shape[1], M)


def share(weights: Any, place: Place, n: int, tiny: float, share: Any, *, xp: Any) -> None:
    """Overwrite share (1,) with 1 / Σ weights over the n samples of the step; with 0 if all weights are 0, which makes
    the loss, the penalty and the gradient 0.
    """
    kernel("share", xp)(
        weights, place.at if place.order is None else place.order, place.at, place.steps, place.batch, n, tiny,
        place.order is not None, share, size=ONE_BLOCK, block_size=ONE_BLOCK,
    )  # fmt: skip


def cast(w: Any, rounded: Any, *, xp: Any) -> None:
    """Overwrite `rounded`, of a 16-bit dtype, with w, each number rounded to the nearest."""
    kernel("cast", xp)(w, rounded)


def add_l2(w: Any, g: Any, alpha: Any, share: Any, penalties: Any, *, xp: Any) -> None:
    """g ← g + α w share, for flat vectors; alpha is one, too, and 0 for biases. Overwrite penalties (blocks,) with
    partial sums of ½ α w² share.
    """
    kernel("add_l2", xp)(w, alpha, share, g, penalties)


def squares(g: Any, squares: Any, *, xp: Any) -> None:
    """Overwrite squares (blocks,) with partial sums of g²."""
    kernel("squares", xp)(g, squares)


def clip(g: Any, factor: Any, *, xp: Any) -> None:
    """g ← g · factor, which is (1,)."""
    kernel("clip", xp)(factor, g)


def loss(
    name: str, rows: Rows, share: Any, n_outputs: int, loss_scale: float, weighted: bool, count: bool, Z: Any, dZ: Any,
    losses: Any, rights: Any, *, xp: Any,
) -> None:  # fmt: skip
    """Overwrite the first n_outputs columns of dZ with (prediction - target) weight loss_scale, from the logits Z
    (n, width); losses (blocks,) with sums of weight * loss over each block of rows; and rights (blocks,) with the
    correct predictions of each block, if `count`. Z is overwritten as scratch, and may be dZ. weight is share, times
    the sample's weight if `weighted`.
    """
    y = rows.y
    kernel(name, xp)(
        y, rows.weights, share, n_outputs, Z.shape[-1], y.ndim == 2, weighted, count, loss_scale, Z, dZ,
        losses, rights, size=len(Z),
    )  # fmt: skip


def blocks(n: int) -> int:
    """Number of partial sums for n rows or numbers."""
    return -(-n // BLOCK)


def dropout(A: Any, n: int, keep: Any, key: Any, ids: Any, rate: float, *, xp: Any) -> None:
    """The reference's dropout, for the first n columns of A (rows, width); keep is (rows, n), key (2,), ids (rows,)."""
    kernel("dropout", xp)(key, ids, n, threshold(rate), 1 / (1 - rate), A[:, :n], keep)


def dropout_backward(A: Any, dA: Any, n: int, keep: Any, rate: float, *, xp: Any) -> None:
    """The reference's dropout_backward, for the first n columns of A and dA (rows, width)."""
    kernel("dropout_backward", xp)(keep, 1 - rate, 1 / (1 - rate), A[:, :n], dA[:, :n])


def to_bytes(X: Any, times: int, rounding: float, *, xp: Any) -> tuple[Any, Any]:
    """times X rounded to uint8, and (1,) int32: 1 if some number is not a whole one from 0 to 255, up to a relative
    error of `rounding`. Both are new: this is for data, before the first step.
    """
    made, others = xp.empty(X.shape, dtype=np.uint8), xp.zeros((1,), dtype=np.int32)
    kernel("to_bytes", xp)(X, times, rounding, made, others)
    return made, others


class Sums(NamedTuple):
    """Partial sums of a step, each (blocks,) float64: loss, correct predictions, penalty, squares of the gradient."""

    losses: Any
    rights: Any
    penalties: Any
    squares: Any


class Tables(NamedTuple):
    """What the host computes ahead for the steps from first (1,) int64 on: learning rates (n,), and dropout's keys
    (n + 1, 2 layers) uint32.
    """

    rates: Any
    keys: Any
    first: Any


class Now(NamedTuple):
    """What a step leaves for the next one and for the host."""

    totals: Any  # (3,) float64: loss with penalty, penalty, correct predictions
    history: Any  # (epochs, 3) float64: their sums over each epoch
    at: Any  # (1,) int64, steps done
    t: Any  # (1,) float64, steps done as the optimizer counts them
    rate: Any  # (1,), the learning rate
    clip: Any  # (1,), factor that clips the gradient
    key: Any  # (2 layers,) uint32, dropout's


def end_step(
    sums: Sums, tables: Tables, now: Now, used: Sequence[int], steps: int, portion: float, limit: float,
    advance: bool, *, xp: Any,
) -> None:  # fmt: skip
    """Add up the partial sums into now.totals, and set now.clip.

    used : how many partial sums count, of losses and rights, of penalties, and of squares.
    If `advance`, also add the totals to this epoch's row of the history, set the learning rate of this step and the
    keys of the next, and count the step. An epoch has `steps` steps; this one has the fraction `portion` of the epoch's
    samples. limit : largest norm of the gradient.
    """
    kernel("end_step", xp)(
        *sums, *tables, *used, now.key.size, steps, portion, limit, advance, *now, size=ONE_BLOCK, block_size=ONE_BLOCK
    )
