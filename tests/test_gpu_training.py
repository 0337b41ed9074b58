"""Training on a GPU against the same training on the CPU; each test also runs on the double.

Tolerances. Both sides round the same sums in different orders. So an entry of a gradient, a sum over the samples of a
batch of chains of products over the units, differs by about (samples + units) eps of its terms, whose size is that of
the features; a step multiplies the difference by the learning rate, and STEPS such differences add up.
"""

import contextlib
import re
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import fcgpu
from fcgpu.backend import Work
from fcgpu.train import capture, cluster, run

STEPS = 10


class Module(SimpleNamespace):
    """A module has a hash."""

    __hash__ = object.__hash__


@pytest.fixture
def real(device):
    """Whether this is a GPU: the double is too slow for many steps."""
    return type(device.xp).__name__ == "module"


def problem(recipe, mnist):
    """Random data with the recipe's shapes."""
    if recipe.name == "logistic":
        X = np.random.default_rng(0).integers(0, 256, (24, 12_288)).astype(np.uint8)
        return fcgpu.dataset(X, np.arange(24) % 2, scale=1 / 255)
    if recipe.name == "own":
        X = np.random.default_rng(0).normal(3, 2, (128 * STEPS, 6))
        return fcgpu.dataset(X, (X[:, 0] > X[:, 1]).astype(int))
    if recipe.data == "mnist":
        n = STEPS * 10 if recipe.batch == 10 else 300
        return replace(mnist, X=mnist.X[:n], y=mnist.y[:n], X_test=mnist.X_test[:50], y_test=mnist.y_test[:50])
    return fcgpu.load(recipe.data)


def digits(mnist, n, real):
    """The first n, without a test set; on the double only their two middle rows of pixels."""
    data = replace(mnist, X=mnist.X[:n], y=mnist.y[:n], X_test=None, y_test=None)
    return data if real else replace(data, X=data.X[:, 364:420], image_shape=(2, 28))


def model_of(data, device, **options):
    *_, finished = fcgpu.train(data, device=device, **options)
    return finished


@pytest.mark.parametrize("name", fcgpu.recipe_names())
def test_ten_steps_of_a_recipe_are_the_cpus(name, device, mnist):
    recipe = fcgpu.load_recipe(name)
    data = problem(recipe, mnist)
    recipe = recipe.but(epochs=STEPS if recipe.batch == "full" else 1)
    ours, theirs = (model_of(data, where, recipe=recipe) for where in (device, "cpu"))
    assert ours.steps == theirs.steps == STEPS
    units = sum(ours.model.spec.sizes)
    batch = data.n_samples if recipe.batch == "full" else recipe.batch
    terms = max(1.0, recipe.learning_rate * (recipe.scale or data.scale) * float(np.abs(data.X).max()))
    bound = float(STEPS * (batch + units) * np.finfo(recipe.dtype).eps * terms)
    np.testing.assert_allclose(ours.model.params, theirs.model.params, rtol=0, atol=bound)
    assert ours.train.loss == pytest.approx(theirs.train.loss, rel=bound)
    assert ours.model.params.dtype == theirs.model.params.dtype


@pytest.mark.parametrize(
    "changes",
    [
        {"batch": 64, "dropout": 0.2, "alpha": 1.0, "gradient_clip": 1.0, "optimizer": "adam"},
        {"batch": 100, "optimizer": "momentum", "schedule": "cosine", "warmup": 1},
        {"optimizer": "lbfgs", "alpha": 12.0},
        {"optimizer": "rprop"},
    ],
    ids=lambda changes: changes["optimizer"],
)
def test_every_run_has_the_same_bits(changes, device, real, mnist):
    data = digits(mnist, 1000 if real else 200, real)
    runs = [model_of(data, device, epochs=3, seed=3, hidden=(32, 16), **changes) for _ in range(20 if real else 2)]
    assert len({done.model.params.tobytes() for done in runs}) == 1
    assert len({done.train for done in runs}) == 1


@pytest.mark.parametrize(
    "precision", ["float32", "bfloat16", *(pytest.param(p, marks=pytest.mark.slow) for p in ("tf32", "float16"))]
)
@pytest.mark.parametrize(
    "changes",
    [
        {"batch": 64, "optimizer": "adam", "schedule": "one_cycle", "warmup": 1, "learning_rate": 0.01},  # ragged
        {"batch": 50, "optimizer": "adamw", "dropout": 0.2, "alpha": 1.0, "gradient_clip": 1.0, "learning_rate": 0.01},
        {"optimizer": "rmsprop", "schedule": "step", "step_size": 1, "learning_rate": 0.01},
    ],
    ids=lambda changes: changes["optimizer"],
)
def test_recorded_steps_have_the_bits_of_called_ones(changes, precision, device, real, monkeypatch, mnist):
    if capture.why_eager(device):
        pytest.skip(capture.why_eager(device))
    if not real and precision != "bfloat16":
        pytest.skip("on the double test_capture.py has float32, and one half precision is enough")
    data = digits(mnist, 230, real)
    options = {"epochs": 4, "hidden": (32, 16), "precision": precision, **changes}
    monkeypatch.setattr(cluster, "why_not", lambda *arguments: "a test asks for it")
    recorded = model_of(data, device, **options)
    monkeypatch.setattr(capture, "why_eager", lambda backend: "a test asks for it")
    called = model_of(data, device, **options)
    assert recorded.capture.startswith("graph of ")
    assert called.capture == "eager: a test asks for it"
    assert recorded.model.params.tobytes() == called.model.params.tobytes()
    assert recorded.train == called.train


def test_another_shape_is_another_recording(device, real, mnist):
    """Interleaved runs with different batches and networks have the results of separate runs."""
    data = digits(mnist, 100, real)
    shapes = [{"batch": 10, "hidden": (16,)}, {"batch": 30, "hidden": (16,)}, {"batch": 10, "hidden": (8, 8)}]
    alone = [model_of(data, device, epochs=3, **shape).model.params for shape in shapes]
    runs = [fcgpu.train(data, device=device, epochs=3, **shape) for shape in shapes]
    for _ in range(4):  # Started, and three epochs
        for run_of in runs:
            next(run_of)
    for params, run_of in zip(alone, runs, strict=True):
        assert next(run_of).model.params.tobytes() == params.tobytes()


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_no_memory_is_taken_after_the_first_epochs(optimizer, device, real, monkeypatch, mnist):
    """Ten thousand steps or evaluations, with an occasional check of the loss."""
    monkeypatch.setattr(run, "LOOK_SECONDS", 0.01)
    n = 500 if real else 100
    data = digits(mnist, n, real)
    epochs = (1000 if real else 8) if optimizer == "adam" else (2000 if real else 8)
    own = {"batch": n // 10, "dropout": 0.1} if optimizer == "adam" else {"tol": 1e-30, "alpha": 1.0}
    pool = device.xp.get_default_memory_pool()
    events = fcgpu.train(data, device=device, hidden=(32,), optimizer=optimizer, epochs=epochs, **own)
    held = [(pool.used_bytes(), pool.total_bytes()) for event in events if isinstance(event, fcgpu.EpochEnded)]
    assert len(held) == epochs or optimizer == "lbfgs"
    assert len(set(held[3:])) == 1


@pytest.mark.gpu
@pytest.mark.usefixtures("gpu")
def test_the_refusal_names_the_devices_that_are_there():
    with pytest.raises(fcgpu.DeviceError, match=r"there is no cuda:99, this machine has cuda:0"):
        fcgpu.choose("cuda:99")


def installed(monkeypatch, count=1, ones=np.ones, driver=12_090, built=12_090):
    """Make `import cupy` give as much of CuPy as the decision about the device needs."""

    class CUDARuntimeError(RuntimeError):
        pass

    def device_count():
        if count is None:
            raise CUDARuntimeError("cudaErrorUnknown\n")
        return count

    runtime = SimpleNamespace(
        CUDARuntimeError=CUDARuntimeError, getDeviceCount=device_count, driverGetVersion=lambda: driver,
        runtimeGetVersion=lambda: built, getDeviceProperties=lambda number: {"name": f"GPU {number}".encode()},
    )  # fmt: skip
    there = Module(ones=ones, cuda=SimpleNamespace(runtime=runtime, Device=contextlib.nullcontext))
    monkeypatch.setitem(sys.modules, "cupy", there)


def test_a_gpu_is_asked_once_in_a_process(monkeypatch):
    """To ask takes a millisecond, and every prediction chooses."""
    asked = []
    installed(monkeypatch, ones=lambda *shape, **dtype: asked.append(shape) or np.ones(*shape, **dtype))
    assert [fcgpu.choose("cuda").hardware for _ in range(3)] == ["GPU 0"] * 3
    assert len(asked) == 1


def refuse(*shape, **dtype):
    raise RuntimeError("no kernel image is available\nfor execution")


def full(*shape, **dtype):
    raise MemoryError("no memory")


@pytest.mark.parametrize(
    ("machine", "said"),
    [
        ({"count": None, "driver": 0}, "no NVIDIA driver was found: install it and check with nvidia-smi"),
        ({"count": None, "driver": 11_080}, "the driver is for CUDA 11, the installed CuPy for CUDA 12: update"),
        ({"count": None, "driver": 13_000}, "no usable GPU (CUDARuntimeError: cudaErrorUnknown): check with"),
        ({"count": None}, "no usable GPU (CUDARuntimeError: cudaErrorUnknown): check with nvidia-smi"),
        ({"count": 0}, "there is no cuda:0, this machine has none"),
        ({"ones": np.zeros}, "cuda:0 computes a 2x2 product wrongly: check the driver with nvidia-smi"),
        ({"ones": refuse}, "cuda:0 fails on a 2x2 product (RuntimeError: no kernel image is available): pip install"),
        ({"ones": full}, "cuda:0 fails on a 2x2 product (MemoryError: no memory): end a program that nvidia-smi shows"),
    ],
    ids=["no driver", "old driver", "new driver", "unknown", "none", "wrong", "fails", "full"],
)
def test_a_gpu_that_cannot_be_used_is_refused_with_the_cause_and_auto_is_the_cpu(machine, said, monkeypatch):
    installed(monkeypatch, **machine)
    with pytest.raises(fcgpu.DeviceError, match=rf"device='cuda': {re.escape(said)}.*, or use device='cpu'"):
        fcgpu.choose("cuda")
    found = fcgpu.choose()
    assert found.device == "cpu"
    assert found.reason.startswith(f"no GPU: {said}")


def test_gpus_that_work_are_chosen_by_number_and_the_first_by_auto(monkeypatch):
    installed(monkeypatch, count=2)
    assert [fcgpu.choose(f"cuda{n}").hardware for n in ("", ":0", ":1")] == ["GPU 0", "GPU 0", "GPU 1"]
    found = fcgpu.choose()
    assert (found.name, found.device, found.reason) == ("cupy", "cuda:0", "a product ran on it")
    assert fcgpu.choose("cuda:1").reason == "asked for"
    little, much = Work(flop=1e6, launches=10, steps=100), Work(flop=1e9, launches=10, steps=10_000)
    assert fcgpu.choose(work=much).device == "cuda:0"
    found = fcgpu.choose(work=little)
    assert (found.device, found.reason) == ("cpu", "expected to take 0.002 s here, and 2 s on a GPU with its start")
    with pytest.raises(fcgpu.DeviceError, match="there is no cuda:2, this machine has cuda:0, cuda:1: choose one"):
        fcgpu.choose("cuda:2")


def test_predictions_are_the_cpus(device, mnist):
    finished = model_of(replace(mnist, X=mnist.X[:600], y=mnist.y[:600]), "cpu", epochs=5, hidden=(32,))
    X = mnist.X_test[:700]
    model = finished.model
    bound = float(sum(model.spec.sizes) * np.finfo(np.float32).eps)
    np.testing.assert_allclose(model.predict_proba(X, device=device), model.predict_proba(X), rtol=0, atol=bound)
    there = model.predict_proba(device.to_device(X), device=device)
    assert device.holds(there)
    np.testing.assert_allclose(device.to_host(there), model.predict_proba(X), rtol=0, atol=bound)
    assert np.mean(model.predict(X, device=device) != model.predict(X)) < 0.01
    scores = [model.score(X, mnist.y_test[:700], device=where) for where in (device, "cpu")]
    assert scores[0].loss == pytest.approx(scores[1].loss, rel=bound)
