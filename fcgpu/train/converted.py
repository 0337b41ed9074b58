"""Features in another dtype or layout than the steps take."""

from typing import Any

import numpy as np

from fcgpu.kernels.native import plain
from fcgpu.workers import by_blocks


class Converted:
    """X (n, n_features) as a contiguous array of `dtype`: an array, or anything whose rows X[part] are arrays.

    `converted[part]` converts a part. `copy` converts all, which is faster if they are used often; the bits are the
    same.
    """

    def __init__(self, X: Any, dtype: Any) -> None:
        self.X, self.shape, self.dtype = X, X.shape, np.dtype(dtype)
        self.itemsize = self.dtype.itemsize
        self.nbytes = X.shape[0] * X.shape[1] * self.itemsize

    def __getitem__(self, part: Any) -> Any:
        return plain(self.X[part], self.dtype)

    def copy(self, threads: int) -> Any:
        """All of X (n, n_features)."""
        made = np.empty(self.shape, self.dtype)

        def fill(rows: slice) -> None:
            made[rows] = self[rows]

        by_blocks(made.shape, threads, fill)
        return made
