"""Where a GPU begins to win: fcgpu on the CPU against fcgpu on the GPU, over sizes of batch and network."""

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import fcgpu
from bench.gpu.clock import eager
from fcgpu.bench import Limits, measure
from fcgpu.params import Spec
from fcgpu.train.plan import work_of

TITLE, LIMIT = "CPU against GPU, and the size below which the CPU wins", 120.0
HIDDEN = ((), (16,), (128, 64), (512, 256), (64,) * 8, (2048, 2048))
BATCHES = (1, 10, 32, 128, 512, 4096)
SECONDS = 0.25


def rows(
    device: str, hidden: Sequence[Any] = HIDDEN, batches: Sequence[int] = BATCHES, seconds: float = SECONDS
) -> Iterator[dict[str, Any]]:
    """A row for each network and batch, then one with what LAUNCH_FLOP of fcgpu/backend.py should be."""
    cpu, gpu = fcgpu.choose("cpu"), fcgpu.choose(device)
    yield {"cpu": cpu.hardware, "gpu": gpu.hardware}
    found: dict[str, list[float]] = {"recorded": [], "eager": []}
    for sizes in hidden:
        taken = {}
        for name, backend in (("cpu", cpu), ("recorded", gpu), ("eager", gpu)):
            if name == "eager":
                with eager():
                    taken[name] = _steps(backend, sizes, batches, seconds)
            else:
                taken[name] = _steps(backend, sizes, batches, seconds)
        spec = Spec((784, *sizes, 10))
        works = [work_of(spec, batch) for batch in batches]
        for i, batch in enumerate(batches):
            row = {"sizes": spec.sizes, "batch": batch, "flop": works[i].flop, "launches": works[i].launches}
            yield row | {f"{name}_seconds": times[i] for name, times in taken.items()}
        for name in found:
            if at := crossing([w.flop for w in works], taken["cpu"], taken[name]):
                found[name].append(at / works[0].launches)
                yield {"sizes": spec.sizes, "against": name, "crossover_flop": at}
    yield {f"launch_flop_{name}": statistics.median(values) if values else None for name, values in found.items()}


def crossing(flops: Sequence[float], cpu: Sequence[float], gpu: Sequence[float]) -> float | None:
    """The work from which on the CPU takes longer, between two measured ones by proportion; None without such."""
    for i, (slow, fast) in enumerate(zip(cpu, gpu, strict=True)):
        if slow > fast:
            if i == 0:
                return flops[0]
            before, after = gpu[i - 1] - cpu[i - 1], slow - fast
            return flops[i - 1] + (flops[i] - flops[i - 1]) * before / (before + after)
    return None


def _steps(backend: Any, hidden: Any, batches: Sequence[int], seconds: float) -> list[float]:
    """Seconds of a step for each batch."""
    found = measure([backend], seconds=seconds, hidden=[hidden], batches=batches)
    return [t.batch / t.samples_per_second for t in found if not isinstance(t, Limits)]
