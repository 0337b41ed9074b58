"""Every fused formula against its reference, in value and dtype, compiled for the CPU by the device double."""

import inspect

import pytest
from device_double import COMPILED, double_backend, usual
from kernel_cases import DTYPES, cases, compare, lifted

from fcgpu.kernels import REFERENCE
from fcgpu.kernels.fused import ACTIVATIONS, FORMULAS, RULES


def counting(update):
    """Wrap a rule whose caller counts the steps, so that it counts them itself like the reference."""

    def counted(w, g, state, learning_rate, **options):
        counted_up = state.t
        counted_up += 1
        update(w, g, state, learning_rate, **options)

    return counted


FUNCTIONS = ACTIVATIONS | RULES | {name: counting(RULES[name]) for name in ("adam", "adamw")}


@pytest.fixture(params=["double", pytest.param("cupy", marks=pytest.mark.gpu)])
def xp(request):
    """The device double, and CuPy if there is a GPU: the same source, the same tolerance."""
    return double_backend().xp if request.param == "double" else request.getfixturevalue("gpu").xp


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_equals_the_reference(name, dtype, xp):
    compare(name, FUNCTIONS[name], dtype, xp)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_has_the_signature_of_the_reference(name):
    fused, reference = inspect.signature((ACTIVATIONS | RULES)[name]), inspect.signature(REFERENCE[name])
    assert [(p.name, p.kind, p.default) for p in fused.parameters.values()] == [
        (p.name, p.kind, p.default) for p in reference.parameters.values()
    ]


def test_every_formula_is_compared():
    xp = double_backend().xp
    for name, function in FUNCTIONS.items():
        case = next(cases(name, "float64"))
        options = {key: lifted(value, xp.asarray) for key, value in case.options.items()}
        function(*(lifted(a, xp.asarray) for a in case.args), **options, xp=xp)
    assert {name for name in xp.launches if name.startswith("fcgpu_")} == {f"fcgpu_{name}" for name in FORMULAS}


def wrong(formula):
    """For each output of a formula: the formula with that output 0.1 % too large."""
    inputs, outputs, operation = formula
    for name in (output.split()[-1] for output in outputs.split(",")):
        yield name, (inputs, outputs, f"{operation}; {name} = {name} * T(1.001)")


WRONG = {(name, output): formula for name in FORMULAS for output, formula in wrong(FORMULAS[name])}


@pytest.fixture(scope="module")
def wrong_formulas_compiled():
    double_backend()
    COMPILED.build([request for (name, _), formula in WRONG.items() for request in usual({name: formula})])


@pytest.mark.usefixtures("wrong_formulas_compiled")
@pytest.mark.parametrize(("name", "output"), WRONG)
def test_a_formula_that_is_a_thousandth_off_is_caught(name, output, monkeypatch):
    """In float32, whose tolerance is the larger one."""
    monkeypatch.setitem(FORMULAS, name, WRONG[name, output])
    with pytest.raises(AssertionError):
        compare(name, FUNCTIONS[name], "float32", double_backend().xp)
