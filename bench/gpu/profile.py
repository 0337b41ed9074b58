"""Where a step's microseconds go: every launch timed by itself, beside the whole step and its lower bound.

Each launch is captured many times into its own CUDA graph, so that the kernel is timed and not its call from Python; if
steps cannot be captured, the calls are timed. Repeating a launch changes its results, but not its duration.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import islice, product
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np

import fcgpu
from bench.cases import SIZES, TIMED
from bench.gpu.clock import launched, seconds_of
from bench.gpu.limits import bandwidth, launch_seconds
from fcgpu.kernels import device as kernels
from fcgpu.kernels import fused
from fcgpu.kernels.cublas import Gemm
from fcgpu.kernels.few import Few
from fcgpu.kernels.middle import Middle
from fcgpu.train.capture import recorded
from fcgpu.train.gpu import OnGpu

TITLE, LIMIT = "where a step's microseconds go, against bytes and launches", 90.0
REPEATS, STEPS = 50, 20  # repeats of a launch; least number of steps that are timed
PRECISIONS = ("float32", "tf32", "bfloat16")


class Launch(NamedTuple):
    """One launch of a step."""

    name: str
    again: Callable[[], Any]  # repeats it


def rows(device: str, cases: Any = ("full", "batch-128", "batch-10"), precisions: Any = PRECISIONS) -> Iterator[Any]:
    backend = fcgpu.choose(device)
    copied, (called, in_graph) = bandwidth(backend), launch_seconds(backend)
    for name, precision in product(cases, precisions):
        with launched():
            yield from _of_case(backend, TIMED[name], precision, copied, in_graph or called)


def _of_case(backend: Any, case: Any, precision: str, copied: float, launch: float) -> Iterator[dict[str, Any]]:
    digits = fcgpu.load("mnist")
    data = fcgpu.dataset(digits.X[: case.rows], digits.y[: case.rows], scale=digits.scale)
    about = {"case": case.name, "precision": precision}
    options = {"batch": case.batch, "hidden": SIZES[1:-1], "activation": "sigmoid", "output": "sigmoid"}
    options |= {"optimizer": "gradient_descent", "schedule": "constant", "shuffle": False, "precision": precision}
    options |= {"epochs": 100_000}
    events = fcgpu.train(data, device=backend, **options)
    next(events)
    every = case.rows // case.batch
    epochs = -(-STEPS // every)
    step = seconds_of(lambda: list(islice(events, epochs)), backend) / (epochs * every)
    events.close()
    launches, how = _launches(backend, data, options)
    total = 0.0
    for one in launches:
        seconds = _seconds(one, backend, how)
        total += seconds
        yield about | {"launch": one.name, "microseconds": 1e6 * seconds}
    # The features as stored, read once; the bytes of targets and parameters are few in comparison.
    bytes_read = case.batch * digits.X.shape[1] * digits.X.itemsize
    yield about | {
        "step_microseconds": 1e6 * step, "sum_of_launches_microseconds": 1e6 * total, "launches": len(launches),
        "floor_microseconds": 1e6 * (bytes_read / copied + len(launches) * launch), "bytes_read": bytes_read,
        "bandwidth": copied, "launch_microseconds": 1e6 * launch, "why_eager": how.why,
    }  # fmt: skip


def _launches(backend: Any, data: Any, options: dict[str, Any]) -> tuple[list[Launch], Any]:
    """The launches of one step, in order, on the buffers of a run; and the run's `Capture`."""
    made: list[OnGpu] = []
    begin = OnGpu.begin

    def kept(self: OnGpu, *arguments: Any) -> None:
        made.append(self)
        begin(self, *arguments)

    with patch.object(OnGpu, "begin", kept):
        events = fcgpu.train(data, device=backend, **options)
        next(events), next(events)  # compiles the kernels and sets the learning rates
    run = made[0]
    with run.capture.on_stream(), _noted() as launches:
        run._now.at.fill(0)  # back to the first step, which has a learning rate on the device
        run._step(run._batches[0], 0, 1)
    run.events = events  # type: ignore[attr-defined]  # keeps the run and its buffers alive
    return launches, run.capture


@contextmanager
def _noted() -> Iterator[list[Launch]]:
    """Launches made inside this context are appended to the list."""
    found: list[Launch] = []
    multiplied, middle, few = Gemm.__call__, Middle.__call__, Few._launch

    def noting(compile: Callable[..., Any], name: str, xp: Any) -> Callable[..., Any]:
        compiled = compile(name, xp)

        def call(*arguments: Any, **more: Any) -> Any:
            found.append(Launch(name, lambda: compiled(*arguments, **more)))
            return compiled(*arguments, **more)

        return call

    def multiply(self: Gemm, A: Any, B: Any, C: Any, **more: Any) -> None:
        found.append(Launch(f"product {A.shape} {B.shape} to {C.shape}", lambda: multiplied(self, A, B, C, **more)))
        multiplied(self, A, B, C, **more)

    def between(self: Middle, *arguments: Any) -> None:
        found.append(Launch("middle, and its sums", lambda: middle(self, *arguments)))
        middle(self, *arguments)

    def launch(self: Few, name: str, rows: int, columns: int, *arguments: Any) -> None:
        sizes = " ".join(str(a) for a in arguments if isinstance(a, np.int32))
        found.append(
            Launch(f"{name} to ({rows}, {columns}), {sizes}", lambda: few(self, name, rows, columns, *arguments))
        )
        few(self, name, rows, columns, *arguments)

    with ExitStack() as stack:
        for owner, name, noted in (
            (Gemm, "__call__", multiply),
            (Middle, "__call__", between),
            (Few, "_launch", launch),
            *((module, "kernel", partial(noting, module.kernel)) for module in (kernels, fused)),
        ):
            stack.enter_context(patch.object(owner, name, noted))
        yield found


def _seconds(launch: Launch, backend: Any, capture: Any) -> float:
    with capture.on_stream():
        if capture.why:
            return seconds_of(launch.again, backend, REPEATS)
        graph = recorded(capture.stream, launch.again, REPEATS)
        return seconds_of(graph.launch, backend) / REPEATS
