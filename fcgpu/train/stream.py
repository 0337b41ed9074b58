"""Samples that stay on the host: their features go through the GPU in chunks, one on its way while one is computed.

    host      gather the rows of chunk t + 1 in pinned memory        a thread of its own
    copy      pinned memory to buffer (t + 1) mod 2                  a stream of its own
    compute   all that reads buffer t mod 2                          the stream of everything else

Events keep the order, two for each of the two buffers: `there`, the chunk has arrived, for which the computation waits;
and `done`, the computation has read it, for which the next copy into the buffer waits. Nobody waits for the device,
but the thread for its pinned memory to have been sent.
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
    """X (n, n_features) on the host as `stream[a:b]`, rows a to b in this epoch's order, on the device until the next.

    The rows of a slice must lie in one tile of the plan, and are asked for in turn; to begin again costs a wait. Only
    the features are read chunk by chunk: y (n, ...), weights (n,) and ids (n,), or None, lie on the device whole, in
    the same order.
    """

    ndim = 2

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
        from concurrent.futures import ThreadPoolExecutor  # a sixth of what `import fcgpu` would take

        self._thread = ThreadPoolExecutor(1, "fcgpu stream", self._buffers[0].device.use)
        self._side = 0  # the buffer that the computation reads
        self._sent: Future[None] | None = None
        # A chunk holds whole tiles: some batches, or where a batch is cut, a tile.
        step, rows = (plan.samples, plan.chunk) if plan.tile == plan.batch else (plan.batch, plan.tile)
        starts = [a for batch in range(0, plan.samples, step) for a in range(batch, batch + step, rows)]
        self._starts = [a for a in starts if a < plan.samples]
        self._stops = [*self._starts[1:], plan.samples]
        self._now = -1  # the chunk in the buffer of this side
        self._coming = -1  # the one on its way to the other
        for event in self._done:
            event.record(self._current())  # whose work may still be using the memory that is these buffers now

    def begin(self, order: Any) -> None:
        """An epoch in another order: row i is order[i] (n,) of the data."""
        self._order = order
        for there, here in zip(self._whole, self._small, strict=True):
            if here is not None:
                there[...] = self._backend.to_device(here[order])
        self._now = -1
        self._ask(0)

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, rows: slice) -> Any:
        number = bisect(self._starts, rows.start) - 1
        if number != self._now:
            self._turn_to(number)
        start = self._starts[number]
        return self._buffers[self._side][rows.start - start : rows.stop - start]

    def close(self) -> None:
        """End the thread, and let go of all memory, also what a caller's events hold of this."""
        self._thread.shutdown()
        self._copies.synchronize()
        self._buffers, self._pinned, self._whole, self.y, self.weights, self.ids = [], [], [], None, None, None

    def _turn_to(self, number: int) -> None:
        """The other buffer, when its chunk has arrived; the one that is left takes the next chunk."""
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
        """Have a chunk sent to the buffer that the computation does not read."""
        part = self._starts[number], self._stops[number]
        self._coming, self._sent = number, self._thread.submit(self._send, *part, 1 - self._side, self._order)

    def _send(self, start: int, stop: int, side: int, order: Any) -> None:
        pinned, buffer = self._pinned[side][: stop - start], self._buffers[side][: stop - start]
        self._there[side].synchronize()
        X = self._X
        if order is None:
            pinned[...] = X[start:stop]
        elif X.flags.c_contiguous and X.dtype == self.dtype:
            np.take(X, order[start:stop], axis=0, out=pinned, mode="clip")  # with another mode it makes a copy
        else:  # take would copy all of X
            pinned[...] = X[order[start:stop]]
        self._copies.wait_event(self._done[side])
        self._copy(pinned, buffer)
        self._there[side].record(self._copies)

    def _copy(self, pinned: Any, buffer: Any) -> None:
        buffer.set(pinned, stream=self._copies)


def on_device(X: Any, backend: Backend) -> Any:
    """X (n, n_features) in the device's memory whole; on the CPU as it is. Chunk by chunk, because CuPy copies what it
    sends into pinned memory first.
    """
    if not backend.on_gpu or backend.holds(X) or X.nbytes <= CHUNK_BYTES:
        return backend.to_device(X)
    whole = backend.xp.empty(X.shape, dtype=X.dtype.newbyteorder("="))
    rows = max(1, CHUNK_BYTES * len(X) // X.nbytes)
    for start in range(0, len(X), rows):
        whole[start : start + rows] = backend.to_device(X[start : start + rows])
    return whole
