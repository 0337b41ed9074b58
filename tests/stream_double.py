"""Streams, events, graphs, pinned memory and cuBLAS for the device double, as strict as a GPU is.

The null stream runs at once. Other streams run as late as allowed: when the host waits for them, fetches something
inside them, or a stream that waits for them continues. A missing event, or pinned memory that is overwritten too early,
therefore gives wrong numbers.

While a stream is captured nothing runs, and whatever a graph cannot hold is refused: an allocation, an upload, a wait,
a call of cuBLAS through CuPy. A graph knows memory only by its address; launching it after the memory is freed is an
error. cuBLAS works by the definition of BLAS, in column-major order, on the addresses that it is given.
"""

import ctypes
import gc
import itertools
import threading
from collections import Counter
from functools import partial
from types import ModuleType, SimpleNamespace

import ml_dtypes
import numpy as np

TYPES = {0: np.dtype("float32"), 1: np.dtype("float64"), 2: np.dtype("float16"), 14: np.dtype(ml_dtypes.bfloat16)}
COMPUTE_32F, COMPUTE_64F, COMPUTE_TF32 = 68, 70, 77
SINGLE, DOUBLE, *_HALVES = TYPES.values()
LEGAL = {  # types of both operands and of the result
    COMPUTE_64F: {(DOUBLE,) * 3},
    COMPUTE_TF32: {(SINGLE,) * 3},
    COMPUTE_32F: {(SINGLE,) * 3} | {(half, half, c) for half in _HALVES for c in (half, SINGLE)},
}


class Recording(RuntimeError):
    """The error of CUDA, or of CuPy, for a call that is not allowed while a stream is captured."""


class Streams:
    """cupy.cuda's streams, for one device double. All work on the device goes through `launch`."""

    def __init__(self, memory, check):
        self.memory, self.check, self._numbers = memory, check, itertools.count(1)
        self.null = Stream(self, 0)
        self._stack, self.one_at_a_time = [self.null], threading.RLock()
        self.recording = 0  # captured streams, over all threads
        self.counts = Counter()
        self.lengths = []  # number of launches in each captured graph

    @property
    def current(self):
        return self._stack[-1]

    def launch(self, function, *hosts, stream=None):
        """Run function(*hosts) in a stream, by default the current one, or record it during capture."""
        self.check()
        stream = self.current if stream is None else stream
        if stream.recorded is not None:
            again = [self.memory.borrowed(host) for host in hosts]
            stream.recorded.append(lambda: function(*(view() for view in again)))
        elif stream is self.null:
            function(*hosts)
        else:
            stream.queue.append(lambda: function(*hosts))

    def refuse_while_recording(self, what):
        if self.current.recorded is not None:
            raise Recording(f"the current stream is capturing: {what}")

    def wait(self, what="a fetch"):
        """The host waits for the current stream."""
        self.refuse_while_recording(what)
        self.current.catch_up()

    def make(self, null=False, non_blocking=False):
        assert non_blocking, "cudaStreamLegacy is unhappy when a blocking stream is recorded"
        self.check()
        return Stream(self, next(self._numbers))

    def event(self, block=False, disable_timing=False):
        self.check()
        return Event(self)


class Stream:
    def __init__(self, streams, ptr):
        self.ptr, self._streams = ptr, streams
        self.queue, self.done, self.recorded = [], 0, None
        self.branch_of, self.branches = None, []

    def __enter__(self):
        self._streams.check()
        self._streams._stack.append(self)
        return self

    def __exit__(self, *_):
        assert self._streams._stack.pop() is self

    def catch_up(self, until=None):
        until = len(self.queue) if until is None else until
        with self._streams.one_at_a_time:
            while self.done < until:
                run, self.queue[self.done] = self.queue[self.done], None
                self.done += 1
                run()

    def synchronize(self):
        if self.recorded is not None:
            raise Recording("a capturing stream cannot be waited for")
        if self is self._streams.null:
            self._streams.check()
        self._streams.counts["synchronisations"] += 1
        self.catch_up()

    def record(self, event=None):
        event = self._streams.event() if event is None else event
        event.stream, event.position = self, len(self.queue)
        return event

    def wait_event(self, event):
        """Wait for what the event marks now; the event may be recorded again before this stream runs."""
        if event.stream is None:
            return
        if event.stream.recorded is not None or self.recorded is not None:
            self._fork_or_join(event.stream)
            return
        reach = partial(event.stream.catch_up, event.position)
        if self is self._streams.null:
            reach()
        else:
            self.queue.append(reach)

    def _fork_or_join(self, other):
        """While `other` is captured, this stream becomes a branch of its graph; what a branch holds runs when the graph
        waits for it, as late as it may.
        """
        if other.branch_of is None and self.recorded is None:
            self.recorded, self.branch_of = [], other
            other.branches.append(self)
        elif other.branch_of is self:
            self.recorded += other.recorded
            other.recorded, other.branch_of = None, None
            self.branches.remove(other)
        else:
            assert self.branch_of is other, "an event of a stream that is not captured with this one"

    def begin_capture(self, mode=None):
        if self.ptr == 0:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        assert self._streams.current is self
        assert self.recorded is None
        assert not gc.isenabled(), "garbage that is collected now may hold a handle, whose end ends the recording"
        self.recorded = []
        self._streams.recording += 1

    def end_capture(self):
        recorded, self.recorded = self.recorded, None
        self._streams.recording -= 1
        if self.branches:
            raise Recording("cudaErrorStreamCaptureUnjoined")
        self._streams.counts["graphs"] += 1
        self._streams.lengths.append(len(recorded))
        return Graph(self._streams, recorded)

    def is_capturing(self):
        return self.recorded is not None


class Event:
    def __init__(self, streams):
        self._streams, self.stream, self.position = streams, None, 0

    def record(self, stream=None):
        self._streams.refuse_while_recording("an event of its own")
        (self._streams.current if stream is None else stream).record(self)

    def reached(self):
        if self.stream is not None:
            self.stream.catch_up(self.position)

    def synchronize(self):
        self._streams.refuse_while_recording("a wait for an event")
        self._streams.counts["event waits"] += 1
        self.reached()


class Graph:
    def __init__(self, streams, recorded):
        self._streams, self.recorded = streams, recorded

    def launch(self, stream=None):
        self._streams.check()
        self._streams.refuse_while_recording("the launch of another graph")
        stream = self._streams.current if stream is None else stream
        self._streams.counts["graph launches"] += 1
        if stream is self._streams.null:
            for run in self.recorded:
                run()
        else:
            stream.queue.extend(self.recorded)


def pinned(size):
    """cupy.cuda.alloc_pinned_memory: host memory with arbitrary contents."""
    return bytearray(b"\xff" * size)


def is_pinned(host):
    while isinstance(host, np.ndarray):
        host = host.base
    return isinstance(host.obj if isinstance(host, memoryview) else host, bytearray)


class Cublas:
    """cuBLAS for a device double; `calls` holds the calls that were made."""

    def __init__(self, xp):
        self._xp, self._handles, self._numbers = xp, {}, itertools.count(1000)
        self.calls = []

    def module(self):
        """The double of `nvmath.bindings.cublas`."""
        made = ModuleType("nvmath.bindings.cublas")
        for name, function in {
            "create": self._create, "destroy": self._destroy, "set_stream": self._set_stream,
            "set_workspace": self._set_workspace, "gemm_ex": self._gemm,
        }.items():  # fmt: skip
            setattr(made, name, self._xp._asked(function))  # a handle belongs to one device
        return made

    def of_cupy(self):
        """The double of `cupy.cuda.cublas`, whose handle uses the current stream."""

        def guarded(*arguments):
            if self._xp.streams.current.recorded is not None:
                raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")
            return self._gemm(*arguments)

        return SimpleNamespace(gemmEx=guarded)

    def _create(self):
        self._alone("the making of a handle")
        handle = next(self._numbers)
        self._handles[handle] = SimpleNamespace(stream=0, workspace=None)
        return handle

    def _destroy(self, handle):
        self._alone("the end of a handle")
        del self._handles[handle]

    def _alone(self, what):
        if self._xp.streams.recording:
            raise Recording(f"a stream is capturing: {what} waits for the device")

    def _set_stream(self, handle, stream_id):
        self._handles[handle] = SimpleNamespace(stream=stream_id, workspace=None)  # this resets the workspace

    def _set_workspace(self, handle, workspace, workspace_size_in_bytes):
        view = self._xp.memory.view(workspace, (workspace_size_in_bytes,), (1,), np.dtype(np.uint8))
        self._handles[handle].workspace = self._xp.memory.borrowed(view)

    def _gemm(
        self, handle, transa, transb, m, n, k, alpha, a, atype, lda, b, btype, ldb, beta, c, ctype, ldc,
        compute_type, algo,
    ):  # fmt: skip
        xp = self._xp
        recording = xp.streams.current.recorded is not None
        if handle in self._handles:  # other handles are CuPy's, on the current stream
            its = self._handles[handle]
            assert its.stream == xp.streams.current.ptr, "cuBLAS works on another stream than the kernels beside it"
            assert its.workspace is not None, "cuBLAS would allocate a workspace"
            its.workspace()
        else:
            assert handle == xp._HANDLE
            assert not recording
        types = TYPES[atype], TYPES[btype], TYPES[ctype]
        if types not in LEGAL[compute_type]:
            raise RuntimeError(f"CUBLAS_STATUS_NOT_SUPPORTED: {types} with compute type {compute_type}")
        assert algo == -1
        scalar = ctypes.c_double if compute_type == COMPUTE_64F else ctypes.c_float
        alpha, beta = (scalar.from_address(place).value for place in (alpha, beta))
        stored = [
            (a, types[0], (m, k) if transa == 0 else (k, m), lda),
            (b, types[1], (k, n) if transb == 0 else (n, k), ldb),
            (c, types[2], (m, n), ldc),
        ]
        views = []
        for place, dtype, (rows, columns), ld in stored:
            if ld < max(1, rows) or min(rows, columns) < 1:
                raise RuntimeError("CUBLAS_STATUS_INVALID_VALUE")
            assert place % 16 == 0 or dtype.itemsize > 2, "an address that tensor cores cannot load from"
            views.append(xp.memory.view(place, (rows, columns), (dtype.itemsize, ld * dtype.itemsize), dtype))
        A, B, C = views
        assert not np.may_share_memory(C, A), "a product overwrites its operand"
        assert not np.may_share_memory(C, B), "a product overwrites its operand"
        self.calls.append(
            (transa, transb, m, n, k, lda, ldb, ldc, alpha, beta, types[0].name, types[2].name, compute_type)
        )

        def run(A, B, C):
            a, b = (operand(x, compute_type) for x in (A, B))
            a, b = (a if transa == 0 else a.T), (b if transb == 0 else b.T)
            with np.errstate(all="ignore"):
                product = np.dtype(scalar).type(alpha) * np.matmul(a, b)
                if beta:
                    product += np.dtype(scalar).type(beta) * C.astype(product.dtype)
                C[...] = product.astype(C.dtype)

        xp.streams.launch(run, A, B, C)


def operand(x, compute_type):
    """The operands as multiplied: 16-bit floats unchanged, float32 rounded to 10 mantissa bits for TF32."""
    if compute_type == COMPUTE_64F:
        return x
    x = x.astype(np.float32)
    return rounded(x, 10) if compute_type == COMPUTE_TF32 else x


def rounded(x, bits):
    """Round float32 to `bits` mantissa bits, to the nearest, ties to even."""
    drop = 23 - bits
    words = x.view(np.uint32)
    up = ((words >> np.uint32(drop)) & np.uint32(1)) + np.uint32(2 ** (drop - 1) - 1)
    kept = ((words + up) >> np.uint32(drop)) << np.uint32(drop)
    return np.where(np.isfinite(x), kept.view(np.float32), x)
