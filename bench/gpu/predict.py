"""Labels on the host: fcgpu against PyTorch eager, from floats on the GPU and from bytes on the host."""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

import fcgpu
from bench.cases import SIZES

TITLE, LIMIT = "labels of samples, on the host", 40.0
SAMPLES = (1, 1000, 60_000)
CALLS = 30


def rows(device: str, samples: Sequence[int] = SAMPLES) -> Iterator[dict[str, Any]]:
    backend, digits = fcgpu.choose(device), fcgpu.load("mnist")
    data = fcgpu.dataset(digits.X, digits.y, scale=digits.scale)
    *_, finished = fcgpu.train(data, device=backend, hidden=SIZES[1:-1], optimizer="adam", epochs=1)
    of_bytes = finished.model
    of_floats = replace(of_bytes, scale=1.0)
    for n in samples:
        X = np.resize(digits.X, (n, digits.X.shape[1]))
        floats = backend.to_device(np.multiply(X, digits.scale, dtype=np.float32))
        calls: dict[str, Callable[[], Any]] = {
            "fcgpu, floats on the GPU": partial(of_floats.predict, floats, device=backend),
            "fcgpu, bytes on the host": partial(of_bytes.predict, X, device=backend),
        } | _pytorchs(of_floats, X, floats, digits.scale)
        yield {"samples": n, **{f"{name}, us": 1e6 * _seconds(call) for name, call in calls.items()}}


def _pytorchs(model: Any, X: Any, floats: Any, scale: float) -> dict[str, Callable[[], Any]]:
    try:
        import torch
    except ModuleNotFoundError:
        return {}
    if not torch.cuda.is_available():
        return {}
    network, there = fcgpu.to_torch(model).cuda(), torch.as_tensor(floats, device="cuda")

    def labels(features: Any) -> Any:
        with torch.inference_mode():
            return network(features).argmax(1).cpu().numpy()

    return {
        "PyTorch eager, floats on the GPU": lambda: labels(there),
        "PyTorch eager, bytes on the host": lambda: labels(torch.from_numpy(X).cuda().float().mul_(scale)),
    }


def _seconds(call: Callable[[], Any]) -> float:
    """The median over CALLS calls, after two for warm-up; each call ends with labels on the host."""
    found = []
    for _ in range(CALLS + 2):
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return statistics.median(found[2:])
