"""Recognises features that are pixels, and turns them back into bytes.

Pixels come as whole numbers from 0 to 255 in any dtype, or divided by 255 in float32 or float64. As bytes they take a
quarter or an eighth of the memory traffic, and products of bytes are the fastest. The division by 255 is applied to the
products instead, which gives the same up to rounding.
"""

from mmap import mmap
from typing import Any

import numpy as np

from fcgpu.backend import Backend, choose
from fcgpu.kernels import compiled
from fcgpu.train.converted import Converted
from fcgpu.workers import by_blocks

TIMES = (1, 255)  # factors that may turn features into whole numbers


class Pixels(Converted):
    """As bytes X (n, n_features), whose numbers times `times` are whole ones from 0 to 255, up to rounding."""

    def __init__(self, X: Any, times: int) -> None:
        super().__init__(X, np.uint8)
        self.times = times

    def __getitem__(self, part: Any) -> Any:
        return _to_bytes(self.X[part], self.times)[0]


def pixels_as_bytes(X: Any, backend: Backend, threads: int) -> tuple[Any, int]:
    """(X as a run uses it, the factor that X was multiplied by).

    Pixels of any dtype become bytes: for the CPU a `Pixels`, which the run copies if its budget allows it; for a GPU a
    uint8 array in the memory where X is, host or device, if there is room. Other features are returned unchanged, with
    factor 1.
    """
    if X.dtype.kind not in "iuf" or X.dtype.itemsize < 2:
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


def is_mapped(X: Any) -> bool:
    """Whether X is a NumPy array mapped from a file, which the system can drop from memory and read again."""
    while isinstance(X, np.ndarray):
        X = X.base
    return isinstance(X, mmap)


def _on_disk(X: Any) -> bool:
    return is_mapped(X) and bool(X.nbytes > choose("cpu").memory())


def _on_gpu(X: Any, backend: Backend) -> tuple[Any, int]:
    from fcgpu.kernels import device  # late: `import fcgpu` does not need it

    for times in _times(X):
        for rows in (X[:1], X):  # for most features that are not pixels the first row shows it
            made, others = device.to_bytes(rows, times, _rounding(X.dtype), xp=backend.xp)
            if backend.to_host(others)[0]:
                break
        else:
            return made, times
    return X, 1


def pixels(X: Any, threads: int) -> Pixels | None:
    """X (n, n_features) on the host as `Pixels`; None if it holds other numbers."""
    for times in _times(X):
        if _to_bytes(X[:1], times)[1] and _all_are(X, times, threads):
            return Pixels(X, times)
    return None


def _times(X: Any) -> tuple[int, ...]:
    return TIMES[: 1 if X.dtype.kind in "iu" or X.dtype.itemsize == 2 else None]


def _rounding(dtype: Any) -> float:
    """The relative error of two roundings in this dtype; 0 for float16, where it would be more than one pixel value."""
    return 2 * float(np.finfo(dtype).eps) if dtype.kind == "f" and dtype.itemsize > 2 else 0.0


def _all_are(X: Any, times: int, threads: int) -> bool:
    others: list[slice] = []  # blocks with a number that is no pixel

    def look(rows: slice) -> None:
        if not others and not _to_bytes(X[rows], times)[1]:
            others.append(rows)

    by_blocks(X.shape, threads, look)
    return not others


def _to_bytes(X: Any, times: int) -> tuple[Any, bool]:
    """times X (n, ...) rounded to uint8, and whether all of them equal times X, up to two rounding errors."""
    made = np.empty(X.shape, np.uint8)
    if compiled.native is not None and (good := compiled.native.to_bytes(X, times, made)) is not None:
        return made, good
    with np.errstate(all="ignore"):  # NaN, infinity, and overflow
        exact = X * times
        near = np.rint(exact)
        off = abs(exact - near) > _rounding(X.dtype) * near
        good = not off.any() and near.min(initial=0) >= 0 and near.max(initial=0) <= 255
        np.clip(near, 0, 255, out=near)
        made[...] = near
    return made, bool(good)
