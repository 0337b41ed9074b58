"""Seconds of work on a device: device events on a GPU, wall-clock time on the CPU."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest.mock import patch

from fcgpu.train import capture, cluster

ROUNDS = 7
ASKED = "the benchmark asks for it"


def seconds_of(work: Callable[[], Any], backend: Any, times: int = 1, rounds: int = ROUNDS) -> float:
    """Seconds of one call: the median over `rounds` rounds of `times` calls each, after one warm-up round."""
    found = []
    for number in range(rounds + 1):
        taken = _round(work, backend, times)
        if number:
            found.append(taken / times)
    return statistics.median(found)


def _round(work: Callable[[], Any], backend: Any, times: int) -> float:
    if not backend.on_gpu:
        began = time.perf_counter()
        for _ in range(times):
            work()
        return time.perf_counter() - began
    cuda = backend.xp.cuda
    begin, end = cuda.Event(), cuda.Event()
    begin.record()
    for _ in range(times):
        work()
    end.record()
    end.synchronize()
    return float(cuda.get_elapsed_time(begin, end)) / 1000


@contextmanager
def eager() -> Iterator[None]:
    """Run steps eagerly, without CUDA graphs."""
    with patch.object(capture, "why_eager", lambda backend: ASKED), launched():
        yield


def launched() -> AbstractContextManager[Any]:
    """Run steps as many kernel launches, not as one cluster of thread blocks."""
    return patch.object(cluster, "why_not", lambda *arguments: ASKED)
