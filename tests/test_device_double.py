"""The GPU path without a GPU: training on the device double, which counts transfers and refuses mixed arrays.

Tolerance against NumPy: both round the same sums, in different orders. An entry of a gradient is a sum over the samples
of a batch, each a chain of products over the units of every layer, so it may differ by (samples + units) eps of its
terms, whose size is about 1 here; the differences of the steps add up.
"""

import itertools
import math
import sys
import warnings
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from device_double import DeviceArray, ElementwiseKernel, double_backend
from given import samples

import fcgpu
from fcgpu.kernels import REFERENCE
from fcgpu.kernels.activations import HIDDEN_ACTIVATIONS
from fcgpu.kernels.fused import ACTIVATIONS
from fcgpu.kernels.updates import UPDATES
from fcgpu.optim import FULL_BATCH
from fcgpu.optim.schedules import SCHEDULES
from fcgpu.params import Padded, Spec
from fcgpu.train import ahead, run, stream

HIDDEN, EPOCHS, SAMPLES, FEATURES = (7, 4), 3, 60, 5
UNITS = FEATURES + sum(HIDDEN) + 3
REGULARISED = {"alpha": 6.0, "gradient_clip": 0.5, "dropout": 0.3}


COMBINATIONS = [
    pytest.param(optimizer, batch, changes, id=f"{optimizer}-{batch}-{'regularised' if changes else 'plain'}")
    for optimizer in UPDATES
    for batch in ("full", 7)
    for changes in ({}, REGULARISED)
    if optimizer not in FULL_BATCH or (batch == "full" and not changes)
]


@pytest.fixture
def backend(monkeypatch):
    """A fresh double; the loss is checked only at the end of a run."""
    monkeypatch.setattr(run, "LOOK_SECONDS", math.inf)
    return double_backend(monkeypatch)


@pytest.fixture
def xp(backend):
    return backend.xp


def events(data, backend, **changes):
    changes = {"hidden": HIDDEN, "epochs": EPOCHS, "learning_rate": 0.01, **changes}
    return fcgpu.train(data, device=backend, **changes)


def assert_equals_numpy(data, backend, **changes):
    """Compare a run on the double with one on NumPy: model, losses and accuracies."""
    dtype = changes.get("dtype", "float32")
    _, *epochs, found = events(data, backend, **changes)
    _, *expected_epochs, expected = events(data, "cpu", threads=1, **changes)
    batch = SAMPLES if changes.get("batch", "full") == "full" else changes["batch"]
    tolerance = float(found.steps * (batch + UNITS) * np.finfo(dtype).eps)
    assert found.model.params.dtype == expected.model.params.dtype == dtype
    np.testing.assert_allclose(found.model.params, expected.model.params, rtol=0, atol=tolerance)
    for ours, theirs in zip(epochs, expected_epochs, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, rel=tolerance)
        assert (ours.accuracy, ours.learning_rate) == (theirs.accuracy, theirs.learning_rate)
    assert found.train.loss == pytest.approx(expected.train.loss, rel=tolerance)


@pytest.mark.parametrize(("optimizer", "batch", "changes"), COMBINATIONS)
def test_every_optimizer_trains_as_on_numpy(optimizer, batch, changes, backend):
    dtype = "float32" if (batch == "full") == (not changes) else "float64"
    assert_equals_numpy(samples(), backend, optimizer=optimizer, batch=batch, dtype=dtype, **changes)


@pytest.mark.parametrize(("batch", "stored"), [("full", "uint8"), (7, "float64")])
@pytest.mark.parametrize(
    ("output", "kind"),
    [
        ("softmax", "three classes"),
        ("softmax", "two classes"),
        ("sigmoid", "three classes"),
        ("sigmoid", "two classes"),
        ("identity", "three classes"),
        ("identity", "one number"),
        ("identity", "two numbers"),
    ],
)
def test_every_output_trains_as_on_numpy(output, kind, batch, stored, backend):
    assert_equals_numpy(samples(kind, stored), backend, output=output, batch=batch, dtype="float64")


@pytest.mark.parametrize("activation", HIDDEN_ACTIVATIONS)
def test_every_activation_trains_as_on_numpy(activation, backend):
    assert_equals_numpy(samples(), backend, activation=activation, init="glorot", batch=16, dtype="float64")


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_trains_as_on_numpy(schedule, backend):
    waits = {"n_iter_no_change": 1, "tol": 10.0} if schedule == "adaptive" else {}
    options = {"batch": 7, "schedule": schedule, "warmup": 1, "epochs": 6, "dtype": "float64"}
    assert_equals_numpy(samples(), backend, learning_rate=0.1, **options, **waits)


def test_rates_and_keys_are_sent_again_where_they_run_out(backend, monkeypatch):
    monkeypatch.setattr(ahead, "AHEAD", 1)
    assert_equals_numpy(samples(), backend, batch=7, dropout=0.3, schedule="cosine", dtype="float64")


def test_features_go_to_the_device_in_chunks(backend, monkeypatch):
    monkeypatch.setattr(stream, "CHUNK_BYTES", 100)
    X = np.arange(7 * 5, dtype=">f4").reshape(7, 5)
    before = backend.xp.uploads
    there = stream.on_device(X, backend)
    assert backend.xp.uploads == before + 2
    assert there.dtype == np.float32
    np.testing.assert_array_equal(backend.to_host(there), X)


@pytest.mark.parametrize("batch", ["full", 7])
def test_weights_of_samples_train_as_on_numpy(batch, backend):
    weights = np.linspace(0, 2, SAMPLES)
    assert_equals_numpy(samples(), backend, batch=batch, sample_weight=weights, alpha=3.0, dtype="float64")


@pytest.mark.parametrize("alpha", [0.0, 3.0])
def test_lbfgs_trains_as_on_numpy(alpha, backend):
    assert_equals_numpy(samples(), backend, optimizer="lbfgs", alpha=alpha, dtype="float64")


@pytest.mark.parametrize("on", ["cpu", "device"])
def test_what_lbfgs_tells_is_of_the_point_that_it_kept(on, backend):
    """Also if a line search ends without a new point, as the last one that `max_fun` allows may do."""
    data, device = samples(), "cpu" if on == "cpu" else backend
    options = {"optimizer": "lbfgs", "alpha": 3.0, "dtype": "float64", "init": "normal"}
    for limit in range(3, 30):
        for event in fcgpu.train(data, device=device, hidden=HIDDEN, max_fun=limit, **options):
            if isinstance(event, fcgpu.EpochEnded):
                model = event.model()
                score = model.score(data.X, np.asarray(data.classes)[data.y], device="cpu")
                squares = sum(np.sum(layer.W**2) for layer in model.spec.layers(model.params))
                assert event.penalty == pytest.approx(1.5 * squares / SAMPLES, rel=1e-9)
                assert event.loss - event.penalty == pytest.approx(score.loss, rel=1e-9)
                assert event.accuracy == score.accuracy


@pytest.mark.parametrize("hidden", [(), (1,)])
def test_the_smallest_networks_train_as_on_numpy(hidden, backend):
    assert_equals_numpy(samples("two classes"), backend, hidden=hidden, output="sigmoid", batch=1, dtype="float64")


def test_the_callers_current_device_is_another_and_stays_so(backend, monkeypatch):
    """Runs on two GPUs alternate in one thread: each uses its own device, and the caller's is restored."""
    second = replace(backend, device="cuda:1")
    backend.xp.number = 1
    options = {"batch": 7, "early_stopping": True, "n_iter_no_change": 9, "optimizer": "adam"}
    for event in events(samples(), second, **options):
        assert [device.id for device in backend.xp._devices] == [0]
        if isinstance(event, fcgpu.EpochEnded):
            assert event.state().epochs == event.epoch
    X = samples().X
    assert (event.model.predict(X, device=second) == event.model.predict(X)).mean() > 0.9
    assert event.train.loss > 0
    estimator = fcgpu.MLPClassifier(HIDDEN, max_iter=3, device="cuda:1", early_stopping=True, batch_size=8)
    monkeypatch.setattr("fcgpu.estimator.base.choose", lambda device: second)
    with warnings.catch_warnings(action="ignore"):  # it does not converge
        estimator.fit(X, samples().y)
    assert estimator.predict_proba(X).shape == (SAMPLES, 3)
    assert [device.id for device in backend.xp._devices] == [0]


def test_an_infinite_loss_is_divergence_also_where_a_later_one_is_finite(backend):
    data = np.eye(2), np.array([3e19, 0.5])
    for device in ("cpu", backend):
        with pytest.raises(fcgpu.DivergenceError, match="loss is inf in epoch 1 "):
            list(events(data, device, hidden=(), output="identity", optimizer="gradient_descent", learning_rate=1.0))


def test_an_infinite_loss_at_which_lbfgs_stops_is_divergence(backend):
    data = np.array([[1.0], [2.0]]), np.array([3e19, 0.5])
    for device in ("cpu", backend):
        with pytest.raises(fcgpu.DivergenceError, match="loss is inf in epoch 1: "):
            list(fcgpu.train(data, device=device, hidden=(), output="identity", optimizer="lbfgs"))


def test_tiles_of_a_small_memory_train_as_on_numpy(backend):
    budget = 8 * SAMPLES * FEATURES + 8 * SAMPLES + 14_000
    first = next(events(samples(), backend, memory_budget=budget, dtype="float64"))
    assert first.plan.tile < SAMPLES
    _, *epochs, found = events(samples(), backend, memory_budget=budget, dtype="float64")
    _, *whole, expected = events(samples(), "cpu", threads=1, dtype="float64")
    tolerance = EPOCHS * (SAMPLES + UNITS) * np.finfo(float).eps
    np.testing.assert_allclose(found.model.params, expected.model.params, rtol=0, atol=tolerance)
    assert [e.accuracy for e in epochs] == [e.accuracy for e in whole]


@pytest.mark.parametrize(("optimizer", "batch", "changes"), COMBINATIONS)
def test_an_epoch_neither_waits_for_the_device_nor_copies_in_silence(optimizer, batch, changes, backend):
    """Between epochs the host fetches nothing, and sends only the order of the samples.

    Before the first epoch it also sends the learning rates of all epochs, the dropout keys and where both begin.
    """
    xp = backend.xp
    run = events(samples(), backend, optimizer=optimizer, batch=batch, **changes)
    seen = [(xp.synchronisations, xp.uploads, xp.upload_bytes) for _ in run][:-1]  # without Finished
    assert xp.copies == 0
    assert [waits for waits, _, _ in seen] == [0] * EPOCHS + [1]  # the last check for divergence
    order = batch != "full"
    first, *others = [(b[1] - a[1], b[2] - a[2]) for a, b in itertools.pairwise(seen)]
    assert first[0] == order + 2 + ("dropout" in changes)
    assert others == [(order, order * 8 * SAMPLES)] * (EPOCHS - 1)


def test_samples_in_their_own_order_send_nothing(backend):
    seen = [backend.xp.uploads for _ in events(samples(), backend, batch=7, shuffle=False)]
    assert len(set(seen[1:-1])) == 1


def test_the_data_and_the_parameters_are_sent_once(backend):
    next(events(samples(stored="uint8"), backend))
    layout = Padded(Spec((FEATURES, *HIDDEN, 3)))
    assert layout.size == 8 * 8 + 8 * 8 + 8 * 8
    assert backend.xp.upload_bytes == SAMPLES * FEATURES + 8 * SAMPLES + 4 * layout.size


def test_the_loss_waits_only_where_it_is_asked_for(backend):
    run = events(samples(), backend)
    next(run)
    event = next(run)
    assert backend.xp.synchronisations == 0
    assert isinstance(event.loss, float)
    assert backend.xp.synchronisations == 1


@pytest.mark.parametrize("look", [0, math.inf])
def test_a_diverging_run_is_told_with_its_first_bad_epoch(look, backend, monkeypatch):
    monkeypatch.setattr(run, "LOOK_SECONDS", look)
    options = {"output": "identity", "optimizer": "gradient_descent", "learning_rate": 1e20}
    with pytest.raises(fcgpu.DivergenceError, match="in epoch 2 "):
        list(events(samples("one number"), backend, **options))


@pytest.mark.parametrize(
    ("output", "kind"), [("softmax", "three classes"), ("sigmoid", "two classes"), ("identity", "one number")]
)
def test_a_model_predicts_as_on_numpy(output, kind, backend):
    data = samples(kind)
    *_, finished = events(data, "cpu", output=output, dtype="float64")
    found, tolerance = finished.model.predict_proba(data.X, device=backend), UNITS * np.finfo(float).eps
    np.testing.assert_allclose(found, finished.model.predict_proba(data.X), rtol=tolerance, atol=tolerance)
    assert backend.xp.synchronisations == 1


@pytest.mark.parametrize("layout", [np.asfortranarray, lambda X: X[::-1, ::-1], lambda X: X.astype(">f8")])
def test_any_layout_of_the_samples_is_the_same_to_the_device(layout, backend):
    plain = samples()
    other = fcgpu.dataset(layout(plain.X), plain.y)
    assert_equals_numpy(other, backend, batch=7, dtype="float64")


def test_the_double_holds_every_kernel_that_has_no_fused_variant(xp):
    """These run on CuPy unchanged, in predictions; training has its own kernels."""
    assert {"softmax", "exp", "dense_forward"} <= set(REFERENCE) - set(ACTIVATIONS)
    Z = xp.asarray([[1.0, 2.0, 3.0]])
    REFERENCE["softmax"](Z, 0, xp=xp)
    assert sum(Z.tolist()[0]) == pytest.approx(1)


HOST = np.ones(3)


@pytest.mark.parametrize(
    "mixed",
    [
        lambda d, xp: d + HOST,
        lambda d, xp: HOST + d,
        lambda d, xp: HOST * d,
        lambda d, xp: d > HOST,
        lambda d, xp: d.__iadd__(HOST),
        lambda d, xp: HOST.__iadd__(d),
        lambda d, xp: xp.tanh(HOST),
        lambda d, xp: xp.tanh(d, out=HOST),
        lambda d, xp: xp.sum(HOST),
        lambda d, xp: xp.sum(d, out=np.zeros(())),
        lambda d, xp: xp.matmul(d, HOST),
        lambda d, xp: np.asarray(d),
        lambda d, xp: np.array([d, d]),
        lambda d, xp: np.tanh(d),
        lambda d, xp: np.sum(d),
        lambda d, xp: memoryview(d),
        lambda d, xp: range(d[0]),
        lambda d, xp: [1, 2, 3][d[0]],
        lambda d, xp: list(d[0]),
    ],
)
def test_a_mixture_is_refused(mixed, xp):
    with pytest.raises((TypeError, ValueError)):
        mixed(xp.asarray(HOST), xp)
    assert xp.synchronisations == 0


def test_the_words_of_cupy(xp):
    device = xp.asarray(HOST)
    with pytest.raises(TypeError, match="Implicit conversion to a NumPy array is not allowed"):
        np.asarray(device)
    with pytest.raises(TypeError, match=r"Unsupported type <class 'numpy.ndarray'>"):
        device += HOST
    with pytest.raises(ValueError, match=r"non-scalar numpy.ndarray cannot be used for fill"):
        device[:] = HOST
    with pytest.raises(TypeError, match="Wrong arguments"):
        xp.multiply(device, 2, out=device, where=device > 0)
    with pytest.raises(AttributeError, match="'aligned'"):
        assert device.flags.aligned
    with pytest.raises(AttributeError, match="'einsum'"):
        xp.einsum("i->", device)


def test_a_kernel_that_is_told_an_address_is_given_rows_of_numbers_that_follow_each_other(xp):
    """CuPy passes the address alone, so a kernel of CUDA C++ would read others than those of the array."""
    kernel = xp.RawKernel("", "kernel")
    for wrong in (xp.asarray(np.ones((4, 3), order="F")), xp.ones((6,))[::2]):
        with pytest.raises(ValueError, match="kernel: it is told an address"):
            kernel((1,), (1,), (wrong,))


@pytest.mark.parametrize(
    "fetch",
    [float, int, bool, repr, lambda d: d.item(), lambda d: d.tolist(), lambda d: d.get(), lambda d: d._xp.asnumpy(d)],
)
def test_a_fetch_waits(fetch, xp):
    device = xp.asarray([2.0])[0]
    fetch(device)
    assert xp.synchronisations == 1


def test_views_and_scalars_do_not_wait(xp):
    device = xp.zeros((3, 2))
    for row in device:
        row += np.float64(1)
    device[0] *= 2.0
    device[1, 0].fill(5)
    device[2, 1:] += device[0, 1:] * xp.arange(1)
    device[:, 1] -= xp.sum(device, axis=1)
    taken = device[xp.asarray(np.array([2, 0]))]
    assert xp.synchronisations == 0
    assert device.tolist() == [[2, -2], [5, -5], [1, -1]]
    assert taken.tolist() == [[1, -1], [2, -2]]


def test_no_cublas_of_the_machine_is_used(monkeypatch):
    bindings = SimpleNamespace(cublas=SimpleNamespace(create=lambda: pytest.fail("a handle of the machine's cuBLAS")))
    for name, module in {"nvmath": SimpleNamespace(bindings=bindings), "nvmath.bindings": bindings}.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "nvmath.bindings.cublas", bindings.cublas)
    *_, finished = events(samples(), double_backend())
    assert finished.capture.startswith("eager: CuPy 13.6.0 is older than 14")


def test_device_memory_is_not_host_memory(xp):
    host = np.zeros(2)
    device = xp.asarray(host)
    device += 1
    assert host.tolist() == [0, 0]
    fetched = device.get()
    fetched += 1
    assert device.tolist() == [1, 1]


def test_a_product_that_copies_in_silence_is_counted(xp):
    A, B, Z = xp.zeros((4, 4)), xp.zeros((4, 4)), xp.zeros((4, 4))
    xp.matmul(xp.swapaxes(A, 0, 1), B, out=Z)
    assert xp.copies == 0
    xp.matmul(A[:, ::2], B[:2], out=Z)
    xp.matmul(A[None], xp.swapaxes(B[None], -1, -2), out=Z[None])
    xp.matmul(A, B, out=xp.zeros((4, 4), dtype=np.float32))
    xp.matmul(A, B, out=A)
    assert xp.copies == 4


SCALE = "T x, float64 factor", "T y", "y = x * factor"


@pytest.mark.parametrize(
    ("formula", "arguments", "error", "words"),
    [
        (SCALE, lambda d: (d,), TypeError, "Wrong number of arguments"),
        (SCALE, lambda d: (HOST, 2.0, d), TypeError, "Unsupported type"),
        (SCALE, lambda d: (d, 2.0, HOST), TypeError, "Unsupported type"),
        (SCALE, lambda d: (d, 2.0, 3.0), TypeError, "Output arguments type must be cupy.ndarray"),
        (SCALE, lambda d: (d.astype("float32"), 2.0, d), TypeError, "Type is mismatched. x float32 float64"),
        (SCALE, lambda d: (d, d.astype("float32"), d), TypeError, "Type is mismatched. factor float32 float64"),
        (SCALE, lambda d: (d, 2.0, d[:1]), ValueError, "Out shape is mismatched"),
        (SCALE, lambda d: (d, d[:2], d), ValueError, "broadcast"),
        (("raw T x", "raw T y", "y[i] = x[i]"), lambda d: (d, d), ValueError, "Loop size is undecided."),
        (("raw T x", "T y", "y = x[i]"), lambda d: (2.0, d), TypeError, "scalar"),
        (("raw T x", "T y", "y = x[i + 1]"), lambda d: (d, d), IndexError, "outside of a raw array"),
        (("T x, int32 n", "T y", "y = x + n"), lambda d: (d, 2**31, d), OverflowError, "out of bounds"),
        (("T x", "T y", "x = y"), lambda d: (d, d), RuntimeError, "does not compile"),
        (("raw T x", "T y", "x[i] = y"), lambda d: (d, d), RuntimeError, "does not compile"),
        (("T i", "T y", "y = i"), lambda d: (d, d), ValueError, "'i' as a parameter name"),
    ],
)
def test_what_an_elementwise_kernel_refuses(formula, arguments, error, words, xp):
    device = xp.asarray(HOST)
    with pytest.raises(error, match=words):
        ElementwiseKernel(*formula, "probe")(*arguments(device))


def test_what_an_elementwise_kernel_computes(xp):
    device = xp.asarray(np.arange(6.0).reshape(2, 3))
    made = ElementwiseKernel(*SCALE, "probe")(device, 2)
    assert isinstance(made, DeviceArray)
    assert made.tolist() == [[0, 2, 4], [6, 8, 10]]
    by_row = ElementwiseKernel("T x, T b", "T y", "y = x + b", "probe")
    by_row(device, xp.asarray([10.0, 20.0, 30.0]), device)  # in place, with the row broadcast
    assert device.tolist() == [[10, 21, 32], [13, 24, 35]]
    flat = ElementwiseKernel("raw T x", "T y, int64 at", "y = x[i]; at = i", "probe")
    values, at = flat(xp.swapaxes(device, 0, 1), xp.empty((3, 2)), xp.empty((3, 2), dtype=np.int64))
    assert values.tolist() == [[10, 13], [21, 24], [32, 35]]
    assert at.tolist() == [[0, 1], [2, 3], [4, 5]]
