"""The one decision about the device, and the few things the rest needs of it: a namespace, copies, workers.

Everything above asks `choose` once and then works on arrays through `Backend.xp`. What stays out: any formula.
"""

import gc
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np

from fcgpu.errors import ConfigError, DeviceError, DeviceMemoryError

CPU_SPARE = 0.5  # the share of free memory that a run may plan with: the rest is for the data and for other programs
GPU_SPARE = 0.9
INSTALL = "pip install 'fcgpu[cuda12]' (or cuda13, by the CUDA version that nvidia-smi shows)"


# What `auto` expects: the seconds of a step and, besides, its multiplications and additions by so many a second. Of two
# Xeon cores, and of an H100 in graphs of launches, where one takes some 2 µs; a run there is 2 s longer than its steps,
# for CUDA, cuBLAS and the kernels.
CPU_STEP, CPU_FLOPS = 60e-6, 1.5e11
GPU_LAUNCH, GPU_FLOPS = 2e-6, 3e13
GPU_START = 2.0
BLOCK = 1000  # rows of data looked at together


class Work(NamedTuple):
    """What a device is chosen for: a step's multiplications and additions, a GPU's launches for it, and how many."""

    flop: float
    launches: int
    steps: int = 1

    @property
    def on_cpu(self) -> float:
        """Seconds, expected."""
        return self.steps * (CPU_STEP + self.flop / CPU_FLOPS)

    @property
    def on_gpu(self) -> float:
        """Seconds, expected, with a GPU's start."""
        return GPU_START + self.steps * (GPU_LAUNCH * self.launches + self.flop / GPU_FLOPS)

    @property
    def is_small(self) -> bool:
        """Is a CPU expected to be done before a GPU?"""
        return self.on_cpu < self.on_gpu


@dataclass(frozen=True)
class Backend:
    """Where a run computes. `xp` is the array namespace, `reason` says why it was chosen."""

    name: str  # "numpy" or "cupy"
    device: str  # "cpu" or "cuda:N"
    xp: Any
    hardware: str
    reason: str

    @property
    def on_gpu(self) -> bool:
        return self.device != "cpu"

    def to_device(self, array: Any, dtype: Any = None) -> Any:
        """A host array on the device; on the CPU the array itself where the type is right already."""
        if dtype is None and not self.on_gpu:
            return array  # also rows of a sparse matrix, which are an array only a tile at a time
        with np.errstate(over="ignore"):  # an infinity is for the divergence check to find
            return self.xp.asarray(array, dtype=dtype)

    def to_host(self, array: Any) -> Any:
        """A device array as a NumPy array, for which it waits; a host array is returned as it is."""
        return self.xp.asnumpy(array) if self.holds(array) else array

    def holds(self, array: Any) -> bool:
        """Is it an array of this backend's GPU memory?"""
        return self.on_gpu and isinstance(array, self.xp.ndarray)

    def synchronize(self) -> None:
        """Wait until the device has finished what it was given."""
        if self.on_gpu:
            self.xp.cuda.get_current_stream().synchronize()

    def ran_out(self, error: BaseException) -> bool:
        """Does the error say that there is no memory left? CuPy's own is a MemoryError; the driver, which loads a
        kernel where it is first launched, and cuBLAS have words for it.
        """
        words = ("OUT_OF_MEMORY", "cudaErrorMemoryAllocation", "ALLOC_FAILED")
        return isinstance(error, MemoryError) or (self.on_gpu and any(word in str(error) for word in words))

    @contextmanager
    def enough_memory(self, otherwise: str) -> Iterator[None]:
        """DeviceMemoryError, with these words, where a GPU has too little of it for what is inside."""
        try:
            yield
        except Exception as error:
            if not (self.on_gpu and self.ran_out(error)):
                raise
            raise DeviceMemoryError(f"{self.device} ran out of memory ({_line(error)}): {otherwise}") from error

    def give_back(self) -> None:
        """Memory that no array uses goes back to the device, also what a caught error kept alive."""
        gc.collect()
        if self.on_gpu:
            self.xp.get_default_memory_pool().free_all_blocks()

    def memory(self) -> int:
        """Bytes that a run may plan with."""
        if self.on_gpu:
            free, _total = self.xp.cuda.runtime.memGetInfo()
            return int(GPU_SPARE * (free + self.xp.get_default_memory_pool().free_bytes()))
        return int(CPU_SPARE * _free_host_memory())


def choose(device: str = "auto", work: Work | None = None) -> Backend:
    """The backend for `device`: "auto", "cpu", "cuda" or "cuda:N". Makes the chosen GPU the thread's current device.

    "auto" is the GPU when it works, else the CPU; with `work` so little that the CPU is expected to be done before a
    GPU, the CPU.
    Raises ConfigError for another word; DeviceError, with cause and remedy, for a GPU that cannot work.
    """
    if device == "cpu":
        return _cpu("asked for")
    if device == "auto":
        if work and work.is_small:
            return _cpu(f"expected to take {work.on_cpu:.1g} s here, and {work.on_gpu:.2g} s on a GPU with its start")
        try:
            return _gpu(0, "a product ran on it")
        except DeviceError as error:
            return _cpu(f"no GPU: {error}")
    kind, colon, number = device.partition(":")
    if kind != "cuda" or (colon and not number.isdecimal()):
        raise ConfigError(f"device={device!r} is not a device; choose from auto, cpu, cuda, cuda:N")
    try:
        return _gpu(int(number or 0), "asked for")
    except DeviceError as error:
        raise DeviceError(f"device={device!r}: {error}, or use device='cpu'") from error


def cpu_count() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers:
    """Calls f(0), ..., f(n - 1) on up to `threads` threads, where each product runs on the thread that asked for it.

    The calling thread is one of them; the others are started by the first call that needs them, sleep between calls,
    and end with `close`. Which thread gets which index is not fixed, so f must write only what belongs to its index or
    its thread. Inside `with workers.quiet()` BLAS is held to one thread, and given back afterwards: two BLAS threads on
    a small product can be 20 times slower than one, and one thread a product gives the same bits on every machine.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._helpers: list[_Helper] = []

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """BLAS on one thread, and no warnings for the infinities that the divergence check will find."""
        with ONE_BLAS_THREAD, np.errstate(all="ignore"):
            yield

    def run(self, function: Callable[[int], None], n: int) -> None:
        """Raises what a call of `function` raised, after all threads have stopped."""
        indices = iter(range(n))  # threads take turns at it
        needed = min(self.threads, n) - 1
        while len(self._helpers) < needed:
            self._helpers.append(_Helper())
        for helper in self._helpers[:needed]:
            helper.jobs.put((function, indices))
        try:
            for i in indices:
                function(i)
        finally:
            errors = [helper.ended.get() for helper in self._helpers[:needed]]
        for error in filter(None, errors):
            raise error

    def close(self) -> None:
        for helper in self._helpers:
            helper.jobs.put(None)
            helper.thread.join()
        self._helpers = []


def by_blocks(n: int, threads: int, function: Callable[[slice], None]) -> None:
    """Calls the function with every BLOCK of n rows, on so many threads."""
    with closing(Workers(threads)) as workers:
        workers.run(lambda i: function(slice(i * BLOCK, min(n, (i + 1) * BLOCK))), -(-n // BLOCK))


@cache
def _blas() -> Any:
    """The BLAS libraries of this process, NumPy's among them. To find them takes as long as some 50 small updates."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


class _OneBlasThread:
    """BLAS on one thread while any thread of ours is inside: who comes first sets it, who leaves last gives it back."""

    def __init__(self) -> None:
        self._lock, self._inside, self._limits = threading.Lock(), 0, None

    def __enter__(self) -> None:
        with self._lock:
            if self._inside == 0:
                _be_heard()
                self._limits = _blas().limit(limits=1, user_api="blas")
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._limits is not None:
                _be_heard()
                self._limits.restore_original_limits()
                _be_heard()


ONE_BLAS_THREAD = _OneBlasThread()


def _be_heard() -> None:
    """From 3.8 on threadpoolctl heeds the first thread that sets a limit, and no other until that one lets go."""
    import threadpoolctl

    let_go = getattr(getattr(threadpoolctl, "OpenBLASController", None), "clear_controlling_thread", None)
    if let_go is not None:
        let_go(force=True)


class _Helper:
    """A thread that takes jobs from one queue and says in another, by None or an error, that it has done one."""

    def __init__(self) -> None:
        self.jobs: SimpleQueue[tuple[Callable[[int], None], Iterator[int]] | None] = SimpleQueue()
        self.ended: SimpleQueue[BaseException | None] = SimpleQueue()
        self.thread = threading.Thread(target=self._work, name="fcgpu", daemon=True)
        self.thread.start()

    def _work(self) -> None:
        np.seterr(all="ignore")
        while job := self.jobs.get():
            function, indices = job
            error = None
            try:
                for i in indices:
                    function(i)
            except BaseException as caught:  # the thread that asked raises it
                error = caught
            self.ended.put(error)


def _cpu(reason: str) -> Backend:
    n = cpu_count()
    return Backend("numpy", "cpu", np, f"{n} CPU core{'s' if n != 1 else ''}", reason)


def _gpu(number: int, reason: str) -> Backend:
    try:
        import cupy
    except ModuleNotFoundError:
        raise DeviceError(f"CuPy is not installed: {INSTALL}") from None
    except Exception as error:  # a wheel whose libraries do not load: any error can come out of its import
        raise DeviceError(f"CuPy does not import ({_line(error)}): reinstall it with {INSTALL}") from error
    runtime = cupy.cuda.runtime
    try:
        count = int(runtime.getDeviceCount())
    except runtime.CUDARuntimeError as error:
        raise DeviceError(_why_no_device(runtime, error)) from None
    if number >= count:
        have = ", ".join(f"cuda:{i}" for i in range(count)) or "none"
        raise DeviceError(f"there is no cuda:{number}, this machine has {have}: choose one of these")
    try:
        cupy.cuda.Device(number).use()
        ones = cupy.ones((2, 2), dtype=np.float32)
        works = float((ones @ ones + 1).sum()) == 12.0
    except Exception as error:  # whatever a half-installed CUDA throws is the cause to be shown
        raise DeviceError(f"cuda:{number} fails on a 2x2 product ({_line(error)}): {INSTALL}") from error
    if not works:
        raise DeviceError(f"cuda:{number} computes a 2x2 product wrongly: check the driver with nvidia-smi")
    properties = runtime.getDeviceProperties(number)
    return Backend("cupy", f"cuda:{number}", cupy, properties["name"].decode(), reason)


def _why_no_device(runtime: Any, error: Exception) -> str:
    driver, built = int(runtime.driverGetVersion()), int(runtime.runtimeGetVersion())
    if driver == 0:
        return "no NVIDIA driver was found: install it and check with nvidia-smi"
    if driver // 1000 < built // 1000:
        return (
            f"the driver is for CUDA {driver // 1000}, the installed CuPy for CUDA {built // 1000}: "
            "update the driver, or install the CuPy that matches it"
        )
    return f"no usable GPU ({_line(error)}): check with nvidia-smi"


def _line(error: Exception) -> str:
    """The first line of an error, which for CUDA's is the one that says what happened."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _free_host_memory() -> int:
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return 1024 * next(int(line.split()[1]) for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):  # not Linux
        return 8 << 30
