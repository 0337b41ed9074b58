"""Numbers that the host sends to the device without waiting for it."""

from typing import Any

import numpy as np


class Upload:
    """An array on the device that the host overwrites again and again, from pinned memory, in the current stream.

    Two pinned buffers take turns: the host waits only where the copy before the last has not been made, which keeps it
    from running further ahead.
    """

    def __init__(self, xp: Any, shape: tuple[int, ...], dtype: Any) -> None:
        self.array = xp.zeros(shape, dtype=dtype)
        self._free = [(pinned(xp, shape, dtype), xp.cuda.Event(disable_timing=True)) for _ in range(2)]

    def send(self, values: Any) -> None:
        """Overwrite the array's first rows with values, and the others with what they had before the last time."""
        buffer, copied = self._free.pop(0)
        copied.synchronize()
        buffer[: len(values)] = values
        self.array.set(buffer)
        copied.record()
        self._free.append((buffer, copied))


def pinned(xp: Any, shape: tuple[int, ...], dtype: Any) -> Any:
    """An array of zeros in host memory that the system never moves, so that the device reads it by itself."""
    dtype, size = np.dtype(dtype), int(np.prod(shape))
    memory = xp.cuda.alloc_pinned_memory(max(1, size * dtype.itemsize))
    made = np.frombuffer(memory, dtype, size).reshape(shape)
    made.fill(0)
    return made
