"""Copies from the host to the device that do not wait for the device."""

from typing import Any

import numpy as np


class Upload:
    """An array on the device that the host overwrites repeatedly, from pinned memory, in the current stream.

    Two pinned buffers take turns, so the host waits only if the copy before the last is not done yet.
    """

    def __init__(self, xp: Any, shape: tuple[int, ...], dtype: Any) -> None:
        self.array = xp.zeros(shape, dtype=dtype)
        self._free = [(pinned(xp, shape, dtype), xp.cuda.Event(disable_timing=True)) for _ in range(2)]

    def send(self, values: Any) -> None:
        """Overwrite the array's first len(values) rows with `values`; the other rows are then not defined."""
        buffer, copied = self._free.pop(0)
        copied.synchronize()
        buffer[: len(values)] = values
        self.array.set(buffer)
        copied.record()
        self._free.append((buffer, copied))


def pinned(xp: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """An array of zeros in pinned host memory, which the device can read by itself."""
    dtype, size = np.dtype(dtype), int(np.prod(shape))
    memory = xp.cuda.alloc_pinned_memory(max(1, size * dtype.itemsize))
    made = np.frombuffer(memory, dtype, size).reshape(shape)
    made.fill(0)
    return made
