"""Steps on tensor cores, in which one launch goes from the first layer's Z to its dZ: on the double, whose kernels are
emulated thread by thread, and on a GPU.
"""

import numpy as np
import pytest
from device_double import HALVES, WHOLE, double_backend

import fcgpu
from fcgpu.kernels import middle_cut
from fcgpu.train import capture, cluster

HIDDEN = (12, 9)


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch):
    """Without this, a GPU with clusters of blocks would use them for small batches."""
    monkeypatch.setattr(cluster, "why_not", lambda *arguments: "a test asks for it")


@pytest.fixture(params=["double", pytest.param("gpu", marks=pytest.mark.gpu)])
def device(request, monkeypatch):
    if request.param == "double":
        return small_double(monkeypatch)
    return request.getfixturevalue("gpu")


def small_double(monkeypatch):
    """A double with few threads, because each is a fiber."""
    monkeypatch.setattr(middle_cut, "CUTS", (middle_cut.Cut(64, 16, 2),))
    return double_backend(monkeypatch, WHOLE + HALVES, on_chip=True)


def pixels(n=75, classes=3, scale=1 / 255):
    random = np.random.default_rng(4)
    y = np.arange(n) % classes
    X = random.integers(0, 120, (n, 40)) + 100 * (random.random((classes, 40)) < 0.3)[y]
    return fcgpu.dataset(X.astype(np.uint8), y, scale=scale)


def floats(n=75, classes=3, scale=1.0):
    data = pixels(n, classes)
    return fcgpu.dataset((data.X - np.float32(60)) / np.float32(35) / np.float32(scale), data.y, scale=scale)


def trained(device, data=None, **changes):
    options = {"hidden": HIDDEN, "epochs": 2, "optimizer": "adam", **changes}
    if options["optimizer"] != "lbfgs":
        options.setdefault("learning_rate", 0.02)
    first, *_, finished = fcgpu.train(data or pixels(), device=device, **options)
    assert device == "cpu" or not first.plan.why_layers
    return finished


CASES = {
    "mini-batches and a rest": {"batch": 32, "schedule": "cosine", "optimizer": "momentum"},
    "L2, clipped": {"alpha": 3.0, "gradient_clip": 0.1, "activation": "relu", "output": "sigmoid"},
    "weights": {"sample_weight": np.linspace(0, 2, 75), "hidden": (20,), "batch": 40, "shuffle": False},
    "L-BFGS": {"optimizer": "lbfgs"},
}
FEATURES = pytest.mark.parametrize("features", [pixels, floats])


@pytest.mark.parametrize(
    "changes",
    [pytest.param(c, id=name, marks=() if name == "weights" else pytest.mark.slow) for name, c in CASES.items()],
)
@FEATURES
def test_float32_is_the_cpus(features, changes, device):
    ours, theirs = (trained(where, features(), **changes) for where in (device, "cpu"))
    np.testing.assert_allclose(ours.model.params, theirs.model.params, rtol=0, atol=1e-4)
    assert ours.train.loss == pytest.approx(theirs.train.loss, rel=1e-4)
    assert ours.train.accuracy == theirs.train.accuracy


@pytest.mark.parametrize(
    ("precision", "error"), [("float32", 1e-6), pytest.param("tf32", 2e-5, marks=pytest.mark.slow), ("bfloat16", 1e-2)]
)
@FEATURES
def test_a_step_of_each_precision_is_as_near_as_its_pieces(features, precision, error, device):
    """One step from the same parameters, compared with float64 on the CPU; the lost digits must be visible."""
    options, scale = {"optimizer": "gradient_descent", "learning_rate": 1.0, "epochs": 1}, 0.0123
    if precision == "tf32" and features is floats:
        error = 1e-4  # their products round them to 11 bits, where two pieces have 16
    ours = trained(device, features(scale=scale), precision=precision, **options).model.params
    exact = trained("cpu", features(scale=scale), dtype="float64", **options).model.params
    start = trained("cpu", features(scale=scale), dtype="float64", **{**options, "learning_rate": 1e-300}).model.params
    off = np.linalg.norm(ours - exact) / np.linalg.norm(exact - start)
    assert off < 3 * error  # tensor cores truncate their sums, the double rounds them
    assert precision == "float32" or off > 1e-3 * error


@pytest.mark.parametrize("changes", [CASES["mini-batches and a rest"], CASES["L-BFGS"]], ids=["mini-batches", "L-BFGS"])
@FEATURES
def test_recorded_steps_have_the_bits_of_called_ones(features, changes, device, monkeypatch):
    if capture.why_eager(device):
        pytest.skip(capture.why_eager(device))
    recorded = trained(device, features(), **changes)
    monkeypatch.setattr(capture, "why_eager", lambda backend: "a test asks for it")
    called = trained(device, features(), **changes)
    assert recorded.capture.startswith("graph of ")
    assert called.capture == "eager: a test asks for it"
    assert recorded.model.params.tobytes() == called.model.params.tobytes()
    assert recorded.train == called.train


def test_targets_in_fortran_order_are_the_same(device):
    """As the columns of a table come. A full batch has the targets as they lie in memory."""
    X, y = floats().X, np.random.default_rng(5).normal(0, 1, (75, 3))
    ours, theirs = (
        trained(device, fcgpu.dataset(X, np.asarray(y, order=o)), output="identity", epochs=1) for o in "FC"
    )
    assert ours.model.params.tobytes() == theirs.model.params.tobytes()


def test_a_step_is_eight_launches_and_six_without_pieces(monkeypatch):
    backend = small_double(monkeypatch)
    trained(backend)
    assert backend.xp.streams.lengths == [8]  # split, product, middle, add_up, product, merge, end_step, adam
    backend = small_double(monkeypatch)
    trained(backend, floats())
    assert backend.xp.streams.lengths == [6]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@FEATURES
def test_the_plan_is_what_a_run_takes(features, precision, device):
    pool = device.xp.get_default_memory_pool()
    device.give_back()
    before = pool.used_bytes()
    events = fcgpu.train(features(), device=device, hidden=HIDDEN, batch=50, precision=precision)
    planned, _ = next(events).plan, next(events)
    taken = pool.used_bytes() - before - (0 if capture.why_eager(device) else 32 << 20)  # without cuBLAS's workspace
    assert not planned.why_layers
    assert 0.5 * planned.bytes < taken < planned.bytes + 64 * 512


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"precision": "float16"}, "bfloat16 products cannot replace those of float32, precision float16"),
        ({"dtype": "float64"}, "bfloat16 products cannot replace those of float64, precision float32"),
        ({"dropout": 0.5}, "there is dropout"),
        ({"hidden": ()}, "there is no hidden layer"),
        ({"hidden": (64, 1024)}, "its layers need"),
    ],
)
def test_other_runs_go_layer_by_layer_and_it_is_said_why(changes, why, device):
    events = fcgpu.train(pixels(), device=device, **{"hidden": HIDDEN, **changes})
    assert next(events).plan.why_layers.startswith(why)
    events.close()


def test_a_gpu_before_ampere_goes_layer_by_layer(monkeypatch):
    backend = double_backend(monkeypatch, on_chip=True)
    backend.xp.compute_capability = "75"
    events = fcgpu.train(pixels(), device=backend, hidden=HIDDEN)
    assert next(events).plan.why_layers.startswith("tensor cores take bfloat16 from compute capability 8.0")
    events.close()


@pytest.mark.parametrize("changes", [{}, {"batch": 32}], ids=str)
def test_a_kernel_that_does_not_compile_falls_back_layer_by_layer(changes, monkeypatch):
    def refuse(**options):
        raise RuntimeError("nvrtc: no such architecture")

    backend = small_double(monkeypatch)
    backend.xp.RawModule = refuse
    *_, ours = fcgpu.train(pixels(), device=backend, hidden=HIDDEN, epochs=2, **changes)
    *_, theirs = fcgpu.train(pixels(), device="cpu", hidden=HIDDEN, epochs=2, **changes)
    np.testing.assert_allclose(ours.model.params, theirs.model.params, rtol=0, atol=1e-5)
    assert ours.capture.endswith("own kernels do not compile: RuntimeError: nvrtc: no such architecture")
