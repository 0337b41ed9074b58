"""All of scikit-learn's estimator checks, on both estimators in several configurations."""

from functools import cache
from importlib.util import find_spec
from zlib import crc32

import pytest

pytest.importorskip("sklearn")

from sklearn.utils.estimator_checks import parametrize_with_checks

import fcgpu

SMALL = {"hidden_layer_sizes": (16,), "max_iter": 30, "learning_rate_init": 0.05}
CONFIGURATIONS = [
    SMALL,
    {"hidden_layer_sizes": (), "solver": "lbfgs"},
    # One batch holds all 15 weighted samples, or their repetitions, that two checks compare; the checks of
    # accuracy have more samples, and several batches.
    {**SMALL, "batch_size": 64, "learning_rate_init": 0.02},
    {**SMALL, "dropout": 0.2},
]
OTHERS = [
    {**SMALL, "solver": "sgd", "learning_rate_init": 0.02},
    {**SMALL, "solver": "lbfgs"},
    {**SMALL, "solver": "rprop", "alpha": 0.1},
    {**SMALL, "solver": "adamw", "batch_size": "full", "learning_rate": "cosine"},
    {**SMALL, "solver": "nesterov", "learning_rate": "one_cycle", "activation": "tanh"},
    {**SMALL, "solver": "momentum", "init": "glorot", "gradient_clip": 1.0},
    {**SMALL, "solver": "rmsprop", "activation": "leaky_relu", "warmup": 3, "dtype": "float64"},
    {**SMALL, "solver": "gradient_descent", "max_iter": 60},
]


def every_check(configurations, *, arrays=True):
    """scikit-learn's parametrization, without the array libraries that are not installed.

    Without `arrays`, only NumPy's: solvers do not depend on the kind of array.
    """
    estimators = [cls(**given) for given in configurations for cls in (fcgpu.MLPClassifier, fcgpu.MLPRegressor)]
    mark = parametrize_with_checks(estimators).mark
    names, cases = mark.args
    here = HERE if arrays else {("numpy", None)}
    chosen = [case for case in cases if kinds(case[1]) <= here]
    return pytest.mark.parametrize(names, chosen, ids=cache(mark.kwargs["ids"]))


def kinds(check):
    """{(namespace, device)} of the arrays that a check uses."""
    asked = check.keywords
    found = {(asked.get("array_namespace", "numpy"), asked.get("device_name"))}
    return found | {tuple(place) for name, place in asked.items() if name.endswith("_ns_and_device")}


HERE = {("numpy", None), ("torch", "cpu"), *(("array_api_strict", name) for name in (None, "CPU_DEVICE", "device1"))}
HERE = {(namespace, device) for namespace, device in HERE if find_spec(namespace)}
if "cuda" in fcgpu.choose().device:
    HERE |= {("cupy", None), ("torch", "cuda")}

quietly = pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning",
    "ignore:.*batch_size:UserWarning",  # it exceeds the checks' smallest data
)


@quietly
@every_check(CONFIGURATIONS)
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@quietly
@pytest.mark.slow
@every_check(OTHERS, arrays=False)
def test_scikit_learns_checks_of_every_solver(estimator, check, request):
    """All of them with --thorough; otherwise a fifth, drawn by name."""
    if not request.config.getoption("thorough") and crc32(request.node.name.encode()) % 5:
        pytest.skip("with --thorough")
    check(estimator)
