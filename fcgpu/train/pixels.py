"""Features that are pixels, as the bytes that they were.

Pictures come as whole numbers from 0 to 255, or divided by 255, in any type. As bytes they are a quarter or an eighth
of the memory to go through, and products of bytes are the fastest there are. What divided them then scales the products
instead, which is the same but for rounding.
"""

from typing import Any

import numpy as np

from fcgpu.backend import by_blocks
from fcgpu.kernels import compiled

TIMES = (1, 255)  # what makes whole numbers of pixels


class Pixels:
    """X (n, n_features), of which `times` each number is a whole one from 0 to 255, but for rounding.

    `pixels[part]` are such bytes. A copy of all of them is what makes it fast, but no bit depends on it.
    """

    dtype = np.dtype(np.uint8)

    def __init__(self, X: Any, times: int) -> None:
        self.X, self.times, self.shape, self.itemsize, self.nbytes = X, times, X.shape, 1, X.size

    def __getitem__(self, part: Any) -> Any:
        return _to_bytes(self.X[part], self.times)[0]

    def copy(self, threads: int) -> Any:
        """All of the bytes (n, n_features)."""
        made = np.empty(self.shape, np.uint8)

        def fill(rows: slice) -> None:
            made[rows] = self[rows]

        by_blocks(len(made), threads, fill)
        return made


def pixels(X: Any, threads: int) -> Pixels | None:
    """X (n, n_features) on the host as bytes, or None where it has other numbers, or is bytes already."""
    if X.dtype == np.uint8 or X.dtype.kind not in "iuf" or X.dtype.itemsize < 2:
        return None
    for times in TIMES[: 1 if X.dtype.kind in "iu" else None]:
        if _to_bytes(X[:1], times)[1] and _all_are(X, times, threads):
            return Pixels(X, times)
    return None


def _all_are(X: Any, times: int, threads: int) -> bool:
    others: list[slice] = []  # blocks that have another number

    def look(rows: slice) -> None:
        if not others and not _to_bytes(X[rows], times)[1]:
            others.append(rows)

    by_blocks(len(X), threads, look)
    return not others


def _to_bytes(X: Any, times: int) -> tuple[Any, bool]:
    """The bytes nearest to times X (n, ...), and whether each of them is that number but for two roundings."""
    made = np.empty(X.shape, np.uint8)
    if compiled.native is not None and (good := compiled.native.to_bytes(X, times, made)) is not None:
        return made, good
    exact = X * times
    near = np.rint(exact)
    rounding = 2 * np.finfo(X.dtype).eps if X.dtype.kind == "f" else 0
    with np.errstate(invalid="ignore"):  # of infinities
        good = bool((abs(exact - near) <= rounding * near).all() and near.max(initial=0) <= 255)
    np.clip(near, 0, 255, out=near)
    made[...] = near
    return made, good
