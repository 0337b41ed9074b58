"""Features that stay on the host: they go through the GPU in chunks, and one is copied while another is computed on.

    host      gather the rows of chunk t + 1 in pinned memory        in a thread of its own
    copy      pinned memory to buffer (t + 1) mod 2                  in a CUDA stream of its own
    compute   all that reads buffer t mod 2                          in the run's stream

Each of the two buffers has two events. `there`: the chunk has arrived; the computation waits for it. `done`: the
computation has read the chunk; the next copy into the buffer waits for it. On the host only the thread waits for the
device, until its pinned memory has been copied.
"""

from bisect import bisect
from typing import TYPE_CHECKING, Any

import numpy as np

from fcgpu.backend import Backend
from fcgpu.train.plan import Plan
from fcgpu.train.plan_gpu import CHUNK_BYTES
from fcgpu.train.upload import pinned

if TYPE_CHECKING:
    from concurrent.futures import Future


class Stream:
    """X (n, n_features) on the host. `stream[a:b]` is rows a to b in this epoch's order, on the device, valid until the
    next slice is taken.

    A slice must be within one tile of the plan. Slices are to be taken in order; going back makes the host wait. Only
    X is copied in chunks: y (n, ...), weights (n,) or None, and ids (n,) or None are on the device as a whole, in the
    same order.
    """

    def __init__(self, X: Any, small: tuple[Any, Any, Any], plan: Plan, backend: Backend) -> None:
        self.shape, self.dtype = X.shape, X.dtype.newbyteorder("=")
        self._X, self._small, self._backend, self._order = X, small, backend, None
        self._whole: list[Any] = [None if a is None else backend.to_device(a) for a in small]
        self.y, self.weights, self.ids = self._whole
        cuda, size = backend.xp.cuda, (plan.chunk, X.shape[1])
        self._buffers = [backend.xp.empty(size, dtype=self.dtype) for _ in range(2)]
        self._pinned = [pinned(backend.xp, size, self.dtype) for _ in range(2)]
        self._there, self._done = ([cuda.Event(block=True, disable_timing=True) for _ in range(2)] for _ in range(2))
        self._copies, self._current = cuda.Stream(non_blocking=True), cuda.get_current_stream
        from concurrent.futures import ThreadPoolExecutor  # late: a sixth of the time of `import fcgpu`

        self._thread = ThreadPoolExecutor(1, "fcgpu stream", self._buffers[0].device.use)
        self._side = 0  # the buffer that the computation reads
        self._sent: Future[None] | None = None
        # A chunk holds whole tiles: several batches or, if a batch is cut, one tile.
        step, rows = (plan.samples, plan.chunk) if plan.tile == plan.batch else (plan.batch, plan.tile)
        starts = [a for batch in range(0, plan.samples, step) for a in range(batch, batch + step, rows)]
        self._starts = [a for a in starts if a < plan.samples]
        self._stops = [*self._starts[1:], plan.samples]
        self._now = -1  # the chunk in the buffer that the computation reads
        self._coming = -1  # the chunk that is being copied to the other buffer
        for event in self._done:
            event.record(self._current())  # earlier work in this stream may still use the memory of the new buffers

    def begin(self, order: Any) -> None:
        """Begin an epoch in a new order (n,): row i is now row order[i] of the data."""
        self._order = order
        for there, here in zip(self._whole, self._small, strict=True):
            if here is not None:
                there[...] = self._backend.to_device(here[order])
        self._now = -1
        self._ask(0)

    def __getitem__(self, rows: slice) -> Any:
        number = bisect(self._starts, rows.start) - 1
        if number != self._now:
            self._turn_to(number)
        start = self._starts[number]
        return self._buffers[self._side][rows.start - start : rows.stop - start]

    def close(self) -> None:
        """End the thread and free all memory, even if a caller's events still refer to this stream."""
        self._thread.shutdown()
        self._copies.synchronize()
        self._buffers, self._pinned, self._whole, self.y, self.weights, self.ids = [], [], [], None, None, None

    def _turn_to(self, number: int) -> None:
        """Switch to the other buffer, once its chunk has arrived, and have the next chunk copied to this one."""
        self._done[self._side].record(self._current())
        if number != self._coming:
            self._ask(number)
        assert self._sent is not None
        self._sent.result()
        self._side = 1 - self._side
        self._current().wait_event(self._there[self._side])
        self._now = number
        follows = (number + 1) % len(self._starts)
        if follows or self._order is None:  # else the next epoch's order is not known yet
            self._ask(follows)
        else:
            self._coming = -1

    def _ask(self, number: int) -> None:
        """Start copying a chunk to the buffer that the computation does not read."""
        part = self._starts[number], self._stops[number]
        self._coming, self._sent = number, self._thread.submit(self._send, *part, 1 - self._side, self._order)

    def _send(self, start: int, stop: int, side: int, order: Any) -> None:
        pinned, buffer = self._pinned[side][: stop - start], self._buffers[side][: stop - start]
        self._there[side].synchronize()
        X = self._X
        if order is None:
            pinned[...] = X[start:stop]
        elif X.flags.c_contiguous and X.dtype == self.dtype:
            np.take(X, order[start:stop], axis=0, out=pinned, mode="clip")  # other modes make a copy
        else:  # np.take would first copy all of X
            pinned[...] = X[order[start:stop]]
        self._copies.wait_event(self._done[side])
        self._copy(pinned, buffer)
        self._there[side].record(self._copies)

    def _copy(self, pinned: Any, buffer: Any) -> None:
        buffer.set(pinned, stream=self._copies)


def on_device(X: Any, backend: Backend) -> Any:
    """X (n, n_features) as a whole in the device's memory; on the CPU, X itself.

    It is copied in chunks, because CuPy first copies to pinned memory as much as one call sends.
    """
    if not backend.on_gpu or backend.holds(X) or X.nbytes <= CHUNK_BYTES:
        return backend.to_device(X)
    whole = backend.xp.empty(X.shape, dtype=X.dtype.newbyteorder("="))
    rows = max(1, CHUNK_BYTES * len(X) // X.nbytes)
    for start in range(0, len(X), rows):
        whole[start : start + rows] = backend.to_device(X[start : start + rows])
    return whole
