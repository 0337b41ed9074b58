"""Measures how fast this machine trains on its CPU and GPU, and how near that comes to the limits of the hardware.

`measure` is a generator, like `train`: it yields a Limits for each device, then a Throughput for each network and batch
size. It prints nothing. Comparisons with other libraries are not here but in bench/.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fcgpu.backend import Backend
from fcgpu.data.dataset import Dataset, dataset
from fcgpu.host import cpu_count
from fcgpu.kernels import compiled, cublas
from fcgpu.params import Spec
from fcgpu.train import train
from fcgpu.train.events import EpochEnded
from fcgpu.train.plan import work_of
from fcgpu.train.plan_gpu import PIECES, why_layers
from fcgpu.train.recipe import Recipe
from fcgpu.workers import Workers

HIDDEN = ((128, 64), (512, 256), (1024, 1024))
BATCHES: tuple[int | str, ...] = (10, 128, 1024, "full")
FEATURES, CLASSES = 784, 10
SAMPLES = 8192  # samples of the data on the CPU, and so of a full batch
GPU_SAMPLES = 60_000
PRODUCT = 2048  # rows of the matrices that are multiplied to find the peak
PRODUCTS_OF_PIECES = 6  # bfloat16 products that make one of float32; see kernels/middle.py
COPY_BYTES = 256 << 20  # more than any cache holds
EPOCHS = 1 << 16  # more than a measurement has time for


@dataclass(frozen=True)
class Limits:
    """The best rates that were measured on a device, per second."""

    backend: Backend
    flops: float  # operations in float32 matrix products
    pixel_flops: float  # operations in products of pixels and float32, which special units may compute
    bandwidth: float  # bytes read and written in a copy


class Probe(NamedTuple):
    """What is called, and timed, to find a limit."""

    amount: float  # operations or bytes of all cores together
    call: Callable[[int], Any]  # the part of one core, by its number


@dataclass(frozen=True)
class Throughput:
    """The speed of training one network with one batch size, in float32 with gradient descent.

    compute_share and memory_share are fractions of the measured time: the time that the products (of the first layer
    with pixels), and the memory traffic, would take at the device's Limits.
    """

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
    """Yield the Limits and Throughputs of every backend, each measured for about `seconds`.

    hidden : sizes of the hidden layers of each network. batches : numbers of samples, or "full".
    Raises as `train`: DeviceError for a network that does not fit.
    """
    for backend in backends:
        with backend.current():
            limits = _limits(backend, seconds)
        yield limits
        data = _noise(GPU_SAMPLES if backend.on_gpu else SAMPLES)
        for sizes in hidden:
            for batch in batches:
                yield _throughput(limits, data, sizes, batch, seconds, threads)


def traffic(spec: Spec, batch: int, itemsize: int, feature_size: int) -> float:
    """The least bytes per sample that must be read or written in memory.

    They are its features, once for the forward pass and once for dW, and its share of an update, which reads and writes
    gradient and parameters. What stays in a cache is not counted.
    """
    return 2 * feature_size * spec.sizes[0] + 4 * itemsize * spec.n_params / batch


def product_seconds(spec: Spec, limits: Limits) -> float:
    """The least seconds for a sample's products: with pixels in the first layer, in float32 in the others."""
    first = 2 * 2.0 * spec.sizes[0] * spec.sizes[1]
    return first / limits.pixel_flops + (work_of(spec, 1).flop - first) / limits.flops


def _limits(backend: Backend, seconds: float) -> Limits:
    """Measure the Limits. All cores at the same time, or the GPU, multiply and copy matrices of their own."""
    cores = 1 if backend.on_gpu else cpu_count()
    floats, pixels = _on_gpu(backend) if backend.on_gpu else _on_cpu(cores)
    kinds = floats, pixels, [_copy(backend, cores)]
    share = seconds / sum(map(len, kinds))
    with closing(Workers(cores)) as workers, workers.quiet():

        def rate(probe: Probe) -> float:
            return probe.amount / _best(backend, lambda: workers.run(probe.call, cores), share)

        flops, pixel_flops, bandwidth = (max(map(rate, probes), default=0.0) for probes in kinds)
    if backend.on_gpu:
        flops = max(flops, pixel_flops * PIECES["float32"] / PRODUCTS_OF_PIECES)
    return Limits(backend, flops, pixel_flops or flops, bandwidth)


def _on_cpu(cores: int) -> tuple[list[Probe], list[Probe]]:
    """(float32 products, products with pixels).

    The former are of large square matrices, and of a first layer; the latter of a first layer forward and backward, and
    none if the processor has no unit for them.
    """
    random, n, units = np.random.default_rng(0), PRODUCT, HIDDEN[0][0]
    A, B = (random.random((n, n), np.float32) for _ in range(2))
    X = random.integers(0, 256, (n, FEATURES), np.uint8)
    W, dZ = (random.random((rows, units), np.float32) for rows in (FEATURES, n))
    F = X.astype(np.float32)
    C, Z, dW = (np.empty((cores, *shape), np.float32) for shape in (A.shape, dZ.shape, W.shape))
    square, layer = 2.0 * n**3 * cores, 2.0 * X.size * units * cores
    floats = [
        Probe(square, lambda core: np.matmul(A, B, out=C[core])),
        Probe(layer, lambda core: np.matmul(F, W, out=Z[core])),
    ]
    if not compiled.has_tile_unit():
        return floats, []
    multiply = compiled.native.multiply_bytes
    return floats, [
        Probe(layer, lambda core: multiply(X, W, Z[core], 1.0, False, True)),
        Probe(layer, lambda core: multiply(X.mT, dZ, dW[core], 1.0, False, True)),
    ]


def _on_gpu(backend: Backend) -> tuple[list[Probe], list[Probe]]:
    """(float32 products, products with pixels); the latter are of bfloat16 pieces, and none without tensor cores."""
    xp, n = backend.xp, PRODUCT
    host = np.random.default_rng(0).random((n, n), np.float32)
    A, C = backend.to_device(host), xp.empty((n, n), dtype=np.float32)
    floats = [Probe(2.0 * n**3, lambda core: xp.matmul(A, A, out=C))]
    network = Spec((FEATURES, *HIDDEN[0], CLASSES))
    if why_layers(network, Recipe(), cut=False, xp=xp):
        return floats, []
    from ml_dtypes import bfloat16

    product, halves = cublas.through_cupy(xp), backend.to_device(host.astype(bfloat16))
    return floats, [Probe(2.0 * n**3 / PIECES["float32"], lambda core: product(halves, halves, C))]


def _copy(backend: Backend, cores: int) -> Probe:
    """A copy of COPY_BYTES; its amount is the bytes read and written."""
    source, target = (backend.xp.empty((COPY_BYTES,), dtype=np.uint8) for _ in range(2))
    source.fill(1)  # pages are only allocated when they are written
    size = -(-COPY_BYTES // cores)
    parts = [slice(start, start + size) for start in range(0, COPY_BYTES, size)]

    def move(core: int) -> None:
        target[parts[core]] = source[parts[core]]

    return Probe(2.0 * COPY_BYTES, move)


def _best(backend: Backend, call: Callable[[], Any], seconds: float) -> float:
    """The shortest time of a call, from as many as fit into `seconds` but at least three, after a warm-up call."""
    times: list[float] = []
    call()
    backend.synchronize()
    while len(times) < 3 or sum(times) < seconds:
        began = time.perf_counter()
        call()
        backend.synchronize()
        times.append(time.perf_counter() - began)
    return min(times)


def _noise(samples: int) -> Dataset:
    """Random uint8 features of MNIST's width, with labels in turn."""
    random = np.random.default_rng(0)
    X = random.integers(0, 256, (samples, FEATURES), np.uint8)
    return dataset(X, np.arange(samples) % CLASSES, scale=1 / 255, name="noise")


def _throughput(
    limits: Limits, data: Dataset, hidden: tuple[int, ...], batch: int | str, seconds: float, threads: int | None
) -> Throughput:
    """Time the epochs after the first for about `seconds`; the clock is only read after epochs 1, 2, 4, ..."""
    backend, rows = limits.backend, data.n_samples if batch == "full" else int(batch)
    if batch != "full":  # about 256 steps an epoch, so that slow ones end
        n = min(data.n_samples, 256 * rows)
        data = dataset(data.X[:n], data.y[:n], scale=data.scale, name=data.name)
    events = train(
        data, device=backend, threads=threads, hidden=hidden, batch=batch, epochs=EPOCHS,
        optimizer="gradient_descent", learning_rate=1e-3, schedule="constant",
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
        rate * product_seconds(spec, limits),
        rate * traffic(spec, rows, 4, data.X.itemsize) / limits.bandwidth,
    )  # fmt: skip
