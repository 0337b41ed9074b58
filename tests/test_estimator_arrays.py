"""Array types: any DLPack array goes in, and what comes out is of the kind that went in where that is asked for."""

import os
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("sklearn")

from peers import CLASSIFY, assert_same_bits, ours, problem, weights

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

KINDS = [*CLASSIFY, "regression", "regressions"]


class Exporter:
    """An array that offers nothing but the DLPack protocol."""

    def __init__(self, array):
        self._array = array

    def __dlpack__(self, **options):
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "binary"])  # whose labels are text
def test_dlpack_arrays_are_taken_everywhere(kind, dtype):
    X, y = problem(kind)
    X, w, new = X.astype(dtype), weights(len(X)), problem(kind, seed=7)[0].astype(dtype)
    given = {"batch_size": 16, "max_iter": 5}
    exported = ours(kind, **given).fit(Exporter(X), Exporter(y), Exporter(w))
    plain = ours(kind, **given).fit(X, y, w)
    assert_same_bits(exported, plain)
    for method in ("predict", "predict_proba", "predict_log_proba"):
        if hasattr(plain, method):
            values = getattr(exported, method)(Exporter(new))
            assert type(values) is np.ndarray
            np.testing.assert_array_equal(values, getattr(plain, method)(new))
    assert exported.score(Exporter(X), Exporter(y)) == plain.score(X, y)
    assert_same_bits(exported.partial_fit(Exporter(X), Exporter(y)), plain.partial_fit(X, y))
    validated = ours(kind, **given).fit(X, y, validation_data=(Exporter(X), Exporter(y)))
    assert validated.validation_scores_[-1] == pytest.approx(validated.score(X, y))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_handed_in_is_not_written_to(kind):
    X, y = problem(kind)
    X, w = np.asfortranarray(X), weights(len(X))
    before = [array.copy() for array in (X, y, w)]
    for array in (X, y, w):
        array.flags.writeable = False
    model = ours(kind, batch_size=16, max_iter=3, dropout=0.2).fit(X, y, w, validation_data=(X, y))
    model.predict(X)
    for array, copy in zip((X, y, w), before, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_the_bytes_does_not_matter(kind):
    X, y = problem(kind)
    plain = ours(kind, max_iter=3).fit(X, y)
    every_second = np.repeat(np.repeat(X, 2, axis=0), 2, axis=1)[::2, ::2]
    for other in (np.asfortranarray(X), every_second, X.tolist()):
        assert_same_bits(ours(kind, max_iter=3).fit(other, y), plain)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "binary"])
def test_cupy_arrays_give_cupy_arrays(kind, gpu):
    cp = gpu.xp
    X, y = problem(kind)
    given = {"batch_size": 16, "max_iter": 5}
    on_device = ours(kind, device="cuda", **given).fit(cp.asarray(X), cp.asarray(y))
    on_host = ours(kind, device="cpu", **given).fit(X, y)
    np.testing.assert_allclose(on_device.loss_curve_, on_host.loss_curve_, rtol=1e-6)
    for method in ("predict", "predict_proba"):
        if hasattr(on_host, method):
            values = getattr(on_device, method)(cp.asarray(X))
            assert isinstance(values, cp.ndarray)
            np.testing.assert_allclose(cp.asnumpy(values), getattr(on_host, method)(X), atol=1e-6)


ARRAY_API = """
import warnings
import array_api_strict as xp
import numpy as np
import sklearn
from peers import ours, problem, weights
from sklearn.utils import estimator_checks as checks

warnings.simplefilter("ignore", sklearn.exceptions.ConvergenceWarning)
for kind in ("multiclass", "multilabel", "regression", "regressions"):
    for dtype in ("float32", "float64"):
        X, y = problem(kind)
        X, w = X.astype(dtype), weights(len(X)).astype(dtype)
        given = {"batch_size": 16, "max_iter": 5}
        plain = ours(kind, **given).fit(X, y, w)
        with sklearn.config_context(array_api_dispatch=True):
            strict = ours(kind, **given).fit(xp.asarray(X), xp.asarray(y), xp.asarray(w))
            for method in ("predict", "predict_proba", "predict_log_proba"):
                if hasattr(plain, method):
                    values = getattr(strict, method)(xp.asarray(X))
                    assert values.__array_namespace__() is xp, (method, type(values))
                    expected = getattr(plain, method)(X)
                    assert np.from_dlpack(values).dtype == expected.dtype, method
                    np.testing.assert_array_equal(np.from_dlpack(values), expected)
            score = strict.score(xp.asarray(X), xp.asarray(y))
            assert isinstance(score, float)
            assert score == plain.score(X, y)
        assert list(strict.loss_curve_) == list(plain.loss_curve_)

for kind in ("multiclass", "regression"):
    model = ours(kind, max_iter=5)
    name = type(model).__name__
    assert model.__sklearn_tags__().array_api_support, name
    for device, dtype in (("CPU_DEVICE", "float64"), ("device1", "float32")):
        checks.check_array_api_input_and_values(
            name, model, "array_api_strict", device_name=device, dtype_name=dtype, check_sample_weight=True
        )
    checks.check_array_api_input_and_values(name, model, "numpy", check_sample_weight=True)
    checks.check_array_api_same_namespace(name, model, array_namespace="array_api_strict")
"""


def test_array_api_arrays_give_their_own_kind():
    pytest.importorskip("array_api_strict")
    # SciPy reads the variable when it is imported, so this takes a process of its own.
    environment = os.environ | {"SCIPY_ARRAY_API": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", ARRAY_API], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
