"""The data in an order in which most zeros need not be multiplied, exactly: nothing is rounded, nothing is dropped.

Features go by how many samples have them, most first; samples by the rarest feature that they have, rarest first. What
is not zero then lies below a staircase: each sample, and all behind it, are zero from its `width` on, so the products
of a tile of samples take only the first rows of W. The 60,000 digits are on average 415 features wide instead of 784,
a random batch of 128 of them 634, one of 10 542.
"""

from typing import Any

import numpy as np

from fcgpu.params import Spec
from fcgpu.train.plan import Plan
from fcgpu.workers import BLOCK, by_blocks

AT_ONCE = 100  # rows of which all features are copied on the way
WIDE = 0.9  # of the features: what a batch is wide where the order is not worth a copy of the data
FEW = 32  # features, likewise
STEP, STEPS = 32, 32  # widths are multiples of a number, and few of them, as buffers are bound to each
EPOCHS = 4  # as many as pay for the order, and more


class Staircase:
    """Rows i of the new order are rows samples[i] of the old one, columns j are features[j].

    samples (n,) and features (n_features,) intp; widths (n,) intp: from widths[i] on row i is zero. They do not rise
    from row to row: of all samples where batches are drawn, else of each batch, which keeps its place.
    `X[rows, :width]` is the data in the new order. A copy is what makes it fast, but no bit depends on it.
    """

    def __init__(self, X: Any, samples: Any, features: Any, widths: Any) -> None:
        self.X, self.samples, self.features, self.widths, self.dtype = X, samples, features, widths, X.dtype
        self.places = np.empty_like(samples)  # places[samples[i]] = i
        self.places[samples] = np.arange(len(samples))
        self.nbytes = len(samples) * int(widths.max()) * X.itemsize  # of a copy

    def __getitem__(self, part: tuple[Any, slice]) -> Any:
        rows, columns = self.samples[part[0]], self.features[part[1]]
        made = np.empty((len(rows), len(columns)), self.X.dtype)
        for start in range(0, len(rows), AT_ONCE):
            some = slice(start, start + AT_ONCE)
            np.take(self.X[rows[some]], columns, axis=1, out=made[some], mode="clip")  # unchecked: all indices exist
        return made

    def copy(self, threads: int) -> Any:
        """The data in the new order, as far as they are not zero."""
        width = slice(int(self.widths.max()))
        made = np.empty((len(self.samples), width.stop), self.X.dtype)

        def fill(rows: slice) -> None:
            made[rows] = self[rows, width]

        by_blocks(len(made), threads, fill)
        return made

    def inside(self, spec: Spec, vectors: Any) -> Any:
        """Parameters, or vectors like them (..., n_params), for features in the new order: a copy."""
        made = np.array(vectors)
        W = spec.layers(made)[0].W
        W[...] = W[..., self.features, :]
        return made

    def outside(self, spec: Spec, vectors: Any) -> Any:
        """The reverse: a copy."""
        made = np.array(vectors)
        W = spec.layers(made)[0].W
        W[..., self.features, :] = W.copy()
        return made

    def batches(self, order: Any, size: int) -> Any:
        """The samples `order` (n,) of the old order as rows of the new one, rising within each batch."""
        rows = self.places[order]
        whole = len(rows) // size * size
        rows[:whole].reshape(-1, size).sort(axis=1)
        rows[whole:].sort()
        return rows


def staircase(X: Any, plan: Plan, epochs: int, *, drawn: bool) -> Staircase | None:
    """The order for X (n, n_features) on the host, or None where it does not pay: for few epochs, or wide batches."""
    n, n_features = X.shape
    some = X[:: -(-n // BLOCK)]
    if epochs < EPOCHS or n_features < FEW or np.count_nonzero(some) > WIDE * some.size:
        return None
    counts = np.zeros((-(-n // BLOCK), n_features), dtype=np.uint16)
    widths = np.empty(n, dtype=np.intp)

    def count(rows: slice) -> None:
        np.sum(X[rows] != 0, axis=0, dtype=np.uint16, out=counts[rows.start // BLOCK])

    def measure(rows: slice) -> None:
        widths[rows] = np.max((X[rows] != 0) * behind, axis=1, initial=1)

    by_blocks(n, plan.threads, count)
    features = np.argsort(-counts.sum(axis=0, dtype=np.intp), kind="stable")
    behind = np.empty(n_features, dtype=np.min_scalar_type(n_features))  # the width that has a feature
    behind[features] = np.arange(1, n_features + 1)
    by_blocks(n, plan.threads, measure)
    batch = np.arange(n) // plan.batch if not drawn else np.zeros(n)
    samples = np.lexsort((-widths, batch))
    step = STEP * -(-n_features // (STEP * STEPS))
    widths = np.minimum(-(-widths[samples] // step) * step, n_features)
    if plan.batch == n:
        typical = widths.mean()
    else:  # the widest sample of a batch decides
        typical = widths[n // (plan.batch + 1)] if drawn else widths[:: plan.batch].mean()
    return Staircase(X, samples, features, widths) if typical < WIDE * n_features else None
