"""How one call is timed. A clock calls `step` and returns (seconds, answer as a host array)."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np


def host(step: Callable[[], Any]) -> tuple[float, Any]:
    """perf_counter around the call and the reading of its answer, which waits for work that a library put off."""
    began = time.perf_counter()
    answer = np.asarray(step())
    return time.perf_counter() - began, answer


def cupy_events(step: Callable[[], Any]) -> tuple[float, Any]:
    """Events of CuPy's current stream around the call alone; the answer is read afterwards."""
    import cupy

    begin, end = cupy.cuda.Event(), cupy.cuda.Event()
    begin.record()
    answer = step()
    end.record()
    end.synchronize()
    return cupy.cuda.get_elapsed_time(begin, end) / 1000, np.asarray(cupy.asnumpy(answer))


def torch_events(step: Callable[[], Any]) -> tuple[float, Any]:
    """Events of PyTorch's current stream around the call alone; the answer is read afterwards."""
    import torch

    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    answer = step()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000, answer.cpu().numpy()
