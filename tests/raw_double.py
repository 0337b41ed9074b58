"""cupy.RawKernel on the CPU: the same text, but for what only PTX says, compiled with the emulator in cuda_double.h."""

import ctypes
import re
from functools import cache
from pathlib import Path

import numpy as np

import fcgpu.kernels

KERNELS = Path(fcgpu.kernels.__file__).parent
HEADER = Path(__file__).parent / "cuda_double.h"
ONLY_PTX = ("tensor_cores.cu", "ptx.cu")  # what the header says anew
LIMIT = 48 << 10  # bytes of shared memory that a kernel has without being asked
SEED = 11


class RawKernel:
    """A kernel of `code`; its blocks run side by side, as those of one cluster."""

    def __init__(self, launch, library_of, code, name):
        self._launch, self._library_of, self._code, self._name = launch, library_of, code, name
        self.max_dynamic_shared_size_bytes = LIMIT

    def __call__(self, grid, block, args, shared_mem=0):
        if shared_mem > self.max_dynamic_shared_size_bytes:
            raise ValueError(f"{self._name}: {shared_mem} bytes of shared memory are more than it may have")
        function = _function(self._library_of, self._code, self._name)

        def run(*hosts):
            arrays = iter(hosts)
            values = [np.array(a if isinstance(a, np.generic) else next(arrays).ctypes.data) for a in args]
            pointers = (ctypes.c_void_p * len(values))(*(v.ctypes.data for v in values))
            fault = function(int(np.prod(grid)), int(np.prod(block)), shared_mem, SEED, pointers)
            if fault:
                raise RuntimeError(f"{self._name}: {('', 'threads wait for ever', 'it writes outside')[fault]}")

        for a in args:
            if not isinstance(a, np.generic) and not hasattr(a, "_host"):
                raise TypeError(f"{self._name}: {a!r} is neither an array of the device nor a NumPy scalar")
        self._launch(self._name, run, [a._host for a in args if hasattr(a, "_host")])


@cache
def _function(library_of, code, name):
    for other in ONLY_PTX:
        if (KERNELS / other).exists():
            code = code.replace((KERNELS / other).read_text(encoding="ascii"), "")
    (parameters,) = re.findall(rf'extern "C" __global__ void[^{{;]*?\b{name}\(([^)]*)\)', code)
    types = [re.fullmatch(r"\s*(.*?[\s*])(?:__restrict__\s*)?\w+\s*", p, re.DOTALL)[1] for p in parameters.split(",")]
    values = ", ".join(f"*({kind} *)arguments[{i}]" for i, kind in enumerate(types))
    source = f"""{HEADER.read_text(encoding="ascii")}
#undef __device__
#define __device__
{code.replace('extern "C" __global__', "__global__")}
extern "C" int run(int blocks, int threads, long long bytes, unsigned int seed, void **arguments) {{
  return twin::launch(blocks, threads, bytes, seed, [&] {{ {name}({values}); }});
}}
"""
    function = ctypes.CDLL(str(library_of(source, ("-std=c++20", "-O1", "-U_FORTIFY_SOURCE")))).run
    function.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_longlong, ctypes.c_uint, ctypes.c_void_p]
    return function
