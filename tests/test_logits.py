"""Predictions in C against those by network.py, and what the C refuses."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

import fcgpu
from fcgpu import logits as in_c
from fcgpu import outputs
from fcgpu.kernels import compiled
from fcgpu.kernels.losses import OUTPUTS
from fcgpu.params import LINE, aligned, initial

pytestmark = pytest.mark.skipif(not hasattr(compiled.native, "logits"), reason="native.c was not compiled")
SIZES = [(1, 1), (5, 17, 3), (40, 130, 64, 10), (200, 16, 16, 1), (33, 4), (6, 5, 4, 3, 2, 20, 7)]


@pytest.fixture(params=["tiles", "no tiles"])
def both(monkeypatch, request):
    """Predictions by the C, and by network.py."""
    if request.param == "no tiles":
        monkeypatch.setattr(compiled, "has_tile_unit", lambda: False)
    elif not compiled.has_tile_unit():
        pytest.skip("this processor has no tile unit")

    def predictions(model, X, **options):
        taken, real = [], outputs.logits
        monkeypatch.setattr(outputs, "logits", lambda *args: taken.append(args) or real(*args))
        found = model.predict_proba(X, **options)
        assert taken
        monkeypatch.setattr(outputs, "logits", real)
        monkeypatch.setattr(outputs, "supports", lambda spec: False)
        expected = model.predict_proba(X, **options)
        monkeypatch.setattr(outputs, "supports", in_c.supports)
        return found, expected

    return predictions


def model_of(sizes, activation="relu", output="identity", dtype="float32", scale=1.0):
    output = "sigmoid" if output == "softmax" and sizes[-1] == 1 else output
    spec = fcgpu.Spec(sizes, activation, output)
    return fcgpu.Model(spec, (initial(spec, 0) + 0.01).astype(dtype), None, scale)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", in_c.ACTIVATIONS)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_they_are_those_of_the_reference(sizes, activation, dtype, both):
    """The output is NumPy's; each of them comes with some sizes and activations."""
    random, outputs = np.random.default_rng(0), list(OUTPUTS)
    output = outputs[(SIZES.index(sizes) + in_c.ACTIVATIONS.index(activation)) % len(outputs)]
    for n in (1, 2, 31, 33, 100, 257):
        pixels = random.integers(0, 256, (n, sizes[0]), dtype=np.uint8) * (random.random((n, sizes[0])) < 0.3)
        for X, scale in ((pixels.astype(np.uint8), 1 / 255), (random.normal(size=(n, sizes[0])), 0.5)):
            found, expected = both(model_of(sizes, activation, output, dtype, scale), X)
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 if dtype == "float32" else 1e-13)
            assert (found.dtype, found.shape) == (expected.dtype, expected.shape) == (dtype, (n, found.shape[1]))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("features", ["numbers", "bytes"])
def test_no_bit_depends_on_threads_or_on_other_samples_or_on_the_form_of_the_features(features, dtype, monkeypatch):
    monkeypatch.setattr(in_c, "PACKED", 200)
    model, X = (
        model_of((30, 400, 50, 3), dtype=dtype),
        np.random.default_rng(0).normal(size=(400, 30)).astype(np.float32),
    )
    if features == "bytes":
        X = np.clip(100 * X, 0, 255).astype(np.uint8)
    expected = model.predict_proba(X, threads=1)
    for threads in (2, 3, 64):
        np.testing.assert_array_equal(model.predict_proba(X, threads=threads), expected)
    for rows in (slice(0, 1), slice(7, 50), slice(399, 400), slice(None, None, -1), slice(0, 300, 7)):
        np.testing.assert_array_equal(model.predict_proba(X[rows]), expected[rows])
    forms = [np.asfortranarray(X), np.repeat(X, 2, axis=1)[:, ::2]]
    forms += [X.astype(np.float64), X.astype(">f4")] if features == "numbers" else []
    for form in forms:
        np.testing.assert_array_equal(model.predict_proba(form), expected)
    monkeypatch.setattr(in_c, "BYTES", 1 << 17)  # several calls
    for form in (X, *forms):
        np.testing.assert_array_equal(model.predict_proba(form), expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", in_c.ACTIVATIONS)
def test_no_bit_depends_on_threads_that_share_the_columns_of_a_layer(activation, dtype, monkeypatch):
    """They do where there are fewer samples than LEAST for each of them."""
    monkeypatch.setattr(in_c, "START", 100)
    taken, real = [], outputs.logits
    monkeypatch.setattr(outputs, "logits", lambda *args: taken.append(args) or real(*args))
    for sizes in ((40, 3), (50, 1, 300), (30, 257, 129, 70, 1), (20, 64, 2048)):
        model, X = model_of(sizes, activation, dtype=dtype), np.random.default_rng(0).normal(size=(31, sizes[0]))
        X[:, 1::3] = 0
        expected = model.predict_proba(X, threads=1)
        for threads in (2, 3, 8):
            for n in (1, 2, 7, 31):
                np.testing.assert_array_equal(model.predict_proba(X[:n], threads=threads), expected[:n])
    assert taken


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_weights_beyond_the_caches(dtype, both, monkeypatch):
    """They are read in another order, by which no bit changes: each number is summed in the order of the inputs."""
    monkeypatch.setattr(in_c, "PACKED", 200)
    model, X = model_of((40, 1531, 1799, 3), dtype=dtype), np.random.default_rng(0).normal(size=(210, 40))
    found, expected = both(model, X)
    np.testing.assert_allclose(found, expected, rtol=1e-4 if dtype == "float32" else 1e-12)
    for n in (1, 2, 5, 7, 40, 130, 210):
        for threads in (1, 2, 5):
            np.testing.assert_array_equal(model.predict_proba(X[:n], threads=threads), found[:n])


@pytest.mark.parametrize(("n", "at", "packed"), [(499, 0, False), (500, 0, True), (199, 4, False), (200, 4, True)])
def test_for_many_samples_the_weights_are_packed_sooner_where_they_do_not_begin_with_a_cache_line(
    n, at, packed, monkeypatch
):
    spec, seen, real = fcgpu.Spec((3, 2)), [], compiled.native.logits
    monkeypatch.setattr(compiled.native, "logits", lambda *args: seen.append(args[-1]) or real(*args))
    params = aligned(spec.n_params + at, np.float32)[at:]
    fcgpu.Model(spec, params).predict_proba(np.ones((n, 3), np.float32))
    assert seen == [packed]


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_the_weights_of_a_training_and_of_a_file_begin_with_a_cache_line(optimizer, tmp_path):
    """Whatever memory is free: NumPy's own arrays do with luck only."""
    X, y = np.random.default_rng(0).normal(size=(50, 3)), np.arange(50) % 2
    for n in range(1, 9):
        *_, finished = fcgpu.train((X, y), device="cpu", hidden=(n,), epochs=1, optimizer=optimizer)
        fcgpu.save_model(finished.model, tmp_path / "m.safetensors")
        for model in (finished.model, fcgpu.load_model(tmp_path / "m.safetensors")):
            assert model.params.ctypes.data % LINE == 0


def running():
    """The number of threads of this process."""
    return len(list(Path("/proc/self/task").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts the threads in /proc")
def test_threads_go_when_their_work_is_done_and_the_caller_stays_where_it_may_run(monkeypatch):
    monkeypatch.setattr(in_c, "START", 100)
    model, X = model_of((30, 40, 3)), np.random.default_rng(0).normal(size=(400, 30))
    before, allowed = running(), os.sched_getaffinity(0)
    expected = model.predict_proba(X, threads=1)
    for threads in [2, 8, 64] * 20:
        np.testing.assert_array_equal(model.predict_proba(X, threads=threads), expected)
    assert os.sched_getaffinity(0) == allowed
    late = time.monotonic() + 30  # nobody waits for a thread that comes when all is done
    while running() > before and time.monotonic() < late:
        time.sleep(0.01)
    assert running() <= before


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="chooses the processor")
def test_on_one_processor_threads_are_as_good_as_none(monkeypatch):
    monkeypatch.setattr(in_c, "START", 100)
    model, X = model_of((30, 40, 3)), np.random.default_rng(0).normal(size=(400, 30))
    expected, allowed = model.predict_proba(X, threads=1), os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        for _ in range(20):
            np.testing.assert_array_equal(model.predict_proba(X, threads=8), expected)
        assert os.sched_getaffinity(0) == {min(allowed)}
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize(("output", "large"), [("identity", 1e300), ("softmax", 1e300), ("exp", 1e4)])
def test_numbers_too_large_for_the_type_are_no_warning_but_an_error(output, large):
    model = fcgpu.Model(fcgpu.Spec((2, 3), output=output), np.ones(9, np.float32))
    with pytest.raises(fcgpu.DivergenceError, match="outputs for sample 1 are not finite"):
        model.predict_proba(np.array([[1.0, 1.0], [large, 1.0]]))


class TestArguments:
    def arguments(self):
        """Valid arguments by name."""
        sizes, params = np.array([3, 4, 2], np.intp), np.ones(26, np.float32)
        room = aligned(int(compiled.native.steps_room(sizes, 8, 4, 2, False, False, False, False, True)), np.uint8)
        X, Z = np.ones((5, 3), np.float32), np.zeros((5, 2), np.float32)
        return {"X": X, "params": params, "logits": Z, "sizes": sizes, "room": room, "some": 4, "threads": 2,
                "activation": 2, "scale": 1.0, "tiles": False, "packed": True}  # fmt: skip

    def test_valid_ones(self):
        given = self.arguments()
        assert compiled.native.logits(*given.values()) is None
        np.testing.assert_array_equal(given["logits"], 17)

    @pytest.mark.parametrize(
        ("name", "change"),
        [
            ("X", lambda a: a.astype(np.float64)), ("X", lambda a: a[:, :2]), ("X", lambda a: a[0]),
            ("X", lambda a: np.asfortranarray(a)), ("X", lambda a: np.ones((6, 3), np.float32)), ("X", lambda a: None),
            ("X", lambda a: a.astype(np.int8)), ("params", lambda a: a[:-1]),
            ("params", lambda a: a.astype(np.float64)), ("params", lambda a: np.ones(52, np.float32)[::2]),
            ("params", lambda a: a.astype(np.int32)),
            ("logits", lambda a: a.astype(np.float64)), ("logits", lambda a: a[:4]), ("logits", lambda a: a.T),
            ("sizes", lambda a: a.astype(np.int32)), ("sizes", lambda a: a[:1]), ("sizes", lambda a: a - 5),
            ("sizes", lambda a: np.array([3, 2049], np.intp)), ("room", lambda a: a[:-64]), ("room", lambda a: a[1:]),
            ("room", lambda a: a.view(np.float32)), ("some", lambda a: 0), ("some", lambda a: -1),
            ("some", lambda a: 2**62), ("threads", lambda a: 0), ("threads", lambda a: 65), ("threads", lambda a: "2"),
            ("scale", lambda a: None), ("tiles", lambda a: True),
        ],
    )  # fmt: skip
    def test_others_are_refused(self, name, change):
        given = self.arguments()
        given[name] = change(given[name])
        with pytest.raises(TypeError):
            compiled.native.logits(*given.values())

    def test_what_is_written_must_not_overlap_what_is_read(self):
        given = self.arguments()
        both = np.ones(36, np.float32)
        given["params"], given["logits"] = both[:26], both[20:30].reshape(5, 2)
        with pytest.raises(TypeError):
            compiled.native.logits(*given.values())


def test_a_layer_of_more_units_than_the_c_takes_is_not_its():
    sizes = (in_c.LARGEST + 1, 1)
    model = model_of(sizes)
    X = np.zeros((1, sizes[0]), np.float32)
    X[0, -1] = 2
    W, b = model.spec.layers(model.params)[0]
    assert model.predict(X) == pytest.approx(2 * W[-1, 0] + b[0, 0], rel=1e-6)
