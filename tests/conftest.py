"""Fixtures: the backends that a test runs on, and read-only arrays, on which an illegal in-place write fails."""

import ctypes
import gc
import os
import sys

os.environ.setdefault("SCIPY_ARRAY_API", "1")  # SciPy reads it when imported; scikit-learn's array checks need it

import numpy as np
import pytest
from browser import chromium
from device_double import double_backend
from threadpoolctl import threadpool_limits

import fcgpu
from fcgpu.workers import Workers

ASKED = os.environ.get("FCGPU_TEST_BACKENDS", "").split(",")


def pytest_addoption(parser):
    parser.addoption("--thorough", action="store_true", help="every point of the enumerations, which takes minutes")


@pytest.fixture(scope="session", autouse=True)
def one_blas_thread():
    """One BLAS thread: on small products a second one mostly spins, on a core that other test workers need."""
    with threadpool_limits(1, user_api="blas"):
        yield


@pytest.fixture(scope="session", autouse=True)
def little_garbage():
    """Python's garbage collector, which some tests call and a run out of memory often, passes over all modules."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def gpu():
    """The GPU backend; without a GPU it skips, or fails if FCGPU_TEST_BACKENDS names cupy."""
    try:
        return fcgpu.choose("cuda")
    except fcgpu.DeviceError as error:
        if "cupy" in ASKED:
            pytest.fail(f"FCGPU_TEST_BACKENDS asks for cupy: {error}")
        pytest.skip(str(error))


@pytest.fixture(params=["numpy", pytest.param("cupy", marks=pytest.mark.gpu)])
def backend(request):
    """Each backend in turn."""
    return fcgpu.choose("cpu") if request.param == "numpy" else request.getfixturevalue("gpu")


@pytest.fixture(params=["double", pytest.param("gpu", marks=pytest.mark.gpu)])
def device(request, monkeypatch):
    """The GPU, or its double if there is none, so that tests for a GPU also run without one."""
    return double_backend(monkeypatch) if request.param == "double" else request.getfixturevalue("gpu")


@pytest.fixture
def workers():
    pool = Workers(1)
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def browser():
    """A Chromium for `browser.visit`, started once for each test file; skips if there is none."""
    with chromium() as running:
        yield running


@pytest.fixture(scope="session")
def mnist():
    """The digits, read-only: training must not write into a caller's arrays."""
    data = fcgpu.load("mnist")
    for array in (data.X, data.y, data.X_test, data.y_test):
        array.flags.writeable = False
    return data


@pytest.fixture
def blobs():
    """Three separable classes in four features, 150 + 60 samples: a problem that any correct optimizer solves.

    Read-only, as the digits are.
    """
    random = np.random.default_rng(5)
    centres = 4 * random.standard_normal((3, 4))
    y = np.arange(210) % 3
    X = centres[y] + random.standard_normal((210, 4))
    X.flags.writeable = y.flags.writeable = False
    return fcgpu.dataset(X[:150], y[:150], X[150:], y[150:], name="blobs")


@pytest.fixture(autouse=True)
def scikit_learns_settings():
    """Restore scikit-learn's settings: as a peer of the benchmarks its check for NaN is switched off."""
    yield
    if sklearn := sys.modules.get("sklearn"):
        sklearn.set_config(assume_finite=False)


@pytest.fixture(scope="module")
def cupy():
    return pytest.importorskip("cupy")


@pytest.fixture(scope="module")
def nvrtc(cupy):
    """The NVRTC library, from a wheel installed beside CuPy or from the machine's CUDA."""
    pathfinder = pytest.importorskip("cuda.pathfinder")
    try:
        return ctypes.CDLL(pathfinder.load_nvidia_dynamic_lib("nvrtc").abs_path)
    except (pathfinder.DynamicLibNotFoundError, OSError) as error:
        pytest.skip(f"no NVRTC, install nvidia-cuda-nvrtc-cu12: {str(error).splitlines()[0]}")
