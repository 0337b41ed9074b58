"""Features that are pixels in any type are trained on as bytes, with the same bits."""

import numpy as np
import pytest

import fcgpu
from fcgpu.kernels import compiled
from fcgpu.train import plan
from fcgpu.train.loop import fit_to
from fcgpu.train.pixels import Pixels, pixels

BYTES = np.concatenate([np.arange(256), np.random.default_rng(0).integers(0, 256, 2500 * 8 - 256)]).reshape(-1, 8)
BYTES = BYTES.astype(np.uint8)


@pytest.fixture(params=["native", "numpy"])
def way(request, monkeypatch):
    if request.param == "numpy":
        monkeypatch.setattr(compiled, "native", None)
    elif compiled.native is None:
        pytest.skip("native.c was not compiled")


FORMS = {
    "float32 / 255": BYTES.astype(np.float32) / 255,
    "float64 / 255": BYTES / 255,
    "float32 times the inverse": BYTES * np.float32(1 / 255),
    "float32 rounded from float64": (BYTES / 255).astype(np.float32),
    "float64": BYTES.astype(np.float64),
    "int64": BYTES.astype(np.int64),
    "uint16": BYTES.astype(np.uint16),
    "by columns": np.asfortranarray(BYTES.astype(np.float32) / 255),
    "every other": np.repeat(BYTES / 255, 2, axis=1)[:, ::2],
}


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("form", FORMS)
def test_pixels_are_found_and_are_the_bytes(form):
    found = pixels(FORMS[form], 2)
    assert found.times == (255 if "/" in form or form.endswith(("inverse", "columns", "other", "from float64")) else 1)
    np.testing.assert_array_equal(found.copy(2), BYTES)
    np.testing.assert_array_equal(found[3:7], BYTES[3:7])
    np.testing.assert_array_equal(found[np.array([9, 2]), :5], BYTES[[9, 2], :5])


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("wrong", [-1, 256, 0.5, 1e30, -1e30, 1e-30, 127.001, np.inf])
def test_one_other_number_anywhere_and_they_are_not(wrong, dtype):
    for at in (0, -1):
        for divisor in (1, 255):
            X = BYTES.astype(dtype)
            X[at, at] = wrong
            X /= dtype(divisor)
            assert pixels(X, 2) is None
    assert pixels(BYTES.astype(np.int64) * 2, 2) is None
    assert pixels(BYTES, 2) is None
    assert pixels(BYTES.astype(np.float16), 2) is not None
    assert pixels(BYTES > 3, 2) is None


def trained(X, scale, **options):
    y = BYTES[:, 0] % 3
    *_, finished = fcgpu.train(
        fcgpu.dataset(X, y, scale=scale), hidden=(6,), epochs=3, device="cpu", optimizer="adam", seed=1, **options
    )
    return finished


@pytest.mark.parametrize("batch", ["full", 50, 10])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_training_has_the_bits_of_that_on_bytes(batch, dtype, tmp_path):
    expected = trained(BYTES, 1 / 255, batch=batch, dtype=dtype)
    np.save(tmp_path / "X.npy", BYTES / 255)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    for X in (BYTES / 255, mapped, np.asfortranarray(BYTES.astype(np.float32) / 255)):
        finished = trained(X, 1.0, batch=batch, dtype=dtype)
        np.testing.assert_array_equal(finished.model.params, expected.model.params)
        assert finished.model.scale == 1
        assert finished.train.loss == pytest.approx(expected.train.loss, rel=1e-5)  # of X as it was given


def test_no_bit_depends_on_the_copy(monkeypatch):
    X, y = BYTES / 255, BYTES[:, 0] % 3
    expected = trained(X, 1.0, batch=50)
    spec, targets = fit_to(fcgpu.Recipe(hidden=(6,)), fcgpu.dataset(X, y))
    recipe = fcgpu.Recipe(hidden=(6,), batch=50, optimizer="adam")
    least = plan.plan(spec, (X, targets), recipe, fcgpu.choose("cpu")).bytes
    monkeypatch.setattr(Pixels, "copy", None)
    np.testing.assert_array_equal(trained(X, 1.0, batch=50, memory_budget=least).model.params, expected.model.params)
