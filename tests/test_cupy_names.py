"""Every CuPy name that fcgpu uses exists in the installed CuPy, with the keywords of fcgpu's calls.

CuPy can be imported without a GPU, so a misspelt name or a keyword that only NumPy has is found here, and not by the
first user with a GPU. The device double is checked with the same list, and its type rules against CuPy's.
"""

import ast
import inspect
import re
from functools import reduce
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from device_double import HALVES, WHOLE, DeviceDouble, decide, usual, usual_on_device
from stream_double import Cublas

import fcgpu
from fcgpu.kernels import cublas as our_cublas
from fcgpu.kernels import formulas
from fcgpu.kernels.fused import ACTIVATIONS, FORMULAS

ROOT = Path(fcgpu.__file__).parent
ROOTS = {"xp": (), "cupy": (), "runtime": ("cuda", "runtime")}  # backend.py abbreviates cupy.cuda.runtime
UFUNC_KEYWORDS = {"out", "dtype", "casting"}  # of cupy._core._kernel.ufunc.__call__, which has no where
GUFUNC_KEYWORDS = {"out", "dtype", "casting", "axes", "axis", "keepdims", "order"}


class Use(NamedTuple):
    """A dotted name in the namespace, its call or None, and the function of fcgpu that contains it."""

    where: str
    name: str
    call: ast.Call | None
    function: str


class Uses(ast.NodeVisitor):
    """Collects the names after `xp.`, `something.xp.` and `cupy.`."""

    def __init__(self, path):
        self.path, self.found, self.around, self.calls = path, [], [""], {}

    def visit_FunctionDef(self, node):
        self.around.append(node.name)
        self.generic_visit(node)
        self.around.pop()

    def visit_Call(self, node):
        self.calls[node.func] = node
        self.generic_visit(node)

    def visit_Attribute(self, node):
        names, at = [], node
        while isinstance(at, ast.Attribute) and at.attr != "xp":
            names.append(at.attr)
            at = at.value
        root = at.attr if isinstance(at, ast.Attribute) else getattr(at, "id", "")
        if names and root in ROOTS:
            name = ".".join((*ROOTS[root], *reversed(names)))
            where = f"{self.path.relative_to(ROOT)}:{node.lineno}"
            self.found.append(Use(where, name, self.calls.get(node), self.around[-1]))
        else:
            self.generic_visit(node)


def uses_in(path):
    visitor = Uses(path)
    visitor.visit(ast.parse(path.read_text(encoding="utf-8")))
    return visitor.found


USES = [use for path in sorted(ROOT.rglob("*.py")) for use in uses_in(path)]
# Activations that Kernels replaces on a GPU run on NumPy only; their names must exist, their keywords may be NumPy's.
CALLS = [u for u in USES if u.call and not (u.where.startswith("kernels") and u.function in ACTIVATIONS)]


def resolved(namespace, name):
    try:
        return reduce(getattr, name.split("."), namespace)
    except ImportError as error:  # cupy.cuda.cublas loads cuBLAS; its functions are checked below
        pytest.skip(f"no cuBLAS: {str(error).splitlines()[0]}")


def test_the_walk_finds_names():
    names = {use.name for use in USES}
    assert {"ElementwiseKernel", "matmul", "cuda.runtime.memGetInfo", "get_default_memory_pool"} <= names
    assert len(CALLS) > 20


@pytest.mark.parametrize("name", sorted({use.name for use in USES}))
def test_the_name_exists(name, cupy):
    assert resolved(cupy, name) is not None, [use.where for use in USES if use.name == name]


@pytest.mark.parametrize("use", CALLS, ids=lambda use: f"{use.where} {use.name}")
def test_the_call_fits(use, cupy):
    target, keywords = resolved(cupy, use.name), {k.arg for k in use.call.keywords}
    if isinstance(target, cupy.ufunc):
        assert len(use.call.args) <= target.nargs
        assert keywords <= UFUNC_KEYWORDS
    elif type(target).__name__ == "_GUFunc":
        assert keywords <= GUFUNC_KEYWORDS
    else:
        try:
            signature = inspect.signature(target)
        except ValueError:  # a compiled function without a signature
            assert all(re.search(rf"^ +{word} \(", target.__doc__ or "", re.MULTILINE) for word in keywords)
        else:
            signature.bind(*use.call.args, **dict.fromkeys(keywords))


def named(text):
    """The parameter names in a Cython signature, such as "gemm(intptr_t handle, int m)"."""
    return [word.split()[-1] for word in text.partition("(")[2].partition(")")[0].split(",") if word]


def test_cublas_through_nvmath_is_called_as_it_is_written():
    cublas = pytest.importorskip("nvmath.bindings.cublas")
    double = Cublas(DeviceDouble())
    for name, ours in vars(double.module()).items():
        if not name.startswith("__") and name not in ("create", "destroy"):
            theirs = named(getattr(cublas, name).__doc__)
            assert list(inspect.signature(ours).parameters) == theirs, name
    assert named(cublas.create.__doc__) == []
    assert named(cublas.destroy.__doc__) == ["handle"]
    kinds = {t.name: int(t) for t in cublas.ComputeType}
    names = {"COMPUTE_32F": our_cublas.COMPUTE_32F, "COMPUTE_64F": our_cublas.COMPUTE_64F}
    assert {name: kinds[name] for name in names} == names
    assert kinds["COMPUTE_32F_FAST_TF32"] == our_cublas.COMPUTE_TF32
    assert (cublas.Operation.N, cublas.Operation.T) == (our_cublas.PLAIN, our_cublas.TRANSPOSED)
    assert cublas.GemmAlgo.DFALT == our_cublas.ALGORITHM


def test_cublas_through_cupy_takes_the_same_arguments(cupy):
    """Importing the module needs cuBLAS, so the signatures are read from its file."""
    folder = Path(cupy.__file__).parent.parent / "cupy_backends" / "cuda" / "libs"
    text = b"".join(path.read_bytes() for path in folder.glob("cublas*.so")).decode("latin-1")
    double = Cublas(DeviceDouble()).module()
    theirs = named(re.search(r"\bgemmEx\(intptr_t handle[^)]*\)", text)[0])
    ours = list(inspect.signature(double.gemm_ex).parameters)
    assert [t.lower() for t in theirs] == [o.replace("_", "") for o in ours]


def test_the_types_have_cudas_numbers(cupy):
    runtime = cupy.cuda.runtime
    theirs = runtime.CUDA_R_32F, runtime.CUDA_R_64F, runtime.CUDA_R_16F, runtime.CUDA_R_16BF
    assert tuple(our_cublas.DATA.values()) == theirs


@pytest.mark.parametrize(
    "name",
    [
        "Stream.begin_capture", "Stream.end_capture", "Stream.record", "Stream.wait_event", "Stream.__enter__",
        "Stream.synchronize", "Event.record", "Event.synchronize", "Graph.launch", "Device.compute_capability",
        "Device.__enter__", "Device.__exit__",
    ],
)  # fmt: skip
def test_what_is_asked_of_streams_and_graphs_exists(name, cupy):
    assert callable(resolved(cupy.cuda, name)) or "compute_capability" in name


def test_the_device_double_holds_the_same_names():
    elsewhere = ("backend.py", "bench.py", "cli/machine.py", "estimator")  # not all of these runs on the double
    double, names = DeviceDouble(), {use.name for use in USES if not use.where.startswith(elsewhere)}
    names |= {
        "ndarray",
        "asarray",
        "asnumpy",
        "cuda.get_current_stream",
        "cuda.runtime.memGetInfo",
        "get_default_memory_pool",
    }
    for name in names:
        assert resolved(double, name) is not None
    assert not hasattr(double, "einsum")
    functions = {name for name in dir(DeviceDouble) if not name.startswith("_")}
    assert functions <= {name.split(".")[0] for name in (*names, *(use.name for use in USES))}


@pytest.mark.parametrize("name", [*FORMULAS, *(f"device {name}" for name in formulas.FORMULAS)])
def test_types_are_decided_as_cupy_decides(name, cupy):
    """For the types of training, and with each of them wrong in turn."""
    *of_a_step, name = name.split()
    if of_a_step:
        requests = list(usual_on_device(WHOLE + HALVES, {name: formulas.FORMULAS[name]}))
    else:
        requests = list(usual({name: FORMULAS[name]}))
    theirs = cupy.ElementwiseKernel(*requests[0][0].formula, name)
    if not hasattr(theirs, "_decide_params_type"):
        pytest.skip("this CuPy does not show how it decides")
    for ours, kinds in requests:
        every, n = (*ours.ins, *ours.outs), len(ours.ins)
        right = [p.dtype or kinds[p.c] for p in every]
        scalars = [None if p.const and not p.raw else dtype for p, dtype in zip(every, right, strict=True)]
        wrong = [[*right[:at], np.dtype("int16"), *right[at + 1 :]] for at in range(len(right))]
        for types in (right, scalars, *wrong):
            ins, outs = tuple(types[:n]), tuple(types[n:])
            try:
                expected_ins, _, expected = theirs._decide_params_type(ins, outs)
            except (TypeError, KeyError) as error:  # KeyError: only scalars have that placeholder
                with pytest.raises(type(error)):
                    decide(ours.ins, ours.outs, ins, outs)
            else:
                found_ins, found = decide(ours.ins, ours.outs, ins, outs)
                assert tuple(expected_ins) == found_ins
                assert dict(expected._pairs) == found
