"""Reorders the data so that products can skip most zeros. The results are exact, up to the order of sums.

Features are sorted by how many samples have them (are not zero there), most first; samples by the rarest feature that
they have, rarest first. The nonzero numbers then lie below a staircase: from its `width` on, a sample and all samples
after it are zero, so the products of a tile need only the first rows of W. The 60,000 digits of MNIST are on average
426 features wide instead of 784; a random batch of 128 is 649 wide, a batch of 10 is 556 wide.
"""

from threading import Lock
from typing import Any

import numpy as np

from fcgpu.params import Spec, in_lines
from fcgpu.train.plan import Plan
from fcgpu.workers import block_of, by_blocks

AT_ONCE = 100  # rows that are gathered at a time, with all features
WIDE = 0.9  # of the features: if a batch is that wide, reordering does not pay
FEW = 32  # with fewer features reordering does not pay
STEP, STEPS = 32, 32  # widths are rounded up to a multiple of STEP, such that there are at most STEPS different ones
EPOCHS = 4  # with fewer epochs reordering does not pay


class Staircase:
    """Row i of the new order is row samples[i] of the old one, and column j is column features[j].

    samples (n,) and features (n_features,) intp; widths (n,) intp: row i is zero from column widths[i] on. If batches
    are drawn, widths fall over all rows; else within each batch, which keeps its place in the data.
    `self[rows, :width]` gathers data in the new order. `copy` makes that fast; the bits are the same.
    """

    def __init__(self, X: Any, samples: Any, features: Any, widths: Any) -> None:
        self.X, self.samples, self.features, self.widths, self.dtype = X, samples, features, widths, X.dtype
        self.places = np.empty_like(samples)  # places[samples[i]] = i
        self.places[samples] = np.arange(len(samples))
        self.nbytes = len(samples) * int(widths.max()) * X.itemsize  # bytes of a copy

    def __getitem__(self, part: tuple[Any, slice]) -> Any:
        rows, columns = self.samples[part[0]], self.features[part[1]]
        made = np.empty((len(rows), len(columns)), self.X.dtype)
        for start in range(0, len(rows), AT_ONCE):
            some = slice(start, start + AT_ONCE)
            np.take(self.X[rows[some]], columns, axis=1, out=made[some], mode="clip")  # unchecked: all indices exist
        return made

    def copy(self, threads: int) -> Any:
        """The data in the new order, without the columns that are zero in every row."""
        width = slice(int(self.widths.max()))
        made = np.empty((len(self.samples), width.stop), self.X.dtype)

        def fill(rows: slice) -> None:
            made[rows] = self[rows, width]

        by_blocks(made.shape, threads, fill)
        return made

    def inside(self, spec: Spec, vectors: Any) -> Any:
        """A copy of parameters, or vectors like them (..., n_params), for features in the new order."""
        made = in_lines(vectors)
        W = spec.layers(made)[0].W
        W[...] = W[..., self.features, :]
        return made

    def outside(self, spec: Spec, vectors: Any) -> Any:
        """The inverse of `inside`: a copy for features in the old order."""
        made = np.array(vectors)
        W = spec.layers(made)[0].W
        W[..., self.features, :] = W.copy()
        return made

    def batches(self, order: Any, size: int) -> Any:
        """Row numbers in the new order of the samples `order` (n,), sorted within each batch of `size`."""
        rows = self.places[order]
        whole = len(rows) // size * size
        rows[:whole].reshape(-1, size).sort(axis=1)
        rows[whole:].sort()
        return rows


def staircase(X: Any, plan: Plan, epochs: int, *, drawn: bool) -> Staircase | None:
    """The Staircase of X (n, n_features) on the host; None if it does not pay.

    drawn : whether batches are drawn from all samples, not taken in the data's order.
    """
    n, n_features = X.shape
    some = X[:: -(-n // block_of(n_features))]
    if epochs < EPOCHS or n_features < FEW or np.count_nonzero(some) > WIDE * some.size:
        return None
    counts, one_at_a_time = np.zeros(n_features, dtype=np.intp), Lock()
    widths = np.empty(n, dtype=np.intp)

    def count(rows: slice) -> None:
        found = np.sum(X[rows] != 0, axis=0, dtype=np.uint16)
        with one_at_a_time:
            counts[...] += found

    def measure(rows: slice) -> None:
        widths[rows] = np.max((X[rows] != 0) * behind, axis=1, initial=1)

    by_blocks(X.shape, plan.threads, count)
    features = np.argsort(-counts, kind="stable")
    behind = np.empty(n_features, dtype=np.min_scalar_type(n_features))  # the width that includes a feature
    behind[features] = np.arange(1, n_features + 1)
    by_blocks(X.shape, plan.threads, measure)
    batch = np.arange(n) // plan.batch if not drawn else np.zeros(n)
    samples = np.lexsort((-widths, batch))
    step = STEP * -(-n_features // (STEP * STEPS))
    widths = np.minimum(-(-widths[samples] // step) * step, n_features)
    if plan.batch == n:
        typical = widths.mean()
    else:  # the widest sample of a batch decides
        typical = widths[n // (plan.batch + 1)] if drawn else widths[:: plan.batch].mean()
    return Staircase(X, samples, features, widths) if typical < WIDE * n_features else None
