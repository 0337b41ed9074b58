"""How one call is timed. A clock calls `step` and returns (seconds, result as a host array).

A result may be a function that fetches the value. The host clock includes that fetch; device events do not.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np


def host(step: Callable[[], Any]) -> tuple[float, Any]:
    """perf_counter around the call and the fetch of its result, which waits for asynchronous work."""
    began = time.perf_counter()
    answer = np.asarray(_fetched(step()))
    return time.perf_counter() - began, answer


def cupy_events(step: Callable[[], Any]) -> tuple[float, Any]:
    """Events of CuPy's current stream around the call alone; the result is fetched afterwards."""
    import cupy

    begin, end = cupy.cuda.Event(), cupy.cuda.Event()
    begin.record()
    answer = step()
    end.record()
    end.synchronize()
    return cupy.cuda.get_elapsed_time(begin, end) / 1000, np.asarray(cupy.asnumpy(_fetched(answer)))


def torch_events(step: Callable[[], Any]) -> tuple[float, Any]:
    """Events of PyTorch's current stream around the call alone; the result is fetched afterwards."""
    import torch

    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    answer = step()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000, answer.cpu().numpy()


def _fetched(answer: Any) -> Any:
    return answer() if callable(answer) else answer
