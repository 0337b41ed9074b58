"""Steps as CUDA graphs: called once, captured once, then replayed. Steps that cannot be captured are called each time.

step(i, n) launches step i of a graph of n steps; i and n alone determine its kernels and buffers. A call by itself is
step(0, 1). All else that changes from step to step is in device memory. Capturing runs nothing, so replays and calls
may be mixed and give the same bits. The first step is called: this compiles and loads every kernel, which must not
happen in a capture.

A graph cannot be replayed with the wrong shapes: a step has no other arguments, and each shape has a step of its own.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from fcgpu.backend import INSTALL, Backend
from fcgpu.errors import first_line
from fcgpu.kernels import cublas

GRAPH = 64  # steps per graph: enough to hide the 2 µs or so of its launch; capturing it takes about 10 ms
OLDEST_CUPY = 14


class Capture:
    """A stream, matrix products on it, and whether steps on it can be captured: `why` says why not, or is ""."""

    def __init__(self, backend: Backend, *, tf32: bool = False) -> None:
        xp = backend.xp
        self.xp, self.stream = xp, xp.cuda.Stream(non_blocking=True)
        self._event = xp.cuda.Event(disable_timing=True)  # marks the end of what one stream has to do before another
        self._branch, self._apart = xp.cuda.Stream(non_blocking=True), False
        self.longest = 0  # steps of the longest graph
        self.blocks = 0  # thread blocks of the cluster kernel, if it is used
        self.lost = ""  # a faster way that failed, and why
        self.why = why_eager(backend)
        if not self.why:
            try:
                self.products = cublas.through_nvmath(xp, self.stream, tf32=tf32)
            except Exception as error:  # cuBLAS does not load in this way; CuPy's may still work
                if backend.ran_out(error):
                    raise
                self.why = f"cuBLAS does not start through nvmath-python ({first_line(error)})"
        if self.why:
            self.products = cublas.through_cupy(xp, tf32=tf32)

    @contextmanager
    def on_stream(self) -> Iterator[None]:
        """Make the stream current: work inside follows all earlier work of the outer stream, and precedes all later."""
        outside, event = self.xp.cuda.get_current_stream(), self._event
        self.stream.wait_event(outside.record(event))
        try:
            with self.stream:
                yield
        finally:
            outside.wait_event(self.stream.record(event))

    @contextmanager
    def beside(self) -> Iterator[None]:
        """While a graph is recorded, launches inside become a branch of it, which follows what was launched before and
        runs beside what is launched until `join`. Otherwise they are launched in order.
        """
        if not self.stream.is_capturing():
            yield
            return
        self._branch.wait_event(self.stream.record())
        self._apart = True
        with self._branch:
            yield

    def join(self) -> None:
        """What is launched from here on follows what was launched `beside`."""
        apart, self._apart = self._apart, False
        if apart and self.stream.is_capturing():  # else the recording failed, and with it its branch
            self.stream.wait_event(self._branch.record())

    @property
    def how(self) -> str:
        """How the steps were launched, in words, for Finished.capture."""
        if self.blocks and not self.lost:
            return f"one kernel of {self.blocks} blocks"
        how = f"graph of {self.longest} step{'s' if self.longest != 1 else ''}" if self.longest else "eager: one step"
        if self.why:
            how = f"eager: {self.why}"
        return f"{how}; {self.lost}" if self.lost else how


class Steps:
    """Runs step(i, n) many times, by graphs of up to `most` steps if they can be captured.

    The caller must keep alive all arrays that the step uses.
    """

    def __init__(self, step: Callable[[int, int], Any], capture: Capture, most: int) -> None:
        self._step, self._capture, self._most = step, capture, min(most, GRAPH)
        self._called = False
        self._graphs: dict[int, Any] = {}

    def run(self, times: int) -> None:
        """Launch `times` steps, inside `capture.on_stream()`."""
        while times:
            size = -(-times // -(-times // self._most))  # as few graphs as can be, whose sizes differ by one at most
            graph = self._graph(size) if self._called and not self._capture.why else None
            if graph is None:
                self._step(0, 1)
                self._called, size = True, 1
            else:
                graph.launch()
            times -= size

    def _graph(self, size: int) -> Any:
        """The graph of `size` steps, captured at the first call; None if that fails."""
        if size not in self._graphs:
            try:
                graph = recorded(self._capture.stream, lambda: [self._step(i, size) for i in range(size)], 1)
            except Exception as error:  # nothing has run yet, so the steps can be called instead
                self._capture.why = f"a graph cannot be recorded ({first_line(error)})"
                return None
            self._graphs[size] = graph
            self._capture.longest = max(self._capture.longest, size)
        return self._graphs[size]


def recorded(stream: Any, launch: Callable[[], Any], times: int) -> Any:
    """The graph of `times` calls of `launch` on the stream, which must be the current one.

    The garbage collector is off meanwhile: it might destroy a cuBLAS handle, which would invalidate the capture. No
    other thread creates or destroys one meanwhile, for the same reason.
    """
    with cublas.ALONE:
        collects = gc.isenabled()
        gc.disable()
        try:
            stream.begin_capture()
            try:
                for _ in range(times):
                    launch()
            except BaseException:
                with suppress(Exception):  # from a branch that was not joined: what went wrong first is raised
                    stream.end_capture()
                raise
            graph = stream.end_capture()
        finally:
            if collects:
                gc.enable()
    return graph


def why_eager(backend: Backend) -> str:
    """Why steps on this GPU cannot be captured; "" if they can."""
    xp = backend.xp
    if int(xp.__version__.split(".")[0]) < OLDEST_CUPY:
        return f"CuPy {xp.__version__} is older than {OLDEST_CUPY}: {INSTALL}"
    try:
        import nvmath.bindings.cublas  # noqa: F401
    except ModuleNotFoundError:
        return f"nvmath-python is not installed: {INSTALL}"
    except Exception as error:  # its libraries do not load: its import can raise anything
        return f"nvmath-python does not import ({first_line(error)}): {INSTALL}"
    return ""
