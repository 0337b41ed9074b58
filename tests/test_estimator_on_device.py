"""Estimators on the GPU double: features on the device stay there, and predictions are device arrays."""

import pickle
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("sklearn")

from device_double import DeviceArray, as_cupy, double_backend
from peers import ours, problem, weights
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV

import fcgpu
from fcgpu.estimator import base

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
KINDS = ["multiclass", "multilabel", "regression", "regressions", "counts"]
GIVEN = {"batch_size": 16, "max_iter": 3, "dtype": "float64"}


@pytest.fixture
def device(monkeypatch):
    """The double as CuPy: `import cupy` gives its namespace, every GPU is the double, `fetched` lists all fetches."""
    backend, fetched, get = double_backend(), [], DeviceArray.get
    as_cupy(backend.xp, monkeypatch)
    monkeypatch.setattr(base, "backend_for", lambda name, work: fcgpu.choose("cpu") if name == "cpu" else backend)
    monkeypatch.setattr(DeviceArray, "get", lambda array: fetched.append(array.shape) or get(array))
    return SimpleNamespace(backend=backend, xp=backend.xp, fetched=fetched)


@pytest.mark.parametrize("given", [{}, {"solver": "lbfgs"}, {"dropout": 0.3}, {"early_stopping": True}], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_features_on_the_device_are_never_fetched_and_answers_stay_there(kind, given, device):
    X, y = problem(kind)
    on_device = device.xp.asarray(X)
    uploaded = device.xp.upload_bytes
    model = ours(kind, **GIVEN, **given).fit(on_device, y)
    assert device.xp.upload_bytes - uploaded < X.nbytes + 8 * (3 * model._flat(model._spec()).size + 60 * len(X))
    assert model.device_ == "cuda:0"
    rows = {shape[0] for shape in device.fetched if len(shape) == 2 and shape[1] == X.shape[1] > 3}
    assert not rows & {len(X), int(0.9 * len(X))}
    plain = ours(kind, device="cpu", **GIVEN, **given).fit(X, y)
    np.testing.assert_allclose(model.loss_curve_, plain.loss_curve_, rtol=1e-6)
    device.fetched.clear()
    for method in ("predict_proba", "predict_log_proba", "predict"):
        if hasattr(plain, method):
            values = getattr(model, method)(on_device)
            assert isinstance(values, DeviceArray), method
            np.testing.assert_allclose(values._host, getattr(plain, method)(X), rtol=1e-5, atol=1e-7)
    assert X.shape not in device.fetched
    assert model.score(on_device, y) == pytest.approx(plain.score(X, y))


@pytest.mark.parametrize("kind", ["multiclass", "binary", "multilabel"])
def test_labels_are_decided_on_the_device_if_they_are_many(kind, device):
    """The host waits until all features are known to be finite, and for the labels, if they are of one column."""
    X, y = problem(kind)
    model = ours(kind, **GIVEN).fit(X, y)
    for n, fetched in ((3, [(3, model.n_outputs_)]), (17_000, [] if kind == "multilabel" else [(17_000,)])):
        there = device.xp.asarray(np.resize(X, (n, X.shape[1])))
        device.fetched.clear()
        model.predict(there)
        assert device.fetched == [(), *fetched]


@pytest.mark.parametrize(("kind", "monitor"), [("multiclass", "neg_log_loss"), ("regression", "r2")])
def test_a_scorer_of_scikit_learn_watches_samples_that_lie_there(kind, monitor, device):
    X, y = problem(kind)
    given = {**GIVEN, "early_stopping": True, "monitor": monitor}
    there, plain = ours(kind, **given).fit(device.xp.asarray(X), y), ours(kind, device="cpu", **given).fit(X, y)
    np.testing.assert_allclose(there.validation_scores_, plain.validation_scores_, rtol=1e-6)


@pytest.mark.parametrize("given", [{}, {"dropout": 0.3}, {"early_stopping": True}], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_features_may_lie_on_another_device_than_the_callers(kind, given, device, monkeypatch):
    second = replace(device.backend, device="cuda:1")
    monkeypatch.setattr(base, "backend_for", lambda name, work: second)
    device.xp.number = 1
    X, y = problem(kind)
    there = second.to_device(X)
    model = ours(kind, **GIVEN, **given).fit(there, y, validation_data=None if given else (there, y))
    assert model.device_ == "cuda:1"
    for method in ("predict_proba", "predict_log_proba", "predict"):
        if hasattr(model, method):
            assert isinstance(getattr(model, method)(there), DeviceArray), method
    assert np.isfinite(model.score(there, y))
    if kind == "multiclass":
        assert ours(kind, output="sigmoid", **GIVEN).fit(there, y).predict_proba(there).shape == (len(y), 3)
    assert [device.id for device in device.xp._devices] == [0]


def test_two_classes_of_text_are_answered_on_the_host_and_their_probabilities_on_the_device(device):
    X, y = problem("binary")
    model = ours("binary", **GIVEN).fit(device.xp.asarray(X), y)
    assert set(model.predict(device.xp.asarray(X))) <= {"yes", "no"}
    proba = model.predict_proba(device.xp.asarray(X))
    assert isinstance(proba, DeviceArray)
    np.testing.assert_allclose(proba._host.sum(axis=1), 1)


def test_labels_and_weights_may_lie_there_too(device):
    X, y = problem("multiclass")
    w = weights(len(X))
    a = ours("multiclass", **GIVEN).fit(*map(device.xp.asarray, (X, y, w)))
    b = ours("multiclass", **GIVEN).fit(device.xp.asarray(X), y, w)
    np.testing.assert_array_equal(a.loss_curve_, b.loss_curve_)


def test_what_cannot_be_learned_from_is_refused(device):
    X, y = problem("multiclass")
    X[3, 2] = np.nan
    with pytest.raises(ValueError, match="feature 2 of sample 3 is nan"):
        ours("multiclass").fit(device.xp.asarray(X), y)
    with pytest.raises(ValueError, match=r"expected .n_samples, n_features"):
        ours("multiclass").fit(device.xp.asarray(X[0]), y)
    with pytest.raises(ValueError, match="device='cpu'"):
        ours("multiclass", device="cpu").fit(device.xp.asarray(np.nan_to_num(X)), y)
    with pytest.warns(ConvergenceWarning):
        model = ours("multiclass", max_iter=1).fit(device.xp.asarray(np.nan_to_num(X)), y)
    with pytest.raises(ValueError, match="5 features"):
        model.predict(device.xp.asarray(np.nan_to_num(X[:, :5])))


def test_no_device_is_asked_for_before_fit_and_a_forked_process_asks_anew(monkeypatch):
    asked = []
    monkeypatch.setattr(base, "choose", lambda device: asked.append(device) or fcgpu.choose("cpu"))
    model = clone(ours("multiclass", device="cuda:3").set_params(alpha=0.1))
    grid = GridSearchCV(pickle.loads(pickle.dumps(model)), {"alpha": [0.1, 1.0]})
    assert "alpha" in grid.get_params()["estimator"].get_params()
    assert not asked
    base.backend_for("cuda:3"), base.backend_for("cuda:3")
    assert asked == ["cuda:3"]
    monkeypatch.setattr("os.getpid", lambda: -1)
    base.backend_for("cuda:3")
    assert asked == ["cuda:3", "cuda:3"]
    base._backend_of.cache_clear()


def test_a_model_that_was_trained_on_a_device_is_pickled_without_it(device):
    X, y = problem("multiclass")
    model = ours("multiclass", **GIVEN).fit(device.xp.asarray(X), y)
    assert not [value for value in pickle_parts(model) if isinstance(value, DeviceArray)]
    copy = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(copy.predict(device.xp.asarray(X))._host, model.predict(device.xp.asarray(X))._host)


def pickle_parts(value):
    """The contents of a pickle of the estimator."""
    yield value
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    inside = [*inside, *getattr(value, "__dict__", {}).values()]
    for part in inside:
        yield from pickle_parts(part)
