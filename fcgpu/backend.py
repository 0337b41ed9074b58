"""The decision about the device, and what the rest of the code needs from it: a namespace, copies, memory.

All other code calls `choose` once and then works on arrays through `Backend.xp`. There are no formulas here.
"""

import gc
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from fcgpu.errors import ConfigError, DeviceError, DeviceMemoryError, first_line
from fcgpu.host import cpu_count, free_memory

CPU_SHARE = 0.5  # the share of free memory that a run may plan with: the rest is for the data and for other programs
GPU_SHARE = 0.9
INSTALL = 'pip install "fcgpu[cuda12]" (or cuda13, by the CUDA version that nvidia-smi shows)'


# The cost model of "auto": seconds per step on a CPU or launch on a GPU, operations per second, and bytes per second
# of parameters that are too many for a core's cache. Measured on two EPYC cores, on 16 cores of a Xeon, and on an H200
# with CUDA graphs (bench/gpu/crossover.py). A run on a GPU takes GPU_START seconds more, to load CUDA and the kernels.
CPU_STEP, CPU_FLOPS, CPU_BYTES = 10e-6, 1.5e11, 2.7e10
GPU_LAUNCH, GPU_FLOPS, GPU_BYTES = 2e-6, 3e13, 1e12
GPU_START = 2.0


class Work(NamedTuple):
    """The work of a run, by which "auto" chooses a device."""

    flop: float  # multiplications and additions of a step
    launches: int  # kernel launches of a step on a GPU
    steps: int = 1
    bytes: float = 0.0  # that a step reads and writes of parameters, if they are too many for a core's cache

    @property
    def cpu_seconds(self) -> float:
        """Expected seconds on a CPU."""
        return self.steps * (CPU_STEP + self.flop / CPU_FLOPS + self.bytes / CPU_BYTES)

    @property
    def gpu_seconds(self) -> float:
        """Expected seconds on a GPU, including its start."""
        step = GPU_LAUNCH * self.launches + self.flop / GPU_FLOPS + self.bytes / GPU_BYTES
        return GPU_START + self.steps * step

    @property
    def is_small(self) -> bool:
        """Whether a CPU is expected to finish before a GPU."""
        return self.cpu_seconds < self.gpu_seconds


@dataclass(frozen=True)
class Backend:
    """A device to compute on, and its array library. `choose` makes one.

    name : "numpy" or "cupy". xp : the module of that name.
    device : "cpu" or "cuda:N". hardware : a description of it.
    reason : why it was chosen, in words.
    """

    name: str
    device: str
    xp: Any
    hardware: str
    reason: str

    def __reduce__(self) -> Any:
        return choose, (self.device,)  # a module cannot be pickled; another process looks for the device itself

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device != "cpu"

    def current(self) -> AbstractContextManager[Any]:
        """A context manager; inside, this thread's CuPy uses this GPU. For a CPU it does nothing."""
        return self.xp.cuda.Device(int(self.device.partition(":")[2])) if self.on_gpu else nullcontext()

    def to_device(self, array: Any, dtype: Any = None) -> Any:
        """An array on the device, converted to `dtype` unless None; `array` itself if it is that already."""
        if dtype is None and not self.on_gpu:
            return array  # may also be SparseRows or Pixels, which become arrays one tile at a time
        with self.current(), np.errstate(over="ignore"):  # the divergence check finds infinities
            return self.xp.asarray(array, dtype=dtype)

    def to_host(self, array: Any) -> Any:
        """A device array as a NumPy array, which waits for the device; any other array is returned as it is."""
        if not self.holds(array):
            return array
        with self.current():
            return self.xp.asnumpy(array)

    def holds(self, array: Any) -> bool:
        """Whether the array is a CuPy array and this backend a GPU."""
        return self.on_gpu and isinstance(array, self.xp.ndarray)

    def synchronize(self) -> None:
        """Wait until the device has finished all work in the current stream."""
        if self.on_gpu:
            with self.current():
                self.xp.cuda.get_current_stream().synchronize()

    def ran_out(self, error: BaseException) -> bool:
        """Whether the error says that memory ran out."""
        return isinstance(error, MemoryError) or (self.on_gpu and _is_of_gpu_memory(error))

    def enough_memory(self, otherwise: str) -> AbstractContextManager[Any]:
        """`current`, and DeviceMemoryError, with the remedy `otherwise`, if the GPU runs out of memory inside."""
        return self._enough_memory(otherwise) if self.on_gpu else nullcontext()

    @contextmanager
    def _enough_memory(self, otherwise: str) -> Iterator[None]:
        try:
            with self.current():
                yield
        except Exception as error:
            if not self.ran_out(error):
                raise
            raise DeviceMemoryError(f"{self.device} ran out of memory ({first_line(error)}): {otherwise}") from error

    def give_back(self) -> None:
        """Return to the device the memory that no array uses, including arrays that only a caught error refers to."""
        gc.collect()
        if self.on_gpu:
            with self.current():
                self.xp.get_default_memory_pool().free_all_blocks()

    def memory(self) -> int:
        """Bytes that a run may use: a share of the free memory of the device."""
        if not self.on_gpu:
            return int(CPU_SHARE * free_memory())
        with self.current():
            free, _total = self.xp.cuda.runtime.memGetInfo()
            return int(GPU_SHARE * (free + self.xp.get_default_memory_pool().free_bytes()))


def _is_of_gpu_memory(error: BaseException) -> bool:
    """Whether the error says that a GPU's memory ran out. CuPy raises a MemoryError; the driver, which allocates memory
    for a kernel at its first launch, and cuBLAS raise errors with certain words.
    """
    words = ("OUT_OF_MEMORY", "cudaErrorMemoryAllocation", "ALLOC_FAILED")
    return isinstance(error, MemoryError) or any(word in str(error) for word in words)


def on_gpu(array: Any) -> bool:
    """Whether the array, of CuPy or another library, is in a CUDA GPU's memory."""
    return hasattr(array, "__cuda_array_interface__")


def namespace_of(array: Any) -> Any:
    """The module cupy if the array is in a GPU's memory, else numpy."""
    return cupy() if on_gpu(array) else np


def cupy() -> Any:
    """The module cupy, imported at the first call. Raises DeviceError, with the remedy, if it cannot be imported."""
    try:
        import cupy
    except ModuleNotFoundError:
        raise DeviceError(f"CuPy is not installed: {INSTALL}") from None
    except Exception as error:  # its libraries do not load: its import can raise anything
        raise DeviceError(f"CuPy does not import ({first_line(error)}): reinstall it with {INSTALL}") from error
    return cupy


def gpu_of(array: Any) -> AbstractContextManager[Any]:
    """Inside, the GPU in whose memory the array is, if it is in one's, is the one on which the thread's CuPy allocates
    and computes.
    """
    return namespace_of(array).asarray(array).device if on_gpu(array) else nullcontext()


def as_numpy(array: Any) -> Any:
    """A NumPy copy of an array in a GPU's memory; anything else is returned as it is."""
    xp = namespace_of(array)
    if xp is np:
        return array
    with gpu_of(array):
        return xp.asnumpy(xp.asarray(array))


def device_of(asked: str, X: Any) -> str:
    """The device `asked`; if X is on a GPU, "auto" becomes that GPU.

    Raises ConfigError if X is on a GPU and another device was asked for.
    """
    if not on_gpu(X):
        return asked
    there = f"cuda:{cupy().asarray(X).device.id}"
    if asked not in ("auto", there) and not (asked == "cuda" and there == "cuda:0"):
        raise ConfigError(f"device={asked!r} with X on {there}: use device='auto', or cupy.asnumpy(X)")
    return there


def choose(device: str | Backend = "auto", work: Work | None = None, X: Any = None) -> Backend:
    """The Backend for `device`: "auto", "cpu", "cuda" (GPU 0), "cuda:N", or a Backend, which is returned.

    "auto" is the GPU that X is on, if it is on one. Otherwise it is the GPU if there is one that works, else the CPU;
    but the CPU if `work` is given and so little that the CPU is expected to finish first.
    Raises ConfigError for any other `device`, and if X is on another GPU; DeviceError, with cause and remedy, for a GPU
    that cannot be used.
    """
    if isinstance(device, Backend):
        device_of(device.device, X)
        return device
    device = device_of(device, X)
    if device == "cpu":
        return _cpu("asked for")
    if device == "auto":
        if work and work.is_small:
            return _cpu(
                f"expected to take {work.cpu_seconds:.1g} s here, and {work.gpu_seconds:.2g} s on a GPU with its start"
            )
        try:
            return _gpu(0, "a product ran on it")
        except DeviceError as error:
            return _cpu(f"no GPU: {error}")
    kind, colon, number = str(device).partition(":")
    if kind != "cuda" or (colon and not number.isdecimal()):
        raise ConfigError(f"device={device!r} is not a device; choose from auto, cpu, cuda, cuda:N")
    try:
        return _gpu(int(number or 0), "asked for")
    except DeviceError as error:
        raise DeviceError(f"device={device!r}: {error}, or use device='cpu'") from error


def _cpu(reason: str) -> Backend:
    n = cpu_count()
    return Backend("numpy", "cpu", np, f"{n} CPU core{'s' if n != 1 else ''}", reason)


def _gpu(number: int, reason: str) -> Backend:
    xp = cupy()
    return Backend("cupy", f"cuda:{number}", xp, _name_of(number, xp, os.getpid()), reason)


@lru_cache(maxsize=64)
def _name_of(number: int, xp: Any, process: int) -> str:
    """The name of a GPU that works; a process asks once, because it takes a millisecond. Raises DeviceError, with the
    remedy, for one that does not.
    """
    runtime = xp.cuda.runtime
    try:
        count = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        raise DeviceError(_why_no_device(runtime, error)) from None
    if number >= count:
        have = ", ".join(f"cuda:{i}" for i in range(count)) or "none"
        raise DeviceError(f"there is no cuda:{number}, this machine has {have}: choose one of these")
    try:
        with xp.cuda.Device(number):
            ones = xp.ones((2, 2), dtype=np.float32)
            works = float((ones @ ones + 1).sum()) == 12.0
    except Exception as error:  # an incomplete CUDA installation can raise anything; show it
        remedy = "end a program that nvidia-smi shows on it" if _is_of_gpu_memory(error) else INSTALL
        raise DeviceError(f"cuda:{number} fails on a 2x2 product ({first_line(error)}): {remedy}") from error
    if not works:
        raise DeviceError(f"cuda:{number} computes a 2x2 product wrongly: check the driver with nvidia-smi")
    name: str = runtime.getDeviceProperties(number)["name"].decode()
    return name


def _why_no_device(runtime: Any, error: Exception) -> str:
    driver, built = runtime.driverGetVersion(), runtime.runtimeGetVersion()
    if driver == 0:
        return "no NVIDIA driver was found: install it and check with nvidia-smi"
    if driver // 1000 < built // 1000:
        return (
            f"the driver is for CUDA {driver // 1000}, the installed CuPy for CUDA {built // 1000}: "
            "update the driver, or install the CuPy that matches it"
        )
    return f"no usable GPU ({first_line(error)}): check with nvidia-smi"
