"""Small batches against the path of large ones: another order of sums, another way to the same update.

Tolerance: in float64 the two round differently in each step, by some eps of numbers of the size of 1, and 20 steps of
so small a network add up to far less than 1e-10.
"""

import numpy as np
import pytest

import fcgpu
from fcgpu.kernels import blas
from fcgpu.kernels.losses import OUTPUTS
from fcgpu.kernels.updates import UPDATES
from fcgpu.network import Workspace
from fcgpu.train import kept, run, small, staircase

RULES = [name for name in UPDATES if name != "rprop"]
REGULARISED = {"alpha": 0.1, "gradient_clip": 0.5, "dropout": 0.3}


def digits(kind="softmax"):
    """Samples with many zeros, so that there are stairs, and a last batch that is not a full one."""
    random = np.random.default_rng(5)
    X = (random.random((107, 48)) < np.linspace(0.95, 0, 48) ** 6) * random.integers(1, 256, (107, 48))
    y = {"softmax": np.arange(107) % 3, "sigmoid": np.arange(107) % 3, "identity": X[:, :2] / 255, "exp": X[:, :1] % 5}
    return fcgpu.dataset(X.astype(np.uint8), y[kind], scale=1 / 255)


def trained(data, **options):
    options = {"hidden": (9, 6), "epochs": 4, "batch": 20, "dtype": "float64", "learning_rate": 0.01, **options}
    _, *epochs, finished = fcgpu.train(data, device="cpu", **options)
    return finished.model.params, [(e.loss, e.penalty, e.accuracy) for e in epochs]


def trained_as_large(monkeypatch, data, **options):
    with monkeypatch.context() as patch:
        patch.setattr(run, "is_small", lambda plan: False)
        return trained(data, **options)


def assert_same(found, expected):
    np.testing.assert_allclose(found[0], expected[0], rtol=0, atol=1e-11)
    for ours, theirs in zip(found[1], expected[1], strict=True):
        assert ours[:2] == pytest.approx(theirs[:2], rel=1e-11)
        assert ours[2] == theirs[2]


@pytest.mark.parametrize("changes", [{}, REGULARISED, {"hidden": ()}], ids=["plain", "regularised", "logistic"])
@pytest.mark.parametrize("optimizer", RULES)
def test_a_run_is_the_same_but_for_rounding(optimizer, changes, monkeypatch):
    data = digits()
    options = {"optimizer": optimizer, **changes, "sample_weight": np.linspace(0.5, 2, 107) if changes else None}
    if "hidden" in changes:
        options["sample_weight"] = None
    assert_same(trained(data, **options), trained_as_large(monkeypatch, data, **options))


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_every_loss_is_measured_later_as_it_would_have_been(output, schedule, monkeypatch):
    monkeypatch.setattr(kept, "BYTES", 50 * 8 * 2)  # room for a few batches, so that an epoch is measured in pieces
    data, options = digits(output), {"output": output, "schedule": schedule, "optimizer": "momentum"}
    assert_same(trained(data, **options), trained_as_large(monkeypatch, data, **options))


@pytest.mark.parametrize("optimizer", ["gradient_descent", "adam"])
@pytest.mark.parametrize("shuffle", [True, False])
def test_parts_of_a_batch_are_as_wide_as_their_samples(optimizer, shuffle, monkeypatch):
    monkeypatch.setattr(staircase, "STEP", 1)
    monkeypatch.setattr(small, "TREAD", 3)
    data, options = digits(), {"optimizer": optimizer, "shuffle": shuffle, "dropout": 0.3}
    widths = []
    noted = Workspace.part

    def part(self, start, stop, width):
        widths.append(width)
        return noted(self, start, stop, width)

    monkeypatch.setattr(Workspace, "part", part)
    found = trained(data, **options)
    assert len(set(widths)) > 4
    assert_same(found, trained_as_large(monkeypatch, data, **options))


def test_without_openblas_gradient_descent_has_the_whole_gradient(monkeypatch):
    data = digits()
    asked = trained(data, optimizer="gradient_descent")
    monkeypatch.setattr(small, "is_available", lambda dtype: False)
    assert_same(trained(data, optimizer="gradient_descent"), asked)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_product_is_added_for_any_shape_and_layout(dtype):
    if not blas.is_available(np.dtype(dtype)):
        pytest.skip("NumPy's BLAS is not an OpenBLAS")
    random = np.random.default_rng(0)

    def matrix(m, n):
        shape = (m, n + random.integers(3)) if random.random() < 0.5 else (n, m + random.integers(3))
        made = random.standard_normal(shape).astype(dtype)
        return made[:, :n] if shape[0] == m and shape[1] >= n else made[:, :m].T

    for _ in range(300):
        m, k, n = random.integers(1, 30, 3)
        A, B, C = matrix(m, k), matrix(k, n), random.standard_normal((m, n + 2)).astype(dtype)[:, :n]
        expected = C - 1.5 * (A.astype(float) @ B)
        call = blas.adder(A, B, C, -1.5)
        call()
        bound = 4 * k * np.finfo(dtype).eps * (np.abs(C).max() + 1.5 * k * np.abs(A).max() * np.abs(B).max())
        np.testing.assert_allclose(C, expected, rtol=0, atol=bound)


def test_a_library_that_is_no_openblas_is_not_asked(monkeypatch):
    monkeypatch.setattr("threadpoolctl.threadpool_info", lambda: [{"internal_api": "mkl", "filepath": "none"}])
    blas._gemm.cache_clear()
    try:
        assert not blas.is_available(np.dtype("float32"))
    finally:
        blas._gemm.cache_clear()


@pytest.mark.parametrize("path", ["small", "large"])
def test_a_batch_without_any_weight_changes_nothing(path, monkeypatch):
    data, weights = digits(), np.ones(107)
    weights[:20] = 0
    if path == "large":
        monkeypatch.setattr(run, "is_small", lambda plan: False)
    options = {"optimizer": "gradient_descent", "shuffle": False, "alpha": 0.5, "epochs": 1}
    with_them = trained(data, sample_weight=weights, **options)
    without = trained(fcgpu.dataset(data.X[20:], data.y[20:], scale=data.scale), **options)
    np.testing.assert_allclose(with_them[0], without[0], rtol=0, atol=1e-12)
