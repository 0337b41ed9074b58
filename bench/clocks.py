"""How one call is timed. A clock calls `step` and returns (seconds, answer as a host array).

An answer may be a function that fetches it: then the fetching is timed where the host's clock waits for it, and not
where a device's own events are the clock.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np


def host(step: Callable[[], Any]) -> tuple[float, Any]:
    """perf_counter around the call and the reading of its answer, which waits for work that a library put off."""
    began = time.perf_counter()
    answer = np.asarray(_fetched(step()))
    return time.perf_counter() - began, answer


def cupy_events(step: Callable[[], Any]) -> tuple[float, Any]:
    """Events of CuPy's current stream around the call alone; the answer is read afterwards."""
    import cupy

    begin, end = cupy.cuda.Event(), cupy.cuda.Event()
    begin.record()
    answer = step()
    end.record()
    end.synchronize()
    return cupy.cuda.get_elapsed_time(begin, end) / 1000, np.asarray(cupy.asnumpy(_fetched(answer)))


def torch_events(step: Callable[[], Any]) -> tuple[float, Any]:
    """Events of PyTorch's current stream around the call alone; the answer is read afterwards."""
    import torch

    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    answer = step()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000, answer.cpu().numpy()


def _fetched(answer: Any) -> Any:
    return answer() if callable(answer) else answer
