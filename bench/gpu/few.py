"""Where fcgpu's own products of few rows are faster than cuBLAS's: the products alone, and steps with either."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any
from unittest.mock import patch

import numpy as np

import fcgpu
from bench.gpu.clock import launched, seconds_of
from fcgpu.kernels import cublas, few
from fcgpu.train.capture import recorded

TITLE, LIMIT = "own products of few rows, against cuBLAS", 60.0
SHAPES = ((128, 792, 128), (128, 792, 512), (128, 520, 512), (256, 792, 512), (512, 520, 512), (1024, 792, 128))
TURNED = ("", "a", "b")
HIDDEN = ((128, 64), (256, 256, 256), (512, 512), (1024, 1024))
BATCHES = (128, 256, 512, 1024)
FEATURES, REPEATS, STEPS = 784, 30, 40


def rows(
    device: str, shapes: Sequence[Any] = SHAPES, hidden: Sequence[Any] = HIDDEN, batches: Sequence[int] = BATCHES
) -> Iterator[dict[str, Any]]:
    """MOST in fcgpu/kernels/few.py is read off these rows."""
    backend = fcgpu.choose(device)
    yield from _products(backend, shapes)
    for sizes in hidden:
        for batch in batches:
            row: dict[str, Any] = {"hidden": str(sizes), "batch": batch}
            for name, most in (("own", 1 << 62), ("cublas", 0)):
                with patch.multiple(few, MOST=most, MOST_ROWS=most), launched():
                    row[f"{name}_microseconds"] = 1e6 * _step(backend, sizes, batch)
            yield row


def _products(backend: Any, shapes: Sequence[Any]) -> Iterator[dict[str, Any]]:
    xp, random = backend.xp, np.random.default_rng(0)
    stream = xp.cuda.Stream(non_blocking=True)
    with stream:
        gemm = cublas.through_nvmath(xp, stream)
        own = few.Few("relu", "cross_entropy", 10, 3, np.zeros(1, np.int64), weighted=False, count=True, xp=xp)
        for (m, k, n), turned in ((shape, turned) for shape in shapes for turned in TURNED):
            A, B = ((k, m) if turned == "a" else (m, k)), ((n, k) if turned == "b" else (k, n))
            A, B = (xp.asarray(random.standard_normal(shape, np.float32)) for shape in (A, B))
            C = xp.empty((m, n), dtype=np.float32)
            row: dict[str, Any] = {"m": m, "k": k, "n": n, "transposed": turned, "multiplications": m * k * n}
            for name, product in (("own", own), ("cublas", gemm)):
                call = partial(product, A, B, C, transposed_a=turned == "a", transposed_b=turned == "b")
                call()
                graph = recorded(stream, call, REPEATS)
                row[f"{name}_microseconds"] = 1e6 * seconds_of(graph.launch, backend) / REPEATS
            yield row


def _step(backend: Any, hidden: Any, batch: int) -> float:
    """Seconds of a step of Adam on float features."""
    random = np.random.default_rng(0)
    n = STEPS * batch
    data = fcgpu.dataset(random.standard_normal((n, FEATURES), np.float32), np.arange(n) % 10)
    events = fcgpu.train(
        data, device=backend, hidden=hidden, optimizer="adam", schedule="constant", batch=batch, shuffle=False,
        epochs=1000,
    )  # fmt: skip
    next(events)
    seconds = seconds_of(lambda: list(islice(events, 1)), backend) / STEPS
    events.close()
    return seconds
