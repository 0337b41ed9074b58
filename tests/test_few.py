"""Products of few rows, each with what follows it in one launch: against the references in float64, and as the steps of
a training; on the double, whose kernels are emulated thread by thread, and on a GPU.
"""

import numpy as np
import pytest
from device_double import WHOLE, double_backend
from kernel_cases import whole

import fcgpu
from fcgpu.kernels import REFERENCE, few
from fcgpu.kernels.device import Rows
from fcgpu.kernels.few import Few
from fcgpu.kernels.losses import OUTPUTS
from fcgpu.train import capture, cluster, plan_gpu
from fcgpu.train.few_rows import FewRows


@pytest.fixture(params=["double", pytest.param("gpu", marks=pytest.mark.gpu)])
def device(request, monkeypatch):
    monkeypatch.setattr(cluster, "why_not", lambda *arguments: "a test asks for it")
    monkeypatch.setattr(plan_gpu, "why_layers", lambda *arguments, **options: "a test asks for it")
    if request.param == "double":
        return double_backend(monkeypatch, WHOLE, on_chip=True)
    return request.getfixturevalue("gpu")


def made(xp, activation="relu", loss="cross_entropy", outputs=3, targets=None, *, weighted=False, count=True):
    targets = np.zeros(1, np.int64) if targets is None else targets
    return Few(activation, loss, outputs, 3, targets, weighted=weighted, count=count, xp=xp)


def matrix(random, shape, wide=0):
    """Random numbers in the first columns of a matrix with `wide` columns, which are NaN after them."""
    host = np.full((shape[0], max(wide, shape[1])), np.nan, np.float32)
    host[:, : shape[1]] = random.normal(0, 1, shape)
    return host


def near(found, right, k):
    """Equal to a product of inner size k, but for the rounding of a sum of k numbers."""
    np.testing.assert_allclose(found, right, rtol=0, atol=4e-7 * k**0.5 * max(1, np.abs(right).max()))


SHAPES = [(1, 4, 4), (16, 32, 128), (17, 36, 132), (40, 8, 300), (5, 100, 1), (33, 64, 67)]


@pytest.mark.parametrize("turned", ["", "a", "b"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products_are_numpys(shape, turned, device):
    (m, n, k), random, xp = shape, np.random.default_rng(0), device.xp
    if turned == "a":
        m = -(-m // 4) * 4
    else:
        k = -(-k // 4) * 4
    A = matrix(random, (k, m) if turned == "a" else (m, k), 308)
    B = matrix(random, (n, k) if turned == "b" else (k, n), 304)
    C = matrix(random, (m, n), n + 4)
    a, b = (M[:, : M.shape[1] if not np.isnan(M[0]).any() else int(np.isnan(M[0]).argmax())] for M in (A, B))
    right = (a.T if turned == "a" else a).astype(float) @ (b.T if turned == "b" else b).astype(float)
    on = [xp.asarray(M) for M in (A, B, C)]
    its = [on[0][:, : a.shape[1]], on[1][:, : b.shape[1]], on[2][:, :n]]
    options = {"transposed_a": turned == "a", "transposed_b": turned == "b"}
    multiply = made(xp)
    multiply(*its, alpha=0.5, beta=2.0, **options)
    near(its[2].get(), 0.5 * right + 2 * C[:, :n], k)
    its[2][...] = float("nan")
    multiply(*its, **options)  # C is overwritten, not read
    near(its[2].get(), right, k)
    assert np.isnan(on[2].get()[:, n:]).all()


@pytest.mark.parametrize(
    ("activation", "units"), [*(("sigmoid", n) for n in (1, 7, 8, 40)), ("leaky_relu", 7), ("identity", 40)]
)
def test_a_layer_in_each_direction(activation, units, device):
    random, xp, m, k = np.random.default_rng(1), device.xp, 19, 24
    n, wide = -(-units // 8) * 8, -(-(units + 1) // 8) * 8
    A, M = matrix(random, (m, k)), matrix(random, (k, n))
    M[:, units:] = 0
    out, multiply = xp.asarray(np.full((m, wide), np.nan, np.float32)), made(xp, activation)
    multiply.forward(xp.asarray(A), xp.asarray(M), out, units, 0.25)
    right = 0.25 * (A.astype(float) @ M[:, :units])
    REFERENCE[activation](right, 0, xp=np)
    found = out.get()
    near(found[:, :units], right, k)
    assert (found[:, units] == 1).all()
    assert not found[:, units + 1 :].any()

    dZ, M = matrix(random, (m, 16)), matrix(random, (wide, 16))
    dA = xp.asarray(np.full((m, wide), np.nan, np.float32))
    multiply.backward(xp.asarray(dZ), xp.asarray(M), out, dA, units)
    right = dZ.astype(float) @ M[:units].T.astype(float)
    if activation != "identity":
        REFERENCE[f"{activation}_backward"](found[:, :units].astype(float), right, xp=np)
    near(dA.get()[:, :units], right, 16)
    assert not dA.get()[:, units:].any()


@pytest.mark.parametrize(
    ("output", "k", "dense", "weighted"),
    [
        ("sigmoid", 1, False, False), ("sigmoid", 3, False, True), ("sigmoid", 32, True, False),
        ("softmax", 3, False, False), ("softmax", 10, True, True), ("softmax", 32, False, True),
        ("identity", 1, True, True), ("identity", 32, True, False), ("exp", 3, True, True), ("exp", 10, True, False),
    ],
)  # fmt: skip
def test_the_last_layer_and_its_loss(output, k, dense, weighted, device):
    random, xp, m, loss = np.random.default_rng(2), device.xp, 37, OUTPUTS[output].loss
    wide, inner = -(-k // 8) * 8, 12
    A, M = matrix(random, (m, inner)), np.zeros((inner, wide), np.float32)
    M[:, :k] = random.normal(0, 0.5, (inner, k))
    y = random.random((m, k)).astype(np.float32) if dense else random.integers(0, max(2, k), m)
    if dense and output == "softmax":
        y /= y.sum(1, keepdims=True)
    weights, share = random.random(m).astype(np.float32), np.array([0.5 / m], np.float32)
    multiply = made(xp, loss=loss, outputs=k, targets=y, weighted=weighted, count=not dense)
    dZ = xp.asarray(np.zeros((m, wide), np.float32))
    losses, rights = (xp.asarray(np.full(few.blocks(m), np.nan)) for _ in range(2))
    rows = Rows(None, *map(xp.asarray, (y, weights if weighted else weights[:1])), None)
    multiply.last(xp.asarray(A), xp.asarray(M), rows, xp.asarray(share), dZ, losses, rights, 0.5)
    Z = 0.5 * (A.astype(float) @ M[:, :k])
    weight = float(share[0]) * (weights[:, None].astype(float) if weighted else 1)
    right, each = np.zeros(m, bool), np.empty((m, 1))
    if not dense:
        REFERENCE["count_correct"](Z, y, right, xp=np)
    whole(REFERENCE, loss)(Z, y, weight, each, xp=np)
    np.testing.assert_allclose(dZ.get()[:, :k], Z, rtol=0, atol=2e-6 * np.abs(Z).max())
    assert not dZ.get()[:, k:].any()
    assert losses.get().sum() == pytest.approx(each.sum(), rel=2e-6)
    assert rights.get().sum() == right.sum()


def samples(n=75, classes=3, outputs=None):
    random = np.random.default_rng(4)
    X = random.normal(0, 1, (n, 21)).astype(np.float32)
    if outputs:
        return fcgpu.dataset(X, random.normal(0, 1, (n, outputs)))
    return fcgpu.dataset(X, np.argmax(X[:, :classes], axis=1))


def trained(device, data, **changes):
    options = {"hidden": (24, 40), "epochs": 2, "optimizer": "adam", "learning_rate": 0.01, **changes}
    first, *_, finished = fcgpu.train(data, device=device, **options)
    assert device == "cpu" or first.plan.why_layers
    return finished


CASES = {
    "mini-batches and a rest": (samples(), {"batch": 32, "optimizer": "momentum"}),
    "L2, clipped, weights": (
        samples(), {"alpha": 3.0, "gradient_clip": 0.1, "output": "sigmoid", "sample_weight": np.linspace(0, 2, 75)},
    ),
    "more outputs than a tile has": (samples(outputs=40), {"output": "identity"}),
    "no hidden layer": (samples(), {"hidden": (), "batch": 20}),
}  # fmt: skip


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if "rest" in n else pytest.mark.slow) for n in CASES])
def test_steps_are_the_cpus(name, device, monkeypatch):
    data, changes = CASES[name]
    used = []
    monkeypatch.setattr(FewRows, "forward", lambda self, *of: (used.append(1), super(FewRows, self).forward(*of)))
    ours, theirs = (trained(where, data, **changes) for where in (device, "cpu"))
    assert used
    np.testing.assert_allclose(ours.model.params, theirs.model.params, rtol=0, atol=1e-4)
    assert ours.train.loss == pytest.approx(theirs.train.loss, rel=1e-4)


def test_targets_in_fortran_order_are_the_same(device):
    X, y = samples().X, np.random.default_rng(5).normal(0, 1, (75, 3))
    ours, theirs = (
        trained(device, fcgpu.dataset(X, np.asarray(y, order=o)), output="identity", hidden=(), epochs=1) for o in "FC"
    )
    assert ours.model.params.tobytes() == theirs.model.params.tobytes()


def test_recorded_steps_have_the_bits_of_called_ones(device, monkeypatch):
    if capture.why_eager(device):
        pytest.skip(capture.why_eager(device))
    recorded = trained(device, samples(), batch=32)
    monkeypatch.setattr(capture, "why_eager", lambda backend: "a test asks for it")
    called = trained(device, samples(), batch=32)
    assert recorded.capture.startswith("graph of ")
    assert recorded.model.params.tobytes() == called.model.params.tobytes()


def test_large_products_many_rows_and_dropout_are_cublass(device, monkeypatch):
    monkeypatch.setattr(FewRows, "forward", lambda *of: pytest.fail("not few"))
    trained(device, samples(), dropout=0.5)
    for name, most in (("MOST", 1000), ("MOST_ROWS", 74)):
        with monkeypatch.context() as patch:
            patch.setattr(few, name, most)
            trained(device, samples())
