"""CUDA source on the CPU, compiled with cuda_double.h, which replaces inline PTX, and run by cuda_double.cpp;
cupy.RawKernel.
"""

import ctypes
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from fcgpu.kernels.text import program

HERE = Path(__file__).parent
LIMIT = 48 << 10  # bytes of shared memory that a kernel may use without opting in to more
FLAGS = ("-std=c++20", "-U_FORTIFY_SOURCE", f"-I{HERE}")
FAULTS = {1: "threads wait for ever", 2: "a block writes outside of its shared memory"}
START = """
#include <utility>
template <typename... P, size_t... i> void call(void (*kernel)(P...), void **arguments, std::index_sequence<i...>) {{
  kernel(*(P *)arguments[i]...);
}}
template <typename... P>
int start(void (*kernel)(P...), int blocks, int threads, size_t bytes, unsigned int seed, void **arguments) {{
  return twin::launch(blocks, threads, bytes, seed, [&] {{
    call(kernel, arguments, std::index_sequence_for<P...>{{}});
  }});
}}
extern "C" int run(int blocks, int threads, size_t bytes, unsigned int seed, void **arguments) {{
  return start({name}, blocks, threads, bytes, seed, arguments);
}}
"""


def launch(code, name, blocks, threads, shared_bytes, arguments, seed=0):
    """Run the kernel `name` of `code` on NumPy arrays and scalars; blocks run concurrently, like those of a cluster."""
    values = [np.array(a.ctypes.data if isinstance(a, np.ndarray) else a) for a in arguments]
    pointers = (ctypes.c_void_p * len(values))(*(v.ctypes.data for v in values))
    fault = _function(code, name)(blocks, threads, shared_bytes, seed, pointers)
    assert fault == 0, f"{name}: {FAULTS[fault]}"


def library(code):
    """The compiled `code`, which may call twin::launch."""
    from device_double import built

    threads = built((HERE / "cuda_double.cpp").read_text(encoding="ascii"), (*FLAGS, "-O1", "-c"), ".o")
    return ctypes.CDLL(str(built(f'#include "cuda_double.h"\n{code}', (*FLAGS, "-O0", "-shared", threads))))


@cache
def _function(code, name):
    code = code.removeprefix(program("")).replace('extern "C" __global__', "__global__")
    function = library(code + START.format(name=name)).run
    function.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_size_t, ctypes.c_uint, ctypes.c_void_p]
    return function


class RawKernel:
    """cupy.RawKernel on a device double."""

    def __init__(self, xp, code, name):
        self._xp, self._code, self._name = xp, code, name
        self.kernel, self._bytes = SimpleNamespace(ptr=0), LIMIT

    @property
    def max_dynamic_shared_size_bytes(self):
        return self._bytes

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, size):
        self._xp._must_be_current()  # a kernel is loaded for each device
        self._bytes = size

    def __call__(self, grid, block, args, *, shared_mem=0):
        most = self._xp.attributes["MaxSharedMemoryPerBlockOptin"]
        assert shared_mem <= self.max_dynamic_shared_size_bytes <= max(most, LIMIT), self._name
        for a in args:
            if not isinstance(a, np.generic) and not hasattr(a, "_host"):
                raise TypeError(f"{self._name}: {a!r} is neither an array of the device nor a NumPy scalar")
            if not isinstance(a, np.generic) and a.ndim and a.shape[-1] > 1 and a.strides[-1] != a.itemsize:
                raise ValueError(f"{self._name}: it is told an address, and numbers of a row do not follow each other")

        def run(*hosts):
            arrays = iter(hosts)
            values = [a if isinstance(a, np.generic) else next(arrays) for a in args]
            launch(self._code, self._name, int(np.prod(grid)), int(np.prod(block)), shared_mem, values)

        self._xp.launches[self._name] += 1
        self._xp.streams.launch(run, *(a._host for a in args if hasattr(a, "_host")))
