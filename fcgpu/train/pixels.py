"""Features that are pixels, as the bytes that they were.

Pictures come as whole numbers from 0 to 255, in any type, or divided by 255, in float32 or float64. As bytes they are a
quarter or an eighth of the memory to go through, and products of bytes are the fastest there are. What divided them
then scales the products instead, which is the same but for rounding.
"""

from typing import Any

import numpy as np

from fcgpu.backend import Backend, choose
from fcgpu.kernels import compiled
from fcgpu.train.plan import is_mapped
from fcgpu.workers import by_blocks

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


def features(X: Any, backend: Backend, threads: int) -> tuple[Any, int]:
    """X (n, n_features) as a run takes it, and what it was multiplied by for that.

    Pixels of any type become bytes: on a CPU `Pixels`, which the run copies if its budget has room; on a GPU an array
    on the side where X lies, if there is room.
    """
    if X.dtype == np.uint8 or X.dtype.kind not in "iuf" or X.dtype.itemsize < 2:
        return X, 1
    if backend.holds(X):
        with backend.current():
            return _on_gpu(X, backend) if backend.memory() > X.size else (X, 1)
    if not isinstance(X, np.ndarray) or (backend.on_gpu and _on_disk(X)):
        return X, 1
    found = pixels(X, threads)
    if found is None:
        return X, 1
    return found.copy(threads) if backend.on_gpu else found, found.times


def _on_disk(X: Any) -> bool:
    return is_mapped(X) and bool(X.nbytes > choose("cpu").memory())


def _on_gpu(X: Any, backend: Backend) -> tuple[Any, int]:
    from fcgpu.kernels import device  # which `import fcgpu` does without

    for times in _times(X):
        for rows in (X[:1], X):  # of most other features the first row is enough
            made, others = device.to_bytes(rows, times, _rounding(X.dtype), xp=backend.xp)
            if backend.to_host(others)[0]:
                break
        else:
            return made, times
    return X, 1


def pixels(X: Any, threads: int) -> Pixels | None:
    """X (n, n_features) on the host as bytes, or None where it has other numbers."""
    for times in _times(X):
        if _to_bytes(X[:1], times)[1] and _all_are(X, times, threads):
            return Pixels(X, times)
    return None


def _times(X: Any) -> tuple[int, ...]:
    return TIMES[: 1 if X.dtype.kind in "iu" or X.dtype.itemsize == 2 else None]


def _rounding(dtype: Any) -> float:
    """Two roundings, of a number of this type; of float16 none, which would reach from one pixel to the next."""
    return 2 * float(np.finfo(dtype).eps) if dtype.kind == "f" and dtype.itemsize > 2 else 0.0


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
    with np.errstate(all="ignore"):  # of numbers that are none, or the greatest
        exact = X * times
        near = np.rint(exact)
        off = abs(exact - near) > _rounding(X.dtype) * near
        good = not off.any() and near.min(initial=0) >= 0 and near.max(initial=0) <= 255
        np.clip(near, 0, 255, out=near)
        made[...] = near
    return made, bool(good)
