"""Where a GPU becomes faster: fcgpu on the CPU against fcgpu on the GPU, over batch and network sizes."""

from collections.abc import Iterator, Sequence
from typing import Any

import fcgpu
from fcgpu.backend import GPU_START
from fcgpu.bench import Limits, measure
from fcgpu.params import Spec
from fcgpu.train.plan import work_of

TITLE, LIMIT = "CPU against GPU, and the length of a run from which the GPU is faster", 120.0
HIDDEN = ((128, 64), (16,), (512, 256), (2048, 2048), ())
BATCHES = (1, 10, 128, 1024, 8192)
SECONDS = 0.1


def rows(
    device: str, hidden: Sequence[Any] = HIDDEN, batches: Sequence[int] = BATCHES, seconds: float = SECONDS
) -> Iterator[dict[str, Any]]:
    """For each network and batch: the seconds of a step, measured and as fcgpu expects them, and the number of steps
    from which the GPU, its start-up included, finishes first; None if the CPU's steps are faster.
    """
    cpu, gpu = fcgpu.choose("cpu"), fcgpu.choose(device)
    yield {"cpu": cpu.hardware, "gpu": gpu.hardware}
    for sizes in hidden:
        spec = Spec((784, *sizes, 10))
        times = [_steps(backend, sizes, batches, seconds) for backend in (cpu, gpu)]
        for batch, on_cpu, on_gpu in zip(batches, *times, strict=True):
            work = work_of(spec, batch)
            saved = on_cpu - on_gpu
            yield {
                "sizes": spec.sizes, "batch": batch, "flop": work.flop, "launches": work.launches,
                "cpu_seconds": on_cpu, "expected": work.cpu_seconds, "gpu_seconds": on_gpu,
                "expected_of_the_gpu": work.gpu_seconds - GPU_START, "ratio": on_gpu / on_cpu,
                "steps_from_which_the_gpu_wins": GPU_START / saved if saved > 0 else None,
            }  # fmt: skip


def _steps(backend: Any, hidden: Any, batches: Sequence[int], seconds: float) -> list[float]:
    """Seconds of a step for each batch."""
    found = measure([backend], seconds=seconds, hidden=[hidden], batches=batches)
    return [t.batch / t.samples_per_second for t in found if not isinstance(t, Limits)]
