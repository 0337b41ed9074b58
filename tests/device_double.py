"""A stand-in for CuPy on the CPU, so that the GPU path runs, and is judged, where there is no GPU.

`double_backend()` is a Backend of device "cuda:0" whose `xp` is a `DeviceDouble`. Its arrays behave as cupy.ndarray
where fcgpu uses it, and refuse what CuPy refuses: a NumPy array in an operator, an implicit copy to the host, a name
that is not there. What CuPy allows and a training step must not do is counted: `synchronisations`, `uploads`, the
`copies` that a product makes in silence; and `launches` by name. Where it differs it is the stricter one: fresh memory
holds NaN, np.f(array) is refused, an index out of range is an error and does not wrap around.

`ElementwiseKernel` follows cupy/_core/_kernel.pyx of CuPy 14.2 (`_broadcast`, `_decide_params_type_core`,
`_get_out_args_with_params`), compiles the operation's own text with the machine's C++ compiler, and runs it from the
last index to the first, since a GPU promises no order.
"""

import atexit
import ctypes
import itertools
import os
import shutil
import subprocess
import tempfile
from collections import Counter
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
from device_memory import Clock, Copy, Event, Memory, Stream, is_pinned, pinned

from fcgpu.backend import Backend
from fcgpu.kernels.fused import FORMULAS

C_TYPES = {
    "bool": "bool", "int8": "signed char", "int16": "short", "int32": "int", "int64": "long long",
    "uint8": "unsigned char", "uint16": "unsigned short", "uint32": "unsigned int", "uint64": "unsigned long long",
    "float32": "float", "float64": "double",
}  # fmt: skip
REFUSED = (
    "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct a NumPy array explicitly."
)
FREE_BYTES = 1 << 30


def operand(x):
    """What an operator or a ufunc computes with: a device array's values, or a scalar."""
    if isinstance(x, DeviceArray):
        if x._block.coming is not None:
            raise AssertionError("a look at a buffer before its copy was waited for")
        x._block.used = x._xp.clock.now
        return x._host
    if isinstance(x, bool | int | float | np.generic):
        return x
    raise TypeError(f"Unsupported type {type(x)}")


class DeviceArray:
    """cupy.ndarray, as far as fcgpu uses it."""

    __slots__ = ("_block", "_host", "_xp")
    __array_ufunc__ = None  # NumPy's operators hand over to ours, which refuse

    def __init__(self, xp, host, of=None):
        self._xp, self._host = xp, host
        view = of is not None and np.may_share_memory(host, of._host)
        self._block = of._block if view else xp.memory.block(host.nbytes)

    shape, dtype, ndim, size, nbytes = (
        property(lambda self, name=name: getattr(self._host, name))
        for name in ("shape", "dtype", "ndim", "size", "nbytes")
    )

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
                self._xp.synchronisations += part.dtype == bool  # a mask's size must be known
                part = part._host
            elif isinstance(part, np.ndarray | list):
                self._xp.uploads += 1
            parts.append(part)
        return tuple(parts) if any(p is Ellipsis for p in parts) else (*parts, ...)

    def __getitem__(self, index):
        return DeviceArray(self._xp, self._host[self._index(index)], self)

    def __setitem__(self, index, value):
        if not isinstance(value, DeviceArray):
            value = np.asarray(value, dtype=self.dtype)
            if value.shape != ():
                raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        else:
            value = value._host
        self._host[self._index(index)] = value

    def sum(self, axis=None, dtype=None, out=None, keepdims=False):
        return self._xp.sum(self, axis, dtype, out, keepdims)

    def fill(self, value):
        self[...] = value

    def reshape(self, *shape):
        return DeviceArray(self._xp, self._host.reshape(*shape), self)

    def view(self, dtype):
        return DeviceArray(self._xp, self._host.view(dtype), self)

    def astype(self, dtype):
        with np.errstate(all="ignore"):
            return DeviceArray(self._xp, self._host.astype(dtype))

    def copy(self):
        return self._xp._new(self._host.copy())

    def get(self):
        """A copy on the host: waits for the device."""
        self._xp.synchronisations += 1
        return self._host.copy()

    def set(self, host, stream=None):
        """From an array like this one. On a stream of its own only from pinned memory, which CuPy does not check."""
        if not isinstance(host, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if (host.dtype, host.shape) != (self.dtype, self.shape):
            raise ValueError(f"Shape mismatch, or type: {host.dtype}{host.shape} for {self.dtype}{self.shape}")
        if not self._host.flags.c_contiguous:
            raise RuntimeError("Cannot set to non-contiguous array")
        self._xp.uploads += 1
        self._xp.upload_bytes += host.nbytes
        if stream is None or stream.null:
            self._host[...] = host
        elif not is_pinned(host):
            raise AssertionError("a copy from memory that is not pinned waits for the device")
        else:
            stream.copy(Copy(self._host, host, self._block))

    @property
    def device(self):
        return self._xp.cuda.Device(0)

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

    def __neg__(self):
        return self._xp._ufunc("negative", self)


def _operator(name, ufunc):
    """x ∘ y; with a leading r the operands change places, with a leading i the result overwrites x."""
    if name.startswith("i"):
        return lambda x, y: x._xp._ufunc(ufunc, x, y, out=x)
    if name.startswith("r"):
        return lambda x, y: x._xp._ufunc(ufunc, y, x)
    return lambda x, y: x._xp._ufunc(ufunc, x, y)


for _name, _ufunc in {
    "add": "add",
    "sub": "subtract",
    "mul": "multiply",
    "truediv": "true_divide",
    "xor": "bitwise_xor",
    "rshift": "right_shift",
}.items():
    for _side in ("", "r", "i"):
        setattr(DeviceArray, f"__{_side}{_name}__", _operator(f"{_side}-", _ufunc))
for _name, _ufunc in {"gt": "greater", "ge": "greater_equal", "lt": "less", "le": "less_equal"}.items():
    setattr(DeviceArray, f"__{_name}__", _operator("-", _ufunc))
for _name, _ufunc in {"eq": "equal", "ne": "not_equal"}.items():
    setattr(DeviceArray, f"__{_name}__", _operator("-", _ufunc))
DeviceArray.__hash__ = None


UFUNCS = (
    "abs", "divide", "equal", "exp", "expm1", "greater_equal", "isfinite", "log", "log1p", "maximum", "minimum",
    "multiply", "negative", "sign", "sqrt", "subtract", "tanh",
)  # fmt: skip


class DeviceDouble:
    """The namespace: `cupy`, as far as fcgpu uses it. Counts what a step must not do."""

    def __init__(self):
        self.synchronisations = self.uploads = self.upload_bytes = self.copies = 0
        self.launches, self.event_waits, self.clock = Counter(), Counter(), Clock()
        self.memory, null = Memory(FREE_BYTES), Stream(self.clock, null=True)
        null.synchronize = self._synchronize
        self.cuda = SimpleNamespace(
            Device=lambda number: SimpleNamespace(id=number, use=lambda: None),
            Event=lambda block=False, disable_timing=False: Event(null, self.event_waits),
            Stream=lambda non_blocking=False: Stream(self.clock),
            alloc_pinned_memory=pinned,
            get_current_stream=lambda: null,
            get_elapsed_time=lambda begin, end: 0.0,  # this clock counts launches, not milliseconds
            runtime=SimpleNamespace(memGetInfo=self.memory.info),
        )

    ndarray = DeviceArray

    def __getattr__(self, name):
        if name in UFUNCS:
            return partial(self._ufunc, name)
        raise AttributeError(f"the device double has no {name!r}: it holds the functions of CuPy that fcgpu uses")

    def _launch(self, name):
        self.launches[name] += 1
        self.clock.now += 1

    def _synchronize(self):
        self.synchronisations += 1

    def _new(self, host):
        return DeviceArray(self, np.asarray(host))

    def _ufunc(self, name, *args, out=None, dtype=None, **wrong):
        """cupy._core._kernel.ufunc: no `where=`, and an `out` of exactly the broadcast shape."""
        if wrong:
            raise TypeError(f"Wrong arguments {wrong}")
        self._launch(name)
        inputs = [operand(a) for a in args]
        if out is not None and not isinstance(operand(out), np.ndarray):
            raise TypeError("Output arguments type must be cupy.ndarray")
        with np.errstate(all="ignore"):
            result = getattr(np, name)(*inputs, out=None if out is None else out._host, dtype=dtype)
        return self._new(result) if out is None else out

    def _reduce(self, name, a, axis=None, out=None, **options):
        self._launch(name)
        if not isinstance(a, DeviceArray) or not (out is None or isinstance(out, DeviceArray)):
            raise TypeError(f"Argument must be cupy.ndarray, not {type(a)}, {type(out)}")
        with np.errstate(all="ignore"):
            result = getattr(np, name)(a._host, axis=axis, **options)
        if out is None:
            return self._new(result)
        if result.shape != out.shape:
            raise ValueError("Out shape is mismatched")
        out._host[...] = result
        return out

    def where(self, condition, x, y):
        self._launch("where")
        return self._new(np.where(operand(condition), operand(x), operand(y)))

    def sum(self, a, axis=None, dtype=None, out=None, keepdims=False):
        return self._reduce("sum", a, axis, out, dtype=dtype, keepdims=keepdims)

    def count_nonzero(self, a, axis=None):
        return self._reduce("count_nonzero", a, axis)

    def max(self, a, axis=None, out=None, keepdims=False):
        return self._reduce("max", a, axis, out, keepdims=keepdims)

    def matmul(self, a, b, out=None):
        """cupy._core._routines_linalg.matmul: counts the temporary copies that it makes of operands and of out."""
        self._launch("matmul")
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
        return DeviceArray(self, operand(a).swapaxes(axis1, axis2), a)

    def asarray(self, a, dtype=None):
        """Always a copy where it comes from the host, in native byte order, Fortran order kept."""
        if isinstance(a, DeviceArray):
            return a if dtype in (None, a.dtype) else a.astype(dtype)
        host = np.array(a, dtype=dtype, order="F" if isinstance(a, np.ndarray) and a.flags.fnc else "C")
        if host.dtype.newbyteorder("=").name not in (*C_TYPES, "float16"):
            raise ValueError(f"Unsupported dtype {host.dtype}")
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

    def all(self, a, axis=None, out=None, keepdims=False):
        return self._reduce("all", a, axis, out, keepdims=keepdims)

    def concatenate(self, arrays, axis=0):
        return self._new(np.concatenate([operand(a) for a in arrays], axis))

    def empty(self, shape, dtype=float):
        dtype = np.dtype(dtype)
        return self._new(np.full(shape, np.nan if dtype.kind == "f" else 1, dtype))

    def arange(self, stop, dtype=None):
        return self._new(np.arange(stop, dtype=dtype))

    def get_default_memory_pool(self):
        return self.memory

    def ElementwiseKernel(self, in_params, out_params, operation, name="kernel"):
        return ElementwiseKernel(in_params, out_params, operation, name)


class Param(NamedTuple):
    """One parameter of a kernel: `c` is its C type, a placeholder where `dtype` is None."""

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
    """(types of the inputs, placeholders): outputs first, then inputs; None is a scalar, which takes what it gets."""
    kinds = {}
    for p, dtype in (*zip(out_params, out_dtypes, strict=True), *zip(in_params, in_dtypes, strict=True)):
        if dtype is None:
            continue
        expected = p.dtype if p.dtype is not None else kinds.setdefault(p.c, dtype)
        if dtype != expected:
            raise TypeError(f"Type is mismatched. {p.name} {dtype} {expected}")
    return tuple(kinds[p.c] if p.dtype is None else p.dtype for p in in_params), kinds


class ElementwiseKernel:
    """cupy.ElementwiseKernel without options: scalars become the type of their parameter, shapes are broadcast."""

    def __init__(self, in_params, out_params, operation, name):
        self.ins, self.outs = params(in_params, True), params(out_params, False)
        self.formula, self.operation, self.name = (in_params, out_params, operation), operation, name
        if "i" in (p.name for p in (*self.ins, *self.outs)):
            raise ValueError("Can not use 'i' as a parameter name")

    def __call__(self, *args):
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
        if not looped:
            raise ValueError("Loop size is undecided.")
        shape = np.broadcast_shapes(*(v.shape for v in looped))
        dtypes = [v.dtype if isinstance(v, np.ndarray) else None for v in values]
        in_types, kinds = decide(ins, outs[: len(values) - n], dtypes[:n], dtypes[n:])
        if not values[n:]:
            if any(p.raw for p in outs):
                raise ValueError("Output array size is Undecided")
            args += tuple(arrays[0]._xp._new(np.empty(shape, p.dtype or kinds[p.c])) for p in outs)
        for p, a in zip(outs, args[n:], strict=True):
            if not isinstance(a, DeviceArray):
                raise TypeError("Output arguments type must be cupy.ndarray")
            if not p.raw and a.shape != shape:
                raise ValueError("Out shape is mismatched")
        arrays[0]._xp._launch(self.name)
        for a in arrays:
            a._block.used = a._xp.clock.now
        if 0 not in shape:
            hosts = [
                value if isinstance(value, np.ndarray) else np.array(value, dtype=kind)
                for value, kind in zip(values[:n], in_types, strict=True)
            ]
            self._run(hosts + [a._host for a in args[n:]], kinds, shape)
        return args[n] if len(outs) == 1 else args[n:]

    def _run(self, hosts, kinds, shape):
        size, described = int(np.prod(shape)), []
        for p, host in zip((*self.ins, *self.outs), hosts, strict=True):
            value = host if p.raw else np.broadcast_to(host, shape)
            described.append(np.array([value.ctypes.data, value.size, value.ndim, *value.shape, *value.strides]))
        pointers = (ctypes.c_void_p * len(described))(*(d.ctypes.data for d in described))
        if COMPILED.function(self, kinds)(pointers, size):
            raise IndexError(f"{self.name} reads or writes outside of a raw array")

    def source(self, kinds):
        """The operation as a C++ function named FUNCTION, its parameters declared as CuPy declares them."""
        typedefs = " ".join(f"typedef {C_TYPES[dtype.name]} {c};" for c, dtype in sorted(kinds.items()))
        arrays, elements = [], []
        for at, p in enumerate((*self.ins, *self.outs)):
            const = "const " if p.const else ""
            arrays.append(f"{const}CArray<{p.c}> {'' if p.raw else '_raw_'}{p.name}(_args[{at}], &_fault);")
            if not p.raw:
                elements.append(f"{const}{p.c} &{p.name} = _raw_{p.name}[_ind.get()];")
        return LOOP % (typedefs, "\n  ".join(arrays), "\n    ".join(elements), self.operation)


PRELUDE = """
#include <math.h>
#include <stddef.h>
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
extern "C" long long FUNCTION(const long long *const *_args, long long _size) {
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


@cache
def compiler():
    """The C++ compiler: $CXX or the usual names."""
    names = (os.environ.get("CXX", ""), "c++", "g++", "clang++")
    return next((found for name in names if name and (found := shutil.which(name))), None)


class Compiled:
    """Compiled kernels by their text. One call of the compiler for a hundred of them costs as much as for five."""

    def __init__(self):
        self.functions, self._folder, self._count = {}, None, itertools.count()

    def build(self, requests):
        """Compile those (kernel, placeholders) that are missing, together."""
        missing = {
            text: f"f{next(self._count)}"
            for kernel, kinds in requests
            if (text := kernel.source(kinds)) not in self.functions
        }
        if not missing:
            return
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="fcgpu-kernels-"))
            atexit.register(shutil.rmtree, self._folder, ignore_errors=True)
        path = self._folder / f"{next(iter(missing.values()))}.cpp"
        path.write_text(
            PRELUDE + "".join(text.replace("FUNCTION", name) for text, name in missing.items()), encoding="ascii"
        )
        command = [compiler(), "-std=c++17", "-O0", "-w", "-fPIC", "-shared", "-o", path.with_suffix(".so"), path]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"a kernel does not compile:\n{done.stderr}")
        library = ctypes.CDLL(str(path.with_suffix(".so")))
        for text, name in missing.items():
            function = getattr(library, name)
            function.argtypes, function.restype = (ctypes.c_void_p, ctypes.c_longlong), ctypes.c_longlong
            self.functions[text] = function

    def function(self, kernel, kinds):
        self.build([(kernel, kinds)])
        return self.functions[kernel.source(kinds)]


COMPILED = Compiled()


def usual(formulas=FORMULAS):
    """Every formula with the types that training and its tests meet: (kernel, placeholders) for `Compiled.build`."""
    for name, formula in formulas.items():
        kernel = ElementwiseKernel(*formula, f"fcgpu_{name}")
        every = (*kernel.ins, *kernel.outs)
        targets = ("uint8", "float32", "float64") if any(p.name == "y" for p in every) else ()
        types = {
            "T": ("float32", "float64"),
            "I": ("int64", "int32", *targets),
            "U": ("uint8", "bool", "int64", "float32", "float64"),
        }
        used = sorted({p.c for p in every if p.dtype is None})
        for chosen in itertools.product(*(types[c] for c in used)):
            yield kernel, dict(zip(used, map(np.dtype, chosen), strict=True))


def double_backend():
    """A fresh double, its counts at zero, as the backend of device cuda:0; skips where no C++ compiler is."""
    if compiler() is None:
        pytest.skip("no C++ compiler: install g++, or name one in CXX")
    COMPILED.build(list(usual()))
    return Backend("cupy", "cuda:0", DeviceDouble(), "a double on the CPU", "a test asks for it")
