"""Fixtures: the backends that a test runs on, and read-only arrays that make an illegal in-place write fail."""

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
    """On small products two BLAS threads mostly spin, on the core of the tests beside. Workers hold it themselves."""
    with threadpool_limits(1, user_api="blas"):
        yield


@pytest.fixture(scope="session")
def gpu():
    """The GPU backend; skips without one, and fails where FCGPU_TEST_BACKENDS names cupy."""
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
    """The GPU, and its double where there is none: what is written for the one has then run on the other."""
    return double_backend(monkeypatch) if request.param == "double" else request.getfixturevalue("gpu")


@pytest.fixture
def little_garbage():
    """What is there before the test is left alone by the garbage collector, which a run out of memory calls."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def workers():
    pool = Workers(1)
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def browser():
    """A Chromium, for `browser.visit`: started once a file; skips without one."""
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
    """Three separable classes in four features, 150 + 60 samples: a problem that any right optimizer solves."""
    random = np.random.default_rng(5)
    centres = 4 * random.standard_normal((3, 4))
    y = np.arange(210) % 3
    X = centres[y] + random.standard_normal((210, 4))
    return fcgpu.dataset(X[:150], y[:150], X[150:], y[150:], name="blobs")


@pytest.fixture(autouse=True)
def scikit_learns_settings():
    """As they were: scikit-learn as a peer of the benchmarks is told not to look for NaN."""
    yield
    if sklearn := sys.modules.get("sklearn"):
        sklearn.set_config(assume_finite=False)


@pytest.fixture(scope="module")
def cupy():
    return pytest.importorskip("cupy")


@pytest.fixture(scope="module")
def nvrtc(cupy):
    """The library: of a wheel beside CuPy, or of the machine's CUDA."""
    pathfinder = pytest.importorskip("cuda.pathfinder")
    try:
        return ctypes.CDLL(pathfinder.load_nvidia_dynamic_lib("nvrtc").abs_path)
    except (pathfinder.DynamicLibNotFoundError, OSError) as error:
        pytest.skip(f"no NVRTC, install nvidia-cuda-nvrtc-cu12: {str(error).splitlines()[0]}")
