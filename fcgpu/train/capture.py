"""Steps as CUDA graphs: called once, recorded once, replayed. What a graph cannot hold is called each time.

A step is a function without arguments that launches the same kernels on the same buffers at each call; what differs
from one call to the next stands in device memory. Recording a call runs nothing, so replays and calls may be mixed, and
give equal bits. The first call is a step as any other: it compiles and loads every kernel, which a recording must not.

A change of shape cannot be replayed by mistake, for a step has no arguments: other shapes are other steps.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fcgpu.backend import INSTALL, Backend
from fcgpu.errors import first_line
from fcgpu.kernels import products

GRAPH = 64  # steps of a graph: the 2 or so µs that a graph takes to start then vanish; recording one takes 10 ms or so
OLDEST_CUPY = 14


class Capture:
    """A stream, products that work on it, and whether steps on it can be recorded: `why` not, in words, or ""."""

    def __init__(self, backend: Backend, *, tf32: bool = False) -> None:
        xp = backend.xp
        self.xp, self.stream = xp, xp.cuda.Stream(non_blocking=True)
        self.longest = 0  # steps of the longest graph
        self.blocks = 0  # of the kernel that makes many steps
        self.lost = ""  # a faster way that failed, and why
        self.why = why_eager(backend)
        if not self.why:
            try:
                self.products = products.nvidias(xp, self.stream, tf32=tf32)
            except Exception as error:  # whatever keeps cuBLAS from loading: CuPy's own way to it may still work
                if backend.ran_out(error):
                    raise
                self.why = f"cuBLAS does not start through nvmath-python ({first_line(error)})"
        if self.why:
            self.products = products.cupys(xp, tf32=tf32)

    @contextmanager
    def on_stream(self) -> Iterator[None]:
        """What is launched inside runs on the stream, behind all that was launched before, ahead of what follows."""
        outside = self.xp.cuda.get_current_stream()
        self.stream.wait_event(outside.record())
        try:
            with self.stream:
                yield
        finally:
            outside.wait_event(self.stream.record())

    @property
    def how(self) -> str:
        """How the steps were run, in words."""
        if self.blocks and not self.lost:
            return f"one kernel of {self.blocks} blocks"
        how = f"graph of {self.longest} step{'s' if self.longest != 1 else ''}" if self.longest else "eager: one step"
        if self.why:
            how = f"eager: {self.why}"
        return f"{how}; {self.lost}" if self.lost else how


class Steps:
    """Runs a step again and again, from graphs of up to `most` where that works. Others keep alive what these touch."""

    def __init__(self, step: Callable[[], Any], capture: Capture, most: int) -> None:
        self._step, self._capture, self._most = step, capture, min(most, GRAPH)
        self._called = False
        self._graphs: dict[int, Any] = {}

    def run(self, times: int) -> None:
        """Launch `times` steps, inside `capture.on_stream()`."""
        while times:
            size = self._most if times >= self._most else 1
            graph = self._graph(size) if self._called and not self._capture.why else None
            if graph is None:
                self._step()
                self._called, size = True, 1
            else:
                graph.launch()
            times -= size

    def _graph(self, size: int) -> Any:
        """The graph of so many steps, recorded when it is first asked for; None where that fails."""
        if size not in self._graphs:
            try:
                graph = recorded(self._capture.stream, self._step, size)
            except Exception as error:  # nothing of it has run, so the steps can be called instead
                self._capture.why = f"a graph cannot be recorded ({first_line(error)})"
                return None
            self._graphs[size] = graph
            self._capture.longest = max(self._capture.longest, size)
        return self._graphs[size]


def recorded(stream: Any, launch: Callable[[], Any], times: int) -> Any:
    """The graph of so many calls of `launch`, on the stream, which must be the current one.

    No garbage is collected meanwhile: it may hold a cuBLAS handle, whose end makes a recording worthless. Another
    thread's waits until then.
    """
    with products.ALONE:
        collects = gc.isenabled()
        gc.disable()
        try:
            stream.begin_capture()
            try:
                for _ in range(times):
                    launch()
            finally:
                graph = stream.end_capture()
        finally:
            if collects:
                gc.enable()
    return graph


def why_eager(backend: Backend) -> str:
    """Why steps on this GPU cannot be recorded, in words; "" where they can."""
    xp = backend.xp
    if int(xp.__version__.split(".")[0]) < OLDEST_CUPY:
        return f"CuPy {xp.__version__} is older than {OLDEST_CUPY}: {INSTALL}"
    try:
        import nvmath.bindings.cublas  # noqa: F401
    except ModuleNotFoundError:
        return f"nvmath-python is not installed: {INSTALL}"
    except Exception as error:  # a package whose libraries do not load: any error can come out of its import
        return f"nvmath-python does not import ({first_line(error)}): {INSTALL}"
    return ""
