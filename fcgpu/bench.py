"""How fast this machine trains, on its CPU and its GPU, and how much of what its hardware can do that is.

`measure` is a generator, as `train` is: a Limits for each device, then a Throughput for each network and batch size.
It prints nothing, and stopping it early leaves nothing behind. What stays out: comparisons with other libraries.
"""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from fcgpu.backend import Backend
from fcgpu.data.dataset import Dataset, dataset
from fcgpu.params import Spec
from fcgpu.train import train
from fcgpu.train.events import EpochEnded
from fcgpu.train.plan import work_of
from fcgpu.workers import cpu_count

HIDDEN = ((128, 64), (512, 256), (1024, 1024))
BATCHES: tuple[int | str, ...] = (10, 128, 1024, "full")
FEATURES, CLASSES = 784, 10
SAMPLES = 8192  # of a full batch on the CPU, and of what mini-batches are taken from
GPU_SAMPLES = 60_000
PRODUCT = 2048  # rows and columns of the square matrices whose product gives the peak
COPY_BYTES = 256 << 20  # beyond any cache
EPOCHS = 1 << 16  # more than fit into the time of one measurement


@dataclass(frozen=True)
class Limits:
    """What the hardware was seen to do: float32 operations and bytes (read and written) in a second, at best."""

    backend: Backend
    flops: float
    bandwidth: float


@dataclass(frozen=True)
class Throughput:
    """Training of one network with one batch size, float32, gradient descent. Shares are of the device's Limits."""

    backend: Backend
    sizes: tuple[int, ...]
    batch: int | str  # samples an update, or "full"
    samples: int  # trained on while the clock ran
    seconds: float
    compute_share: float
    memory_share: float

    @property
    def samples_per_second(self) -> float:
        return self.samples / self.seconds


def measure(
    backends: Sequence[Backend],
    *,
    seconds: float = 1.0,
    hidden: Sequence[tuple[int, ...]] = HIDDEN,
    batches: Sequence[int | str] = BATCHES,
    threads: int | None = None,
) -> Iterator[Limits | Throughput]:
    """Limits and throughputs of every backend, about `seconds` for each; batches are sample counts or "full".

    Raises what `train` raises: ConfigError for a batch that is more than the samples, DeviceError for a network that
    does not fit.
    """
    for backend in backends:
        limits = _limits(backend, seconds)
        yield limits
        data = _noise(GPU_SAMPLES if backend.on_gpu else SAMPLES)
        for sizes in hidden:
            for batch in batches:
                yield _throughput(limits, data, sizes, batch, seconds, threads)


def traffic(spec: Spec, batch: int, itemsize: int, feature_size: int) -> float:
    """The least bytes a sample that must cross the memory: its features once forward and once for dW, its share of an
    update that reads gradient and parameters and writes them. What stays in a cache is not counted.
    """
    return 2 * feature_size * spec.sizes[0] + 4 * itemsize * spec.n_params / batch


def _limits(backend: Backend, seconds: float) -> Limits:
    """Each core, or the GPU as a whole, multiplies and copies matrices of its own, all at the same time."""
    xp, n = backend.xp, PRODUCT
    cores = 1 if backend.on_gpu else cpu_count()
    host = np.random.default_rng(0).random((n, n), np.float32)
    A, B = backend.to_device(host), backend.to_device(host.T.copy())
    products = [xp.empty((n, n), dtype=A.dtype) for _ in range(cores)]
    source, target = (xp.empty((COPY_BYTES,), dtype=np.uint8) for _ in range(2))
    source.fill(1)  # pages that nobody wrote are not in memory yet
    size = -(-COPY_BYTES // cores)
    parts = [slice(start, start + size) for start in range(0, COPY_BYTES, size)]

    def multiply(core: int) -> None:
        xp.matmul(A, B, out=products[core])

    def move(core: int) -> None:
        target[parts[core]] = source[parts[core]]

    if backend.on_gpu:
        product, copy = (_best(backend, lambda work=work: work(0), seconds / 2) for work in (multiply, move))
    else:
        from threadpoolctl import threadpool_limits

        with ThreadPoolExecutor(cores) as pool, threadpool_limits(1, "blas"):
            product, copy = (
                _best(backend, lambda work=work: list(pool.map(work, range(cores))), seconds / 2)
                for work in (multiply, move)
            )
    return Limits(backend, 2 * n**3 * cores / product, 2 * COPY_BYTES / copy)


def _best(backend: Backend, work: Any, seconds: float) -> float:
    """The shortest of all calls that fit into `seconds`, at least three, after one that does not count."""
    times: list[float] = []
    work()
    backend.synchronize()
    while len(times) < 3 or sum(times) < seconds:
        began = time.perf_counter()
        work()
        backend.synchronize()
        times.append(time.perf_counter() - began)
    return min(times)


def _noise(samples: int) -> Dataset:
    """Bytes and labels without meaning, of the digits' shape."""
    random = np.random.default_rng(0)
    X = random.integers(0, 256, (samples, FEATURES), np.uint8)
    return dataset(X, np.arange(samples) % CLASSES, scale=1 / 255, name="noise")


def _throughput(
    limits: Limits, data: Dataset, hidden: tuple[int, ...], batch: int | str, seconds: float, threads: int | None
) -> Throughput:
    """Epochs after the first, for about `seconds`; the clock is read after 1, 2, 4, ... epochs, when all are done."""
    backend, rows = limits.backend, data.n_samples if batch == "full" else int(batch)
    if batch != "full":  # about 256 steps an epoch, so that slow ones end
        n = min(data.n_samples, max(rows, 256 * rows))
        data = dataset(data.X[:n], data.y[:n], scale=data.scale, name=data.name)
    events = train(
        data, device=backend, threads=threads, hidden=hidden, batch=batch, epochs=EPOCHS,
        optimizer="gradient_descent", learning_rate=1e-3,
    )  # fmt: skip
    began = spent = 0.0
    samples, look = 0, 1
    for event in events:
        if isinstance(event, EpochEnded) and event.epoch == look:
            _ = event.loss  # reading it waits for the device
            now = time.perf_counter()
            began = began or now
            samples, spent = (look - 1) * data.n_samples, now - began
            if spent >= seconds:
                break
            look *= 2
    spec = Spec((FEATURES, *hidden, CLASSES))
    rate = samples / spent
    return Throughput(
        backend, spec.sizes, batch, samples, spent,
        rate * work_of(spec, 1).flop / limits.flops,
        rate * traffic(spec, rows, 4, data.X.itemsize) / limits.bandwidth,
    )  # fmt: skip
