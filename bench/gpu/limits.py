"""The speed of this GPU's copies, kernel launches and matrix products, from which a step's lower bound follows."""

from collections.abc import Iterator
from typing import Any

import numpy as np

import fcgpu
from bench.gpu.clock import seconds_of
from fcgpu.kernels import cublas
from fcgpu.train.capture import recorded

TITLE, LIMIT = "copies, launches and products of this machine", 60.0
COPY, SENT = 1 << 30, 1 << 28  # bytes: several times the size of any cache
LAUNCHES = 1000
SIDES = (2048, 8192)


def rows(device: str) -> Iterator[dict[str, Any]]:
    backend = fcgpu.choose(device)
    yield {"what": "copy on the device", "bytes_per_second": bandwidth(backend), "read_and_written": True}
    if backend.on_gpu:
        yield from _sending(backend)
    called, in_graph = launch_seconds(backend)
    yield {"what": "launch of a kernel", "seconds": called, "in_a_graph": in_graph}
    for side in SIDES if backend.on_gpu else SIDES[:1]:
        for precision, made in _products(backend, side):
            yield {"what": "product", "side": side, "precision": precision, "flops": 2 * side**3 / made}


def bandwidth(backend: Any) -> float:
    """Bytes read plus bytes written per second by a copy of an array."""
    xp = backend.xp
    source, target = (xp.ones((COPY if backend.on_gpu else SENT,), dtype=np.uint8) for _ in range(2))

    def copy() -> None:
        target[...] = source

    return 2 * len(source) / seconds_of(copy, backend)


def launch_seconds(backend: Any) -> tuple[float, float | None]:
    """Seconds of a minimal kernel's launch: eager, and in a CUDA graph (None on a CPU)."""
    xp = backend.xp
    number = xp.zeros((1,), dtype=np.float32)

    def launch() -> None:
        xp.multiply(number, 1, out=number)

    called = seconds_of(launch, backend, LAUNCHES)
    if not backend.on_gpu:
        return called, None
    stream = xp.cuda.Stream(non_blocking=True)
    with stream:
        graph = recorded(stream, launch, LAUNCHES)
        return called, seconds_of(graph.launch, backend) / LAUNCHES


def _sending(backend: Any) -> Iterator[dict[str, Any]]:
    xp = backend.xp
    there = xp.empty((SENT,), dtype=np.uint8)
    pinned = np.frombuffer(xp.cuda.alloc_pinned_memory(SENT), np.uint8, SENT)
    for what, host in (("pinned", pinned), ("pageable", np.ones(SENT, np.uint8))):
        seconds = seconds_of(lambda host=host: there.set(host), backend)
        yield {"what": f"copy from the host, {what}", "bytes_per_second": SENT / seconds}


def _products(backend: Any, side: int) -> Iterator[tuple[str, float]]:
    xp = backend.xp
    host = np.random.default_rng(0).standard_normal((side, side), np.float32)
    if not backend.on_gpu:
        yield "float32", seconds_of(lambda: np.matmul(host, host), backend, rounds=3)
        return
    from ml_dtypes import bfloat16

    for precision, stored in (
        ("float32", np.float32),
        ("tf32", np.float32),
        ("float16", np.float16),
        ("bfloat16", bfloat16),
    ):
        product = cublas.through_cupy(xp, tf32=precision == "tf32")
        A = xp.asarray(host.astype(stored))
        C = xp.empty((side, side), dtype=np.float32)
        yield precision, seconds_of(lambda p=product, A=A, C=C: p(A, A, C), backend, 3)
