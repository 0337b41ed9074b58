"""Arrays on a GPU as arguments of `dataset`, `train` and a model: on the double, and on a GPU if there is one."""

import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from device_double import as_cupy, double_backend

import fcgpu
from fcgpu.backend import device_of
from fcgpu.model import backend_of

OPTIONS = {"hidden": (6,), "epochs": 3, "learning_rate": 0.1, "batch": 20}


@pytest.fixture
def given(device, monkeypatch):
    if type(device.xp).__name__ != "module":
        as_cupy(device.xp, monkeypatch)
    return device


@pytest.fixture
def samples():
    random = np.random.default_rng(0)
    y = np.arange(60) % 3
    return random.normal(0, 1, (60, 5)) + y[:, None], y


@pytest.mark.parametrize("changes", [{}, {"early_stopping": True}, {"dropout": 0.2, "batch": "full"}], ids=str)
def test_they_train_as_they_do_from_the_host(changes, given, samples):
    X, y = samples
    *_, expected = fcgpu.train((X, y), device=given, **{**OPTIONS, **changes})
    weights = given.to_device(np.ones(len(y)))
    *_, found = fcgpu.train((given.to_device(X), given.to_device(y)), device=given, **{**OPTIONS, **changes})
    np.testing.assert_array_equal(found.model.params, expected.model.params)
    assert found.train == expected.train
    *_, found = fcgpu.train((given.to_device(X), y), device=given, sample_weight=weights, **{**OPTIONS, **changes})
    np.testing.assert_allclose(found.model.params, expected.model.params, rtol=1e-5, atol=1e-6)


def test_a_test_set_may_lie_there_too_and_a_model_answers_there(given, samples):
    X, y = samples
    there = given.to_device(X)
    *_, expected = fcgpu.train(fcgpu.dataset(X, y, X, y), device=given, **OPTIONS)
    *_, found = fcgpu.train(fcgpu.dataset(there, y, there, given.to_device(y)), device=given, **OPTIONS)
    assert found.test == expected.test == expected.train
    P = found.model.predict_proba(there, device=given)
    assert given.holds(P)
    np.testing.assert_allclose(given.to_host(P), found.model.predict_proba(X), rtol=1e-5)
    np.testing.assert_array_equal(found.model.predict(there, device=given), found.model.predict(X))


@pytest.mark.parametrize("few", [True, False])
def test_a_prediction_there_sends_the_parameters_and_waits_for_the_labels(few, samples, monkeypatch):
    """Also, if the host does not look at few logits itself, to know that all are finite."""
    X, y = samples
    backend = double_backend(monkeypatch)
    xp = backend.xp
    as_cupy(xp, monkeypatch)
    monkeypatch.setattr("fcgpu.model.FEW_LOGITS", 3 * len(y) if few else 2)
    *_, finished = fcgpu.train((X, y), device="cpu", **OPTIONS)
    there = backend.to_device(X.astype(np.float32))
    # Allocated are the parameters and a buffer for the features' and each layer's values, launched a product and an
    # activation for each layer; and three of each to look at the logits.
    expected = (1, 1, 1 + 3, 2 * 2) if few else (1, 2, 1 + 3 + 3, 2 * 2 + 3)

    def counts():
        return xp.uploads, xp.synchronisations, xp.allocations, xp.launches.total()

    for n in (1, len(y)):
        before = counts()
        labels = finished.model.predict(there[:n], device=backend)
        assert tuple(now - then for now, then in zip(counts(), before, strict=True)) == expected
        np.testing.assert_array_equal(labels, finished.model.predict(X[:n]))
    there[-1] *= np.nan
    with pytest.raises(fcgpu.DivergenceError, match="outputs for sample 59 are not finite"):
        finished.model.predict(there, device=backend)


def test_what_is_wrong_with_them_is_said(given, samples):
    X, y = samples
    with pytest.raises(fcgpu.DataError, match=r"arrays: X has shape \(60,\); expected"):
        fcgpu.dataset(given.to_device(X[:, 0]), y)
    X[30, 2] = np.inf
    with pytest.raises(fcgpu.DataError, match="arrays: feature 2 of sample 30 is inf"):
        fcgpu.dataset(given.to_device(X), y)
    *_, finished = fcgpu.train((X[:30], y[:30]), device=given, **OPTIONS)
    for wrong in (X[:0], X[0]):
        with pytest.raises(fcgpu.DataError, match=r"X: X has shape \(.*\); "):
            finished.model.predict(given.to_device(wrong), device=given)
    with pytest.raises(fcgpu.DataError, match="sample_weight has shape"):
        fcgpu.train((X[:30], y[:30]), device="cpu", sample_weight=given.to_device(y))


def test_another_device_than_theirs_is_refused(given, samples):
    X, y = samples
    there = given.to_device(X)
    message = r"with X on cuda:0: use device='auto', or cupy.asnumpy\(X\)"
    for device in ("cpu", "cuda:1", fcgpu.choose("cpu")):
        with pytest.raises(fcgpu.ConfigError, match=message):
            fcgpu.train((there, y), device=device, **OPTIONS)
        with pytest.raises(fcgpu.ConfigError, match=message):
            backend_of(device, there)
    for device in ("auto", "cuda", "cuda:0"):
        assert device_of(device, there) == "cuda:0"
    assert backend_of(None, X).device == "cpu"


@pytest.mark.parametrize("changes", [{}, {"early_stopping": True}], ids=str)
def test_they_may_lie_on_another_gpu_than_the_callers(changes, samples, monkeypatch):
    X, y = samples
    double = double_backend(monkeypatch)
    second, xp = replace(double, device="cuda:1"), double.xp
    as_cupy(xp, monkeypatch)
    xp.number = 1
    there, labels = second.to_device(X), second.to_device(y % 2)
    data = fcgpu.dataset(there, labels, there, labels)
    *_, found = fcgpu.train(data, device=second, output="sigmoid", **{**OPTIONS, **changes})
    P = found.model.predict_proba(there, device=second)
    assert P.shape == (60, 2)
    assert found.test.accuracy == np.mean(found.model.predict(there, device=second) == y % 2)
    with pytest.raises(fcgpu.ConfigError, match="device='cuda' with X on cuda:1: use device='auto'"):
        fcgpu.train((there, labels), device="cuda", **OPTIONS)
    assert [device.id for device in xp._devices] == [0]


@pytest.mark.gpu
def test_they_decide_the_device(gpu, samples):
    X, y = samples
    there = gpu.to_device(X)
    for device in ("auto", "cuda"):
        first, *_ = fcgpu.train((there, y), device=device, **OPTIONS)
        assert first.backend.device == "cuda:0"
    assert backend_of(None, there).device == "cuda:0"


def test_where_cupy_is_missing_it_is_said(monkeypatch, samples):
    monkeypatch.setitem(sys.modules, "cupy", None)

    tensor = SimpleNamespace(__cuda_array_interface__={"version": 3})
    with pytest.raises(fcgpu.DeviceError, match="CuPy is not installed: pip install"):
        fcgpu.dataset(tensor, samples[1])
