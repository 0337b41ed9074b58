"""Features that are pixels in any dtype are converted to bytes for training, with bit-equal results."""

import numpy as np
import pytest
from device_double import as_cupy, double_backend

import fcgpu
from fcgpu import backend as fcgpu_backend
from fcgpu.kernels import compiled
from fcgpu.train import plan
from fcgpu.train.loop import fit_to
from fcgpu.train.pixels import Pixels, pixels_as_bytes

BYTES = np.concatenate([np.arange(256), np.random.default_rng(0).integers(0, 256, 2500 * 8 - 256)]).reshape(-1, 8)
BYTES = BYTES.astype(np.uint8)


@pytest.fixture(params=["native", "numpy", "double", pytest.param("gpu", marks=pytest.mark.gpu)])
def backend(request, monkeypatch):
    """Each backend that inspects the features: the C, NumPy, the GPU double and a GPU."""
    if request.param == "gpu":
        return request.getfixturevalue("gpu")
    if request.param == "double":
        return double_backend(monkeypatch)
    if request.param == "numpy":
        monkeypatch.setattr(compiled, "native", None)
    elif compiled.native is None:
        pytest.skip("native.c was not compiled")
    return fcgpu.choose("cpu")


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


@pytest.mark.parametrize("form", FORMS)
def test_pixels_are_found_and_are_the_bytes(form, backend):
    made, times = pixels_as_bytes(backend.to_device(FORMS[form]), backend, 2)
    assert times == (255 if "/" in form or form.endswith(("inverse", "columns", "other", "from float64")) else 1)
    np.testing.assert_array_equal(backend.to_host(made)[:], BYTES)
    if isinstance(made, Pixels):
        np.testing.assert_array_equal(made.copy(2), BYTES)
        np.testing.assert_array_equal(made[3:7], BYTES[3:7])
        np.testing.assert_array_equal(made[np.array([9, 2]), :5], BYTES[[9, 2], :5])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("wrong", [-1, 256, 0.5, 1e30, -1e30, 3e38, 1e-30, 127.001, np.inf, np.nan])
def test_one_other_number_anywhere_and_they_are_not(wrong, dtype, backend):
    for at in (0, -1):
        for divisor in (1, 255):
            X = BYTES.astype(dtype)
            X[at, at] = wrong
            X = backend.to_device(X / dtype(divisor))
            assert pixels_as_bytes(X, backend, 2) == (X, 1)


def test_other_types(backend):
    for X in (BYTES.astype(np.int64) * 2, BYTES, BYTES > 3):
        X = backend.to_device(X)
        assert pixels_as_bytes(X, backend, 2) == (X, 1)
    made, times = pixels_as_bytes(backend.to_device(BYTES.astype(np.float16)), backend, 2)
    assert (made.dtype, times) == (np.uint8, 1)
    for X in (200 + BYTES % 2 / 8, 1 - BYTES % 4 / 2048, BYTES / 255):  # float16 values close to pixels
        X = backend.to_device(X.astype(np.float16))
        assert pixels_as_bytes(X, backend, 2) == (X, 1)


def trained(X, scale, **options):
    options = {"hidden": (6,), "epochs": 3, "device": "cpu", "optimizer": "adam", "seed": 1, **options}
    *_, finished = fcgpu.train(fcgpu.dataset(X, BYTES[:, 0] % 3, scale=scale), **options)
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
        assert finished.train.loss == pytest.approx(expected.train.loss, rel=1e-5)  # of the original X


def test_no_bit_depends_on_the_copy(monkeypatch):
    X, y = BYTES / 255, BYTES[:, 0] % 3
    expected = trained(X, 1.0, batch=50)
    spec, targets = fit_to(fcgpu.Recipe(hidden=(6,)), fcgpu.dataset(X, y))
    recipe = fcgpu.Recipe(hidden=(6,), batch=50, optimizer="adam")
    least = plan.plan(spec, (X, targets), recipe, fcgpu.choose("cpu"), taken=Pixels(X, 255)).bytes
    monkeypatch.setattr(Pixels, "copy", None)
    np.testing.assert_array_equal(trained(X, 1.0, batch=50, memory_budget=least).model.params, expected.model.params)


@pytest.mark.parametrize("batch", ["full", 50])
@pytest.mark.parametrize("lie", ["on the host", "on the device", "on disk"])
def test_on_a_gpu_too(batch, lie, device, monkeypatch, tmp_path):
    options = {"batch": batch, "device": device}
    expected = trained(BYTES, 1 / 255, **options)
    X = BYTES / np.float32(255)
    if lie == "on the device":
        X = device.to_device(X)
        if not hasattr(X, "__cuda_array_interface__"):
            as_cupy(device.xp, monkeypatch)
    elif lie == "on disk":
        np.save(tmp_path / "X.npy", X)
        X = np.load(tmp_path / "X.npy", mmap_mode="r")
    found = trained(X, 1.0, **options)
    assert found.plan.data_bytes == expected.plan.data_bytes
    np.testing.assert_array_equal(found.model.params, expected.model.params)
    assert found.model.scale == 1
    assert found.train == expected.train


def test_what_lies_on_a_gpu_without_room_for_its_bytes_stays_as_it_is(device, monkeypatch):
    X = device.to_device(BYTES / np.float32(255))
    assert pixels_as_bytes(X, device, 1)[1] == 255
    monkeypatch.setattr(fcgpu_backend, "GPU_SHARE", 0)
    found, times = pixels_as_bytes(X, device, 1)
    assert found is X
    assert times == 1


def test_what_stays_on_disk_for_want_of_memory_is_not_looked_through(device, monkeypatch, tmp_path):
    np.save(tmp_path / "X.npy", BYTES / np.float32(255))
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    assert pixels_as_bytes(mapped, device, 1)[1] == 255
    monkeypatch.setattr(fcgpu_backend, "CPU_SHARE", 0)
    assert pixels_as_bytes(mapped, device, 1)[1] == 1


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.int64, np.float32])
def test_negative_numbers_are_no_pixels(dtype, backend):
    X = BYTES.astype(dtype)
    X[1700, 5] = -1
    X = backend.to_device(X)
    assert pixels_as_bytes(X, backend, 2) == (X, 1)
