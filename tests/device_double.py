"""A test double of CuPy on the CPU, so that the GPU path can be run and tested without a GPU.

`double_backend()` is a Backend of device "cuda:0" whose `xp` is a `DeviceDouble`. Its arrays behave like cupy.ndarray
where fcgpu uses it, and refuse what CuPy refuses: a NumPy array in an operator, an implicit copy to the host, an
unknown name. What CuPy allows but a training step must not do is counted: `synchronisations`, `uploads`, the implicit
`copies` that a matrix product makes; and `launches` by name. Where the double differs from CuPy, it is stricter: fresh
memory holds NaN, np.f(array) is refused, an index out of range is an error and does not wrap around.

`ElementwiseKernel` follows cupy/_core/_kernel.pyx of CuPy 14.2 (`_broadcast`, `_decide_params_type_core`,
`_get_out_args_with_params`), compiles the operation's source with the machine's C++ compiler, and runs it from the last
index to the first, since a GPU guarantees no order.
"""

import atexit
import ctypes
import hashlib
import itertools
import math
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from contextlib import suppress
from functools import cache, partial, wraps
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
from memory_double import Memory
from raw_double import RawKernel
from stream_double import Cublas, Streams, is_pinned, pinned

from fcgpu.backend import Backend
from fcgpu.kernels.cublas import WORKSPACE
from fcgpu.kernels.formulas import FORMULAS as DEVICE_FORMULAS
from fcgpu.kernels.formulas import PREAMBLE
from fcgpu.kernels.fused import FORMULAS

with suppress(ImportError):  # not on Windows, where no compiler is used
    import fcntl

C_TYPES = {
    "float16": "float16", "bfloat16": "bfloat16",
    "bool": "bool", "int8": "signed char", "int16": "short", "int32": "int", "int64": "long long",
    "uint8": "unsigned char", "uint16": "unsigned short", "uint32": "unsigned int", "uint64": "unsigned long long",
    "float32": "float", "float64": "double",
}  # fmt: skip
REFUSED = (
    "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct a NumPy array explicitly."
)
FREE_BYTES = 1 << 30
FLAGS = ("c_contiguous", "f_contiguous", "owndata", "fnc", "forc")


def operand(x):
    """The operand of an operator or ufunc: a device array's values, or a scalar."""
    if isinstance(x, DeviceArray):
        return x._host
    if isinstance(x, bool | int | float | np.generic):
        return x
    raise TypeError(f"Unsupported type {type(x)}")


class DeviceArray:
    """cupy.ndarray, as far as fcgpu uses it."""

    __slots__ = ("_host", "_xp")
    __array_ufunc__ = None  # NumPy's operators then defer to ours, which refuse

    def __init__(self, xp, host):
        self._xp, self._host = xp, host

    shape, dtype, ndim, size, nbytes, itemsize, strides = (
        property(lambda self, name=name: getattr(self._host, name))
        for name in ("shape", "dtype", "ndim", "size", "nbytes", "itemsize", "strides")
    )
    flags = property(lambda self: SimpleNamespace(**{name: getattr(self._host.flags, name) for name in FLAGS}))
    data = property(lambda self: SimpleNamespace(ptr=self._host.ctypes.data))

    mT = property(lambda self: DeviceArray(self._xp, self._host.mT))

    def __len__(self):
        return len(self._host)

    def __iter__(self):
        if self.ndim == 0:
            raise TypeError("iteration over a 0-d array")
        return (self[i] for i in range(len(self)))  # views: nothing is fetched

    def _index(self, index):
        """The index with device arrays as host arrays, and an ellipsis, so that an element stays a 0-d view."""
        parts = []
        for part in index if isinstance(index, tuple) else (index,):
            if isinstance(part, DeviceArray):
                self._xp.synchronisations += part.dtype == bool  # the size of a masked result must be known
                part = part._host
            elif isinstance(part, np.ndarray | list):
                self._xp.uploads += 1
            parts.append(part)
        return tuple(parts) if any(p is Ellipsis for p in parts) else (*parts, ...)

    def __getitem__(self, index):
        found = self._host[self._index(index)]
        if not np.may_share_memory(found, self._host):  # advanced indexing makes a new array
            self._xp.streams.wait("a selection")
            return self._xp._new(self._host[self._index(index)])
        return DeviceArray(self._xp, found)

    def __setitem__(self, index, value):
        if not isinstance(value, DeviceArray):
            value = np.asarray(value, dtype=self.dtype)
            if value.shape != ():
                raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        else:
            value = value._host
        target = self._host[self._index(index)]
        if not np.may_share_memory(target, self._host):
            self._xp.streams.wait("an assignment by index")
            self._host[self._index(index)] = value
            return
        np.broadcast_to(value, target.shape)  # raises ValueError now, not when the copy runs

        def run(target, value):
            with np.errstate(all="ignore"):
                target[...] = value

        self._xp.streams.launch(run, target, value)

    def set(self, arr, stream=None):
        """Queue a copy from the host, whose memory is read when the copy runs."""
        xp = self._xp
        xp.streams.refuse_while_recording("H2D transfers are disallowed")
        if self.dtype != arr.dtype:
            raise TypeError(f"{arr.dtype} array cannot be set to {self.dtype} array")
        if self.shape != arr.shape:
            raise ValueError(f"Shape mismatch. Old shape: {self.shape}, new shape: {arr.shape}")
        if not self._host.flags.c_contiguous:
            raise RuntimeError("Cannot set to non-contiguous array")
        assert stream is None or is_pinned(arr), "a copy from memory that is not pinned makes the host wait"
        xp.uploads += 1
        xp.upload_bytes += arr.nbytes
        xp.streams.launch(lambda target: np.copyto(target, arr), self._host, stream=stream)

    @property
    def device(self):
        return self._xp.cuda.Device(self._xp.number)

    def sum(self, axis=None, dtype=None, out=None, keepdims=False):
        return self._xp.sum(self, axis, dtype, out, keepdims)

    def max(self, axis=None, out=None, keepdims=False):
        return self._xp.max(self, axis, out, keepdims)

    def argmax(self, axis=None):
        return self._xp._reduce("argmax", self, axis)

    def fill(self, value):
        self[...] = value

    def reshape(self, *shape):
        return DeviceArray(self._xp, self._host.reshape(*shape))

    def view(self, dtype):
        return DeviceArray(self._xp, self._host.view(dtype))

    def astype(self, dtype, order="K"):
        self._xp.streams.wait("a new array")
        with np.errstate(all="ignore"):
            return self._xp._new(self._host.astype(dtype, order))

    def copy(self):
        self._xp.streams.wait("a new array")
        return self._xp._new(self._host.copy())

    def get(self):
        """A copy on the host: waits for the device."""
        self._xp.streams.wait("D2H transfers are disallowed")
        self._xp.synchronisations += 1
        return self._host.copy()

    def item(self):
        if self.size != 1:
            raise ValueError("can only convert an array of size 1 to a Python scalar")
        return self.get().item()

    def tolist(self):
        return self.get().tolist()

    def __float__(self):
        return float(self.get())

    def __int__(self):
        return int(self.get())

    def __bool__(self):
        if self.size != 1:
            raise ValueError("The truth value of an array with more than one element is ambiguous.")
        return bool(self.get())

    def __repr__(self):
        return repr(self.get())

    def __array__(self, *_, **__):
        raise TypeError(REFUSED)

    def __array_function__(self, *_):
        return NotImplemented


def _operators(name, ufunc):
    """x ∘ y; with a leading r the operands are swapped, with a leading i the result overwrites x."""
    setattr(DeviceArray, f"__{name}__", lambda x, y: x._xp._ufunc(ufunc, x, y))
    setattr(DeviceArray, f"__r{name}__", lambda x, y: x._xp._ufunc(ufunc, y, x))
    setattr(DeviceArray, f"__i{name}__", lambda x, y: x._xp._ufunc(ufunc, x, y, out=x))


def _comparison(name, ufunc):
    setattr(DeviceArray, f"__{name}__", lambda x, y: x._xp._ufunc(ufunc, x, y))


for _name, _ufunc in {
    "add": "add", "sub": "subtract", "mul": "multiply", "truediv": "true_divide", "xor": "bitwise_xor",
    "rshift": "right_shift",
}.items():  # fmt: skip
    _operators(_name, _ufunc)
for _name, _ufunc in {
    "gt": "greater", "ge": "greater_equal", "lt": "less", "le": "less_equal", "eq": "equal", "ne": "not_equal",
}.items():  # fmt: skip
    _comparison(_name, _ufunc)
DeviceArray.__hash__ = None


UFUNCS = (
    "abs", "divide", "equal", "exp", "expm1", "greater_equal", "isfinite", "log", "log1p", "maximum", "minimum",
    "multiply", "negative", "sign", "sqrt", "subtract", "tanh",
)  # fmt: skip


class Device:
    """cupy.cuda.Device: a context manager that makes it the thread's current device. Its properties may be read only
    for the device that holds the arrays; to read another's is a bug in the caller.
    """

    def __init__(self, xp, number):
        self._xp, self.id = xp, number

    @property
    def attributes(self):
        assert self.id == self._xp.number
        return self._xp.attributes

    @property
    def compute_capability(self):
        assert self.id == self._xp.number
        return self._xp.compute_capability

    def __enter__(self):
        self._xp._devices.append(self)

    def __exit__(self, *error):
        self._xp._devices.pop()

    def use(self):
        self._xp._devices[-1] = self


class DeviceDouble:
    """The namespace `cupy`, as far as fcgpu uses it. Counts what a step must not do."""

    def __init__(self):
        self.synchronisations = self.uploads = self.upload_bytes = self.copies = 0
        self.launches, self.allocations = Counter(), 0
        self.memory = Memory(FREE_BYTES)
        self.compute_capability = "80"
        self.attributes = {
            "MaxSharedMemoryPerBlockOptin": 0,
            "MaxSharedMemoryPerMultiprocessor": 233_472,
            "MultiProcessorCount": 2,
        }
        self.number, self._entered = 0, threading.local()  # the device of all arrays; see _devices for `_entered`
        self.streams, self.cublas = Streams(self.memory, self._must_be_current), Cublas(self)
        self.cuda = SimpleNamespace(
            get_current_stream=self._asked(lambda: self.streams.current),
            get_elapsed_time=lambda begin, end: 1.0,  # the double's own time means nothing
            runtime=SimpleNamespace(memGetInfo=self._asked(self.memory.info)),
            Stream=self.streams.make,
            Event=self.streams.event,
            alloc_pinned_memory=pinned,
            Device=lambda number=None: Device(self, self._devices[-1].id if number is None else number),
            device=SimpleNamespace(get_cublas_handle=self._asked(lambda: self._HANDLE)),
            cublas=self.cublas.of_cupy(),
            driver=SimpleNamespace(funcSetAttribute=lambda function, attribute, value: None),
        )

    ndarray, __version__ = DeviceArray, "14.0.0"

    @property
    def _devices(self):
        """The devices that the thread has entered; the last one is its current device."""
        return self._entered.__dict__.setdefault("devices", [Device(self, 0)])

    def _must_be_current(self):
        if (current := self._devices[-1].id) != self.number:
            raise RuntimeError(f"the current device is {current}, the arrays lie on {self.number}")

    def _asked(self, function):
        """Wrap a function that CuPy applies to the current device: it must be the device of the arrays."""

        @wraps(function)
        def call(*arguments):
            self._must_be_current()
            return function(*arguments)

        return call

    _HANDLE = property(lambda self: threading.get_ident())  # CuPy's cuBLAS handle: each thread has its own

    def __getattr__(self, name):
        if name in UFUNCS:
            return partial(self._ufunc, name)
        raise AttributeError(f"the device double has no {name!r}: it holds the functions of CuPy that fcgpu uses")

    def _new(self, host):
        self.streams.refuse_while_recording("an allocation, whose memory could serve another array at the replay")
        self._must_be_current()
        self.allocations += 1
        self.memory.add(host := np.asarray(host))
        return DeviceArray(self, host)

    def _ufunc(self, name, *args, out=None, dtype=None, **wrong):
        """cupy._core._kernel.ufunc: no `where=`, and an `out` of exactly the broadcast shape."""
        if wrong:
            raise TypeError(f"Wrong arguments {wrong}")
        self.launches[name] += 1
        inputs = [operand(a) for a in args]
        if out is not None and not isinstance(operand(out), np.ndarray):
            raise TypeError("Output arguments type must be cupy.ndarray")

        n, given = len(inputs), out is not None  # a recorded call must not keep the arrays alive

        def run(*hosts):
            with np.errstate(all="ignore"):
                return getattr(np, name)(*hosts[:n], out=hosts[-1] if given else None, dtype=dtype)

        if out is None:
            self.streams.wait("a new array")
            return self._new(run(*inputs))
        shape = np.broadcast_shapes(*(np.shape(x) for x in inputs))
        if out.shape != shape:
            raise ValueError(f"non-broadcastable output operand with shape {out.shape}, expected {shape}")
        self.streams.launch(run, *inputs, out._host)
        return out

    def _reduce(self, name, a, axis=None, out=None, **options):
        self.launches[name] += 1
        if not isinstance(a, DeviceArray) or not (out is None or isinstance(out, DeviceArray)):
            raise TypeError(f"Argument must be cupy.ndarray, not {type(a)}, {type(out)}")
        self.streams.wait("a reduction, which allocates")
        with np.errstate(all="ignore"):
            result = getattr(np, name)(a._host, axis=axis, **options)
        if out is None:
            return self._new(result)
        if result.shape != out.shape:
            raise ValueError("Out shape is mismatched")
        out._host[...] = result
        return out

    def where(self, condition, x, y):
        self.launches["where"] += 1
        self.streams.wait("a new array")
        return self._new(np.where(operand(condition), operand(x), operand(y)))

    def sum(self, a, axis=None, dtype=None, out=None, keepdims=False):
        return self._reduce("sum", a, axis, out, dtype=dtype, keepdims=keepdims)

    def max(self, a, axis=None, out=None, keepdims=False):
        return self._reduce("max", a, axis, out, keepdims=keepdims)

    def vdot(self, a, b):
        return (a * b).sum()

    def matmul(self, a, b, out=None):
        """cupy._core._routines_linalg.matmul: counts the temporary copies that CuPy makes of operands and of out."""
        self.launches["matmul"] += 1
        if self.streams.current.recorded is not None:
            raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")
        self.streams.wait("a product")
        A, B = operand(a), operand(b)
        if out is None:
            return self._new(A @ B)
        Z = operand(out)
        if max(A.ndim, B.ndim) > 2:
            self.copies += (not A.flags.c_contiguous) + (not B.flags.c_contiguous)
        else:
            self.copies += sum(not (m.flags.c_contiguous or m.flags.f_contiguous) for m in (A, B))
        self.copies += not (Z.flags.c_contiguous and A.dtype == B.dtype == Z.dtype)
        self.copies += np.may_share_memory(Z, A) or np.may_share_memory(Z, B)
        with np.errstate(all="ignore"):
            np.matmul(A, B, out=Z)
        return out

    def swapaxes(self, a, axis1, axis2):
        return DeviceArray(self, operand(a).swapaxes(axis1, axis2))

    def asarray(self, a, dtype=None):
        """Always a copy if `a` is on the host; in native byte order, with Fortran order kept."""
        if isinstance(a, DeviceArray):
            return a if dtype in (None, a.dtype) else a.astype(dtype)
        host = np.array(a, dtype=dtype, order="F" if isinstance(a, np.ndarray) and a.flags.fnc else "C")
        if host.dtype.newbyteorder("=").name not in C_TYPES:
            raise ValueError(f"Unsupported dtype {host.dtype}")
        self.streams.refuse_while_recording("H2D transfers are disallowed")
        self.uploads += 1
        self.upload_bytes += host.nbytes
        return self._new(host.astype(host.dtype.newbyteorder("=")))

    def asnumpy(self, a):
        return a.get()

    def zeros(self, shape, dtype=float):
        return self._new(np.zeros(shape, dtype))

    def ones(self, shape, dtype=float):
        return self._new(np.ones(shape, dtype))

    def zeros_like(self, a):
        return self._new(np.zeros_like(operand(a)))

    def empty_like(self, a):
        return self._new(np.empty_like(operand(a)))

    def all(self, a):
        return self._reduce("all", a)

    def concatenate(self, arrays, axis=0):
        self.streams.wait("a new array")
        return self._new(np.concatenate([operand(a) for a in arrays], axis))

    def empty(self, shape, dtype=float):
        dtype = np.dtype(dtype)
        if shape == (WORKSPACE,):  # cuBLAS's: only its address is used, so its 32 MiB are never touched
            return self._new(np.zeros(shape, dtype))
        return self._new(np.full(shape, np.nan if dtype.kind == "f" or dtype.itemsize == 2 else 1, dtype))

    def arange(self, stop, dtype=None):
        return self._new(np.arange(stop, dtype=dtype))

    def get_default_memory_pool(self):
        self._must_be_current()
        return self.memory

    def ElementwiseKernel(
        self, in_params, out_params, operation, name="kernel", *, preamble="", loop_prep="", after_loop=""
    ):
        return ElementwiseKernel(in_params, out_params, operation, name, preamble, loop_prep, after_loop)

    def RawModule(self, *, code, options=()):
        return SimpleNamespace(get_function=partial(RawKernel, self, code))

    def RawKernel(self, code, name, options=()):
        return RawKernel(self, code, name)


class Param(NamedTuple):
    """One parameter of a kernel: `c` is its C type, or a placeholder if `dtype` is None."""

    name: str
    c: str
    dtype: np.dtype | None
    raw: bool
    const: bool


def params(text, const):
    made = []
    for declaration in text.split(","):
        *words, kind, name = declaration.split()
        if set(words) - {"raw"}:
            raise ValueError(f'Unknown keyword "{words[0]}"')
        dtype = None if len(kind) == 1 else np.dtype(kind)
        made.append(Param(name, kind if dtype is None else C_TYPES[dtype.name], dtype, "raw" in words, const))
    return tuple(made)


def decide(in_params, out_params, in_dtypes, out_dtypes):
    """(types of the inputs, placeholders), decided by the outputs, then the inputs; dtype None is a scalar, which
    decides nothing.
    """
    kinds = {}
    for p, dtype in (*zip(out_params, out_dtypes, strict=True), *zip(in_params, in_dtypes, strict=True)):
        if dtype is None:
            continue
        expected = p.dtype if p.dtype is not None else kinds.setdefault(p.c, dtype)
        if dtype != expected:
            raise TypeError(f"Type is mismatched. {p.name} {dtype} {expected}")
    return tuple(kinds[p.c] if p.dtype is None else p.dtype for p in in_params), kinds


class ElementwiseKernel:
    """cupy.ElementwiseKernel: scalars become the type of their parameter, shapes are broadcast.

    With `loop_prep` or `after_loop` the threads of a block run as fibers, and meet at __syncthreads.
    """

    def __init__(self, in_params, out_params, operation, name, preamble="", loop_prep="", after_loop=""):
        self.ins, self.outs = params(in_params, True), params(out_params, False)
        self.formula, self.operation, self.name = (in_params, out_params, operation), operation, name
        self.preamble, self.before, self.after = preamble, loop_prep, after_loop
        self.options = {"preamble": preamble, "loop_prep": loop_prep, "after_loop": after_loop}
        self.functions = {}  # compiled, by the types of the placeholders
        if "i" in (p.name for p in (*self.ins, *self.outs)):
            raise ValueError("Can not use 'i' as a parameter name")

    def __call__(self, *args, size=None, block_size=128):
        ins, outs, n = self.ins, self.outs, len(self.ins)
        if len(args) not in (n, n + len(outs)):
            raise TypeError(
                f"Wrong number of arguments for {self.name!r}. "
                f"It must be either {n} or {n + len(outs)} (with outputs), but given {len(args)}."
            )
        values = [operand(a) for a in args]
        for p, value in zip((*ins, *outs), values, strict=False):
            if p.raw and not isinstance(value, np.ndarray):
                raise TypeError(f"{self.name}: raw {p.name} is a scalar, which CUDA C++ cannot index")
        arrays = [a for a in args if isinstance(a, DeviceArray)]
        looped = [v for v, p in zip(values, (*ins, *outs), strict=False) if isinstance(v, np.ndarray) and not p.raw]
        if size is not None and looped:
            raise ValueError("Specified 'size' can be used only if all of the ndarray are 'raw'.")
        if size is None and not looped:
            raise ValueError("Loop size is undecided.")
        shape = (size,) if size is not None else np.broadcast_shapes(*(v.shape for v in looped))
        dtypes = [v.dtype if isinstance(v, np.ndarray) else None for v in values]
        in_types, kinds = decide(ins, outs[: len(values) - n], dtypes[:n], dtypes[n:])
        xp = arrays[0]._xp
        if not values[n:]:
            if any(p.raw for p in outs):
                raise ValueError("Output array size is Undecided")
            args += tuple(xp._new(np.empty(shape, p.dtype or kinds[p.c])) for p in outs)
        for p, a in zip(outs, args[n:], strict=True):
            if not isinstance(a, DeviceArray):
                raise TypeError("Output arguments type must be cupy.ndarray")
            if not p.raw and a.shape != shape:
                raise ValueError("Out shape is mismatched")
        xp.launches[self.name] += 1
        if 0 not in shape:
            hosts = [
                value if isinstance(value, np.ndarray) else np.array(value, dtype=kind)
                for value, kind in zip(values[:n], in_types, strict=True)
            ]
            function = COMPILED.function(self, kinds)
            xp.streams.launch(
                lambda *hosts: self._run(function, hosts, shape, block_size), *hosts, *(a._host for a in args[n:])
            )
        return args[n] if len(outs) == 1 else args[n:]

    def _run(self, function, hosts, shape, block_size):
        size, described = math.prod(shape), []
        for p, host in zip((*self.ins, *self.outs), hosts, strict=True):
            over = host.shape if p.raw else shape
            if host.ndim:
                strides = host.strides if host.shape == over else np.broadcast_to(host, over).strides
            else:
                strides = (0,) * len(over)
            numbers = (host.ctypes.data, math.prod(over), len(over), *over, *strides)
            described.append((ctypes.c_longlong * len(numbers))(*numbers))
        pointers = (ctypes.c_void_p * len(described))(*map(ctypes.addressof, described))
        fault = function(pointers, size, block_size)
        if fault == 1:
            raise IndexError(f"{self.name} reads or writes outside of a raw array")
        if fault:
            raise RuntimeError(f"{self.name}: not every thread of a block comes to __syncthreads")

    def source(self, kinds):
        """The operation as a C++ function named FUNCTION, its parameters declared as CuPy declares them."""
        typedefs = " ".join(f"typedef {C_TYPES[dtype.name]} {c};" for c, dtype in sorted(kinds.items()))
        blocks = bool(self.before or self.after)
        arrays, scalars, elements = [], [], []
        for at, p in enumerate((*self.ins, *self.outs)):
            const = "const " if p.const else ""
            arrays.append(f"{const}CArray<{p.c}> {'' if p.raw else '_raw_'}{p.name}(_args[{at}], &_fault);")
            if not p.raw:  # in such a kernel a parameter of fixed type is a scalar, used outside the loop
                where, index = (
                    (scalars, "0") if blocks and p.dtype is not None and p.const else (elements, "_ind.get()")
                )
                where.append(f"{const}{p.c} &{p.name} = _raw_{p.name}[{index}];")
        declared, numbers, bound = ("\n  ".join(lines) for lines in (arrays, scalars, elements))
        if blocks:
            return BLOCKS % (typedefs, declared, numbers, self.before, bound, self.operation, self.after)
        return LOOP % (typedefs, declared, bound, self.operation)


PRELUDE = """
#include <math.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <ucontext.h>
#include <type_traits>
#define __device__
#define __shared__ static
static uint32_t bits_of(float f) { uint32_t u; memcpy(&u, &f, 4); return u; }
static float float_of(uint32_t u) { float f; memcpy(&f, &u, 4); return f; }
// float and back, to the nearest, ties to even, as the classes of cupy/float16.cuh and cupy/bfloat16.cuh convert
class float16 {
  uint16_t word;
public:
  float16() {}
  float16(float f) {
    uint32_t u = bits_of(f), sign = u >> 16 & 0x8000;
    float size = fabsf(f);
    if (f != f) word = sign | 0x7e00;
    else if (size >= 65520.0f) word = sign | 0x7c00;
    else if (size < 6.103515625e-05f) word = sign | (uint16_t)nearbyintf(size * 16777216.0f);
    else {
      u = bits_of(size);
      u += 0x0fff + (u >> 13 & 1);
      word = sign | ((u >> 13) - (112 << 10));
    }
  }
  template <typename V, typename = typename std::enable_if<std::is_arithmetic<V>::value>::type>
  explicit float16(V v) : float16(float(v)) {}
  operator float() const {
    uint32_t sign = (uint32_t)(word & 0x8000) << 16, rest = word & 0x7fff;
    if (rest >= 0x7c00) return float_of(sign | 0x7f800000 | (rest & 0x3ff) << 13);
    if (rest < 0x400) return (sign ? -1.0f : 1.0f) * rest / 16777216.0f;
    return float_of(sign | ((rest << 13) + (112 << 23)));
  }
};
class bfloat16 {
  uint16_t word;
public:
  bfloat16() {}
  bfloat16(float f) {
    uint32_t u = bits_of(f);
    word = f != f ? 0x7fc0 : (u + 0x7fff + (u >> 16 & 1)) >> 16;
  }
  template <typename V, typename = typename std::enable_if<std::is_arithmetic<V>::value>::type>
  explicit bfloat16(V v) : bfloat16(float(v)) {}
  operator float() const { return float_of((uint32_t)word << 16); }
};
// The threads of a block take turns, the last one first, each until the barrier that the others must come to.
struct Dim { unsigned int x; };
static Dim threadIdx, blockIdx, blockDim;
static const unsigned int MOST = 256;
static jmp_buf scheduler, fibers[MOST];
static bool started[MOST], ended[MOST];
static void (*body)(void *);
static void *work;
static char stacks[MOST][65536];
static void __syncthreads() {
  unsigned int me = threadIdx.x;
  if (!_setjmp(fibers[me])) _longjmp(scheduler, 1);
}
static void fiber() {
  for (;;) {
    body(work);
    ended[threadIdx.x] = true;
    __syncthreads();
  }
}
static void resume(unsigned int t) {
  threadIdx.x = t;
  if (_setjmp(scheduler)) return;
  if (started[t]) _longjmp(fibers[t], 1);
  started[t] = true;
  static ucontext_t context[MOST];
  getcontext(&context[t]);
  context[t].uc_stack.ss_sp = stacks[t];
  context[t].uc_stack.ss_size = sizeof stacks[t];
  makecontext(&context[t], fiber, 0);
  setcontext(&context[t]);
}
static bool run_block(unsigned int n) {
  for (unsigned int t = 0; t < n; ++t) ended[t] = false;
  for (;;) {
    unsigned int done = 0;
    for (unsigned int t = n; t-- > 0;) resume(t), done += ended[t];
    if (done == n) return true;
    if (done) return false;
  }
}
template <typename T> struct CArray {  // cupy/carray.cuh: indexed by the flat index in C order, whatever the strides
  const long long *d;  // data, size, ndim, shape, strides
  long long *fault;
  CArray(const long long *d, long long *fault) : d(d), fault(fault) {}
  T &at(ptrdiff_t i) const {
    static T nowhere;
    if (i < 0 || i >= d[1]) { *fault = 1; return nowhere; }
    const long long *shape = d + 3, *strides = shape + d[2];
    ptrdiff_t offset = 0;
    for (ptrdiff_t dim = d[2]; dim-- > 0; i /= shape[dim]) offset += strides[dim] * (i % shape[dim]);
    return *reinterpret_cast<T *>(reinterpret_cast<char *>(d[0]) + offset);
  }
  T &operator[](ptrdiff_t i) { return at(i); }
  const T &operator[](ptrdiff_t i) const { return at(i); }
};
struct CIndexer {
  ptrdiff_t i;
  ptrdiff_t get() const { return i; }
};
"""
LOOP = """
extern "C" long long FUNCTION(const long long *const *_args, long long _size, long long) {
  %s
  long long _fault = 0;
  %s
  for (ptrdiff_t i = _size; i-- > 0;) {
    const CIndexer _ind = {i};
    %s
    %s;
  }
  return _fault;
}
"""

BLOCKS = """
extern "C" long long FUNCTION(const long long *const *_args, long long _size, long long _block) {
  %s
  long long _fault = 0;
  %s
  %s
  blockDim.x = _size < _block ? _size : _block;
  for (long long _at = (_size + _block - 1) / _block; _at-- > 0;) {
    blockIdx.x = _at;
    auto one = [&] {
      ptrdiff_t i = (ptrdiff_t)blockIdx.x * blockDim.x + threadIdx.x;
      %s;
      if (i < _size) {
        const CIndexer _ind = {i};
        %s
        %s;
      }
      %s;
    };
    work = &one;
    body = [](void *w) { (*static_cast<decltype(one) *>(w))(); };
    if (blockDim.x > MOST || !run_block(blockDim.x)) return 2;
  }
  return _fault;
}
"""


@cache
def compiler():
    """The C++ compiler: $CXX or the usual names; none on Windows."""
    names = (os.environ.get("CXX", ""), "c++", "g++", "clang++") if os.name == "posix" else ()
    return next((found for name in names if name and (found := shutil.which(name))), None)


class Compiled:
    """Compiled kernels by their source. Compiling a hundred in one call costs as much as compiling five.

    The workers of one test run share what they compile.
    """

    def __init__(self):
        self.functions = {}

    def build(self, requests):
        """Compile all missing (kernel, placeholders) in one call."""
        texts = dict.fromkeys(kernel.source(kinds) for kernel, kinds in requests)
        missing = {text: f"f{n}" for n, text in enumerate(t for t in texts if t not in self.functions)}
        if not missing:
            return
        preambles = dict.fromkeys(kernel.preamble for kernel, _ in requests)
        named = (text.replace("FUNCTION", name) for text, name in missing.items())
        library = ctypes.CDLL(str(built("".join((PRELUDE, *preambles, *named)), ("-std=c++17", "-O0", "-shared"))))
        for text, name in missing.items():
            function = getattr(library, name)
            function.argtypes, function.restype = (ctypes.c_void_p, *[ctypes.c_longlong] * 2), ctypes.c_longlong
            self.functions[text] = function

    def function(self, kernel, kinds):
        key = tuple(kinds.items())
        if key not in kernel.functions:
            self.build([(kernel, kinds)])
            kernel.functions[key] = self.functions[kernel.source(kinds)]
        return kernel.functions[key]


def built(source, options, suffix=".so"):
    """The file that the C++ source compiles to, made unless another worker of this test run has made it; skips if there
    is no C++ compiler.
    """
    if compiler() is None:
        pytest.skip("no C++ compiler: install g++, or name one in CXX")
    path = folder() / f"{hashlib.sha256(source.encode()).hexdigest()[:16]}{suffix}"
    with open(path.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            path.with_suffix(".cpp").write_text(source, encoding="utf-8")
            command = [compiler(), *options, "-w", "-fPIC", "-o", path, path.with_suffix(".cpp")]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"a kernel does not compile:\n{done.stderr}")
    return path


@cache
def folder():
    """The folder of this test run; its last worker to end removes it."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", f"{os.getpid()}")
    made = Path(tempfile.gettempdir()) / f"fcgpu-kernels-{run}"
    made.mkdir(mode=0o700, exist_ok=True)
    used = os.open(made / "used", os.O_CREAT | os.O_RDWR)
    fcntl.flock(used, fcntl.LOCK_SH)

    def leave():
        try:
            fcntl.flock(used, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        shutil.rmtree(made, ignore_errors=True)

    atexit.register(leave)
    return made


COMPILED = Compiled()


def usual(formulas=FORMULAS):
    """Every formula with the types that training and its tests use: (kernel, placeholders) for `Compiled.build`."""
    for name, formula in formulas.items():
        kernel = ElementwiseKernel(*formula, f"fcgpu_{name}")
        types = {
            "T": ("float32", "float64"),
            "I": ("int64", "int32"),
            "U": ("uint8", "bool", "int64", "float32", "float64"),
        }
        yield from _with_types(kernel, types)


WHOLE = (("float32", "float32"), ("float64", "float64"))
HALVES = (("float32", "float16"), ("float32", "bfloat16"))


def usual_on_device(types=WHOLE, formulas=DEVICE_FORMULAS):
    """The same for the kernels of a step; `types` are pairs: T, of parameters and loss, and H, of the products."""
    for name, f in formulas.items():
        kernel = ElementwiseKernel(
            f.inputs, f.outputs, f.operation, f"fcgpu_device_{name}", PREAMBLE, f.before, f.after
        )
        for T, H in types:
            if T == H or "H" in {p.c for p in (*kernel.ins, *kernel.outs)}:
                yield from _with_types(kernel, {"T": (T,), "H": (H,), "I": ("int64", T), "U": ("uint8", "int64", T)})


@cache
def compile_usual(types):
    COMPILED.build([*usual(), *usual_on_device(types)])


def _with_types(kernel, types):
    used = sorted({p.c for p in (*kernel.ins, *kernel.outs) if p.dtype is None})
    for chosen in itertools.product(*(types[c] for c in used)):
        yield kernel, dict(zip(used, map(np.dtype, chosen), strict=True))


def as_cupy(xp, monkeypatch):
    """Make `import cupy` give the double, and every GPU array the double's."""
    monkeypatch.setitem(sys.modules, "cupy", xp)
    monkeypatch.setattr(DeviceArray, "__cuda_array_interface__", {}, raising=False)


def double_backend(monkeypatch=None, types=WHOLE, on_chip=False):
    """A fresh double, its counts at zero, as the backend of device cuda:0; skips if there is no C++ compiler.

    With `monkeypatch`, the double's nvmath-python is installed. Without it, the double is a CuPy too old to use one,
    because the machine's would have cuBLAS work on the host's memory.

    Kernels that hold a network in shared memory are emulated thread by thread, which is slow: the double has such
    memory only with `on_chip`, and clusters of blocks only if a test sets its compute capability to 90.
    """
    compile_usual(types)
    xp = DeviceDouble()
    if on_chip:
        xp.attributes["MaxSharedMemoryPerBlockOptin"] = 232_448  # of an H100
    if monkeypatch is None:
        xp.__version__ = "13.6.0"
    else:
        bindings = ModuleType("nvmath.bindings")
        bindings.cublas = xp.cublas.module()
        for name, module in {"nvmath": ModuleType("nvmath"), "nvmath.bindings": bindings}.items():
            monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setitem(sys.modules, "nvmath.bindings.cublas", bindings.cublas)
    return Backend("cupy", "cuda:0", xp, "a double on the CPU", "a test asks for it")
