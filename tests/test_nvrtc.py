"""NVIDIA's compiler compiles every fused formula for each architecture, as CuPy passes it; no GPU is needed.

One translation unit holds all formulas in the types of training, each in a namespace for its typedefs, in the source
that CuPy generates, after CuPy's headers.
"""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from device_double import HALVES, WHOLE, ElementwiseKernel, usual, usual_on_device
from nvidias_compiler import compiled, supported

from fcgpu.kernels import few, middle, middle_cut
from fcgpu.kernels.losses import OUTPUTS
from fcgpu.kernels.text import program

ARCHITECTURES = (70, 80, 90, 100)  # Volta, Ampere, Hopper, Blackwell
NDARRAY, INDEXER, SCALAR = 1, 2, 3  # _ArgKind in cupy/_core/_kernel.pxd
NUMBERS = {
    "b", "scale", "weight", "mu", "rho", "rest", "decay", "epsilon", "beta_1", "beta_2", "log_beta_1", "log_beta_2",
    "eta_plus", "eta_minus", "step_min", "step_max",
}  # fmt: skip
ARRAYS = {"loss", "last_loss", "keep"}  # of fixed type, but still device arrays
# Class indices, or targets of the weights' dtype; pixels, or features of that dtype.
TRAINING = [
    (kernel, kinds)
    for kernel, kinds in (*usual(), *usual_on_device(WHOLE + HALVES))
    if kinds.get("I", np.dtype("int64")) == "int64" or "T" in kinds
    if kinds.get("U", kinds.get("T", "uint8")) in ("uint8", kinds.get("T"))
]


def generated(cupy, kernel, kinds):
    """The CUDA C++ that CuPy generates for a kernel: arrays contiguous or not, numbers as scalars or as arrays."""
    core, scalar = cupy._core._kernel, cupy._core._scalar.CScalar
    made = cupy.ElementwiseKernel(*kernel.formula, kernel.name, **kernel.options)
    every = (*kernel.ins, *kernel.outs)
    types = [np.dtype(p.dtype or kinds[p.c]) for p in every]
    _, _, typedefs = made._decide_params_type(tuple(types[: made.nin]), tuple(types[made.nin :]))
    as_called = ((True, False),) if kernel.preamble else ((True, False), (False, True))  # a step's: one way
    for contiguous, only_arrays in as_called:
        ndim = 1 if contiguous else 2
        arguments = [core._ArgInfo(INDEXER, cupy._core._carray.Indexer, None, ndim, True, True)]
        for p, dtype in zip(reversed(every), reversed(types), strict=True):
            typed = p.dtype is not None and p.name not in ARRAYS
            if not p.raw and (typed or (p.name in NUMBERS and not only_arrays)) and p.const:
                arguments.insert(0, core._ArgInfo(SCALAR, scalar, dtype, 0, True, True))
            else:
                arguments.insert(0, core._ArgInfo(NDARRAY, cupy.ndarray, dtype, ndim, contiguous, contiguous))
        yield core._get_elementwise_kernel_code(
            tuple(arguments), typedefs, made.params, made.operation, made.name, made.preamble, **made.kwargs
        )


def unit(cupy, requests):
    """One source of many kernels."""
    headers = (*cupy._core.core._cupy_header_list, "cupy/float16.cuh", "cupy/bfloat16.cuh")
    source = "".join(f"#include <{name}>\n" for name in headers)
    texts = itertools.chain.from_iterable(generated(cupy, *request) for request in requests)
    for at, text in enumerate(texts):
        text = re.sub(r"#include .*|extern \"C\"", "", text)
        source += f"namespace formula_{at} {{\n{text}}}\n"
    return source


def options(cupy, architecture):
    include = Path(cupy.__file__).parent / "_core" / "include"
    paths = [include, *(include / "cupy" / "_cccl" / part for part in ("cub", "thrust", "libcudacxx"))]
    runtime = Path(cupy.__file__).parent.parent / "nvidia" / "cuda_runtime" / "include"
    if not (runtime / "cuda_bf16.h").exists():
        pytest.skip("no headers of the CUDA runtime, install nvidia-cuda-runtime-cu12")
    return [f"-arch=sm_{architecture}", "--std=c++17", *(f"-I{p}" for p in (*paths, runtime))]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_formula_compiles(architecture, nvrtc, cupy, pytestconfig):
    """Without optimisation, which takes three times as long and finds no more errors."""
    if architecture != ARCHITECTURES[-1] and not pytestconfig.getoption("thorough"):
        pytest.skip("before the newest, with --thorough")
    if not hasattr(cupy._core._kernel, "_get_elementwise_kernel_code"):
        pytest.skip("this CuPy does not show the text that it generates")
    if architecture not in supported(nvrtc):
        pytest.skip(f"this NVRTC does not know sm_{architecture}")
    error, log = compiled(nvrtc, unit(cupy, TRAINING), [*options(cupy, architecture), "-G"])
    assert not error, log


def test_a_wrong_formula_does_not_compile(nvrtc, cupy):
    for operation in ("a = z + c", "z = a + b", "a = z + b)"):
        kernel = ElementwiseKernel("T z, T b", "T a", operation, "wrong")
        error, log = compiled(
            nvrtc, unit(cupy, [(kernel, {"T": np.dtype("float32")})]), options(cupy, supported(nvrtc)[-1])
        )
        assert error == "NVRTC_ERROR_COMPILATION"
        assert "error" in log


@pytest.mark.parametrize(("architecture", "pieces"), [(80, 3), (90, 1), (90, 2), (90, 3), (100, 1)])
def test_the_middle_of_a_step_keeps_its_numbers_in_registers(architecture, pieces, nvrtc):
    """Compile to machine code, for the digits' network: the assembler reports registers that it spills.

    The assemblers of CUDA 12.9 and 13.0 spill nothing; others may spill an address or two.
    """
    if architecture not in supported(nvrtc):
        pytest.skip(f"this NVRTC does not know sm_{architecture}")
    sizes, limit = (784, 128, 64, 10), 166_912 if architecture == 80 else 232_448
    device = {"MaxSharedMemoryPerBlockOptin": limit, "MaxSharedMemoryPerMultiprocessor": limit + 1024}
    device["MultiProcessorCount"] = 132
    assert middle_cut.why_not(sizes, pieces, device) == ""
    cut = middle_cut.cut_of(sizes, pieces, 60_000, device)
    text = middle.text(
        sizes, "relu", "softmax", pieces, cut, targets="int64", dense=False,
        weighted=False, count=True, stored="bfloat16" if pieces == 1 else "float32",
    )  # fmt: skip
    error, log = compiled(nvrtc, program(text), [f"-arch=sm_{architecture}", "--std=c++17", "--ptxas-options=-v"])
    assert not error, log
    assert max(int(n) for n in re.findall(r"(\d+) bytes spill", log)) <= 64, log
    assert max(int(n) for n in re.findall(r"Used (\d+) registers", log)) * cut.threads * cut.beside <= 65536


def test_the_middle_of_a_step_compiles_for_every_output_and_activation(nvrtc):
    """Each of them once is enough: outputs and activations do not interact."""
    for output, activation in zip(OUTPUTS, itertools.cycle(("sigmoid", "tanh", "leaky_relu", "identity"))):
        dense = output in ("identity", "exp")
        text = middle.text(
            (5, 20, 12, 3), activation, output, 2, middle_cut.LEAST, targets="float32" if dense else "uint8",
            dense=dense, weighted=True, count=not dense,
        )  # fmt: skip
        error, log = compiled(nvrtc, program(text), ["-arch=compute_80", "--std=c++17"])
        assert not error, log


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_products_of_few_rows_compile(architecture, nvrtc):
    if architecture < 80 or architecture not in supported(nvrtc):
        pytest.skip(f"this NVRTC does not know sm_{architecture}, or it has no tensor cores for bfloat16")
    outputs = list(OUTPUTS.values())[: None if architecture == ARCHITECTURES[-1] else 1]
    for row, activation in zip(outputs, itertools.cycle(("sigmoid", "tanh", "relu", "leaky_relu"))):
        targets = "int64" if row.classifies else "float32"
        text = few.text(activation, row.loss, 10, 3, targets, not row.classifies, True, row.classifies)
        if row is not outputs[0]:  # products that depend on neither
            text = re.sub(r"^PLAIN\(.*", "", text, flags=re.MULTILINE)
        error, log = compiled(nvrtc, program(text), [f"-arch=sm_{architecture}", "--std=c++17", "--ptxas-options=-v"])
        assert not error, log
        assert max(int(n) for n in re.findall(r"(\d+) bytes spill", log)) <= 64, log
