"""The kernel that makes many steps: compiled for the CPU against NumPy, and on a GPU against CUDA graphs.

The order of threads is drawn from a seed: equal bits for several seeds show that no barrier is missing.
"""

import re
from dataclasses import replace

import numpy as np
import pytest
from cluster_double import Problem
from device_double import compiler, double_backend
from given import samples
from nvidias_compiler import compiled, supported

import fcgpu
from fcgpu.kernels import cluster, middle_cut
from fcgpu.kernels.text import program
from fcgpu.train import cluster as steps

BASE = cluster.Shape(
    (23, 17, 9, 3), "tanh", "cross_entropy", "adam", "float64", "float64", "int64", False, True, True, 10, 4, 64, 2
)
DENSE = {"dense": True, "count": False, "targets": "float64"}
CASES = {
    "two hidden layers": (BASE, {"alpha": 1.0}),
    "four, of any size": (
        replace(
            BASE, sizes=(9, 13, 22, 7, 5, 4), activation="sigmoid", rule="momentum", batch=37, blocks=3, threads=96,
            loss="binary_cross_entropy", **DENSE,
        ),
        {"alpha": 0.5},
    ),
    "one, of pixels": (
        replace(
            BASE, sizes=(140, 11, 1), activation="relu", rule="adamw", batch=3, features="uint8", blocks=3,
            loss="binary_cross_entropy", regularised=False,
        ),
        {},
    ),
    "three, in file order": (
        replace(
            BASE, sizes=(132, 33, 6, 7, 10), dtype="float32", activation="leaky_relu", rule="nesterov", batch=16,
            features="uint8", blocks=8,
        ),
        {"alpha": 0.5, "ordered": False},
    ),
    "many rows, of features where they are stored": (
        replace(
            BASE, sizes=(132, 40, 20, 10), dtype="float32", activation="sigmoid", rule="rmsprop", batch=70,
            features="uint8", blocks=5, threads=128, buffers=0,
        ),
        {"alpha": 0.5, "options": {"epsilon": 1e-2}},
    ),
    "one sample": (
        replace(
            BASE, sizes=(5, 8, 6, 2), activation="identity", loss="squared_error", rule="gradient_descent", batch=1,
            blocks=2, regularised=False, **DENSE,
        ),
        {"ordered": False},
    ),
    "a wide layer": (
        replace(
            BASE, sizes=(7, 300, 2), dtype="float32", features="float32", loss="poisson", rule="gradient_descent",
            batch=5, blocks=8, **{**DENSE, "targets": "float32"},
        ),
        {"alpha": 0.3},
    ),
}  # fmt: skip


def arrays(result):
    vectors, totals, history, *_ = result
    return [*vectors, totals, history]


@pytest.fixture(autouse=True)
def a_compiler():
    if compiler() is None:
        pytest.skip("no C++ compiler: install g++, or name one in CXX")


SHORT = ("two hidden layers", "one, of pixels")


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=name, marks=() if name in SHORT else pytest.mark.slow) for name, case in CASES.items()],
)
def test_steps_are_the_references_in_any_order_of_threads(case):
    """Two or more full batches, a smaller last batch, and a batch of the next epoch.

    Sums over samples and units are rounded in another order, which costs a few eps for each of their terms.
    """
    shape, options = case
    problem = Problem(shape, 5 * shape.batch // 2 + 1 if shape.batch > 1 else 7, **options)
    whole, rest = divmod(len(problem.X), shape.batch)
    then = [*([(1, rest)] if rest else []), (1, shape.batch)]
    found = problem.cluster((whole, shape.batch), *then)
    eps = np.finfo(shape.dtype).eps
    for ours, theirs in zip(arrays(found), arrays(problem.reference((whole, shape.batch), *then)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=4 * sum(shape.sizes) ** 0.5 * eps * abs(theirs).max())
    assert found[-1] == (whole + len(then), 3.0 + whole + len(then), problem.rates[whole + len(then) - 1])
    again = [problem.cluster((whole, shape.batch), *then, seed=seed) for seed in (1, 2)]
    again.append(problem.cluster(*[(1, shape.batch)] * whole, *then))  # one launch for each batch
    for other in again:
        assert [a.tobytes() for a in arrays(other)] == [a.tobytes() for a in arrays(found)]


@pytest.mark.slow
def test_a_barrier_that_is_missing_shows():
    problem = Problem(BASE, 30, alpha=1.0)
    expected = problem.cluster((3, 10))[0][0]
    broken = ("    meet_cluster();\n    forward<l + 1>(m);", "    __syncthreads();\n    forward<l + 1>(m);")
    found = [problem.cluster((3, 10), seed=seed, broken=broken)[0][0] for seed in range(3)]
    assert any(params.tobytes() != expected.tobytes() for params in found)


@pytest.fixture
def hopper():
    backend = double_backend(on_chip=True)
    backend.xp.compute_capability = "90"
    return backend


DATA = samples(n=33)


def trained(device, data=None, **changes):
    *_, finished = fcgpu.train(data or DATA, device=device, **{"hidden": (7, 4), "epochs": 2, "batch": 7, **changes})
    return finished


CHANGES = [  # each with the launches of two epochs: the full batches, and the last one
    ({"optimizer": "adam", "schedule": "one_cycle", "warmup": 1, "learning_rate": 0.01, "alpha": 1.0}, 4),
    ({"data": samples(stored="uint8", n=33), "optimizer": "adamw", "shuffle": False, "batch": "full"}, 2),
]


@pytest.mark.parametrize(("changes", "launches"), CHANGES, ids=["mini-batches", "full batches"])
def test_a_run_is_the_cpus(changes, launches, hopper):
    ours, theirs = (trained(where, dtype="float64", **changes) for where in (hopper, "cpu"))
    assert ours.capture == "one kernel of 2 blocks"
    np.testing.assert_allclose(ours.model.params, theirs.model.params, rtol=0, atol=1e-12)
    assert ours.train.loss == pytest.approx(theirs.train.loss, rel=1e-12)
    assert hopper.xp.launches[cluster.NAME] == launches


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"hidden": ()}, "hidden layer"),
        ({"dropout": 0.1}, "dropout"),
        ({"gradient_clip": 1.0}, "gradient_clip"),
        ({"sample_weight": np.ones(33)}, "sample weights"),
        ({"optimizer": "rprop", "batch": "full"}, "no rprop"),
        ({"optimizer": "lbfgs", "batch": "full"}, "no lbfgs"),
        ({"hidden": (4000, 4000)}, "do not fit into 232448 bytes"),
    ],
)
def test_what_it_cannot_do_goes_the_other_way(changes, reason, hopper, monkeypatch):
    seen = []
    monkeypatch.setattr(steps.Cluster, "steps", lambda self, rows, otherwise: seen.append(self.why) or otherwise)
    events = fcgpu.train(DATA, device=hopper, **{"hidden": (7, 4), "epochs": 2, "batch": 7, **changes})
    next(events)
    events.close()
    assert reason in seen[0]


def test_features_of_more_words_than_32_bits_count_are_not_read_where_they_are_stored():
    """The kernel's 32-bit index of a row's first word would wrap around, and other rows be read silently."""
    wide = replace(DIGITS, sizes=(3072, 128, 64, 10), batch=64)
    assert {shape.buffers for shape in cluster.fitting(wide, 232_448, 1 << 34)} == {0}
    assert cluster.fitting(wide, 232_448, (1 << 34) + 1) == []
    assert {shape.buffers for shape in cluster.fitting(DIGITS, 232_448, 1 << 36)} == {2}


@pytest.mark.parametrize("most", [32, 33 * 8])
def test_a_run_tells_how_many_features_it_has(most, hopper, monkeypatch):
    monkeypatch.setattr(cluster, "MOST_IN_PLACE", most)
    shape = cluster.Shape(
        (8, 7, 4, 3), "tanh", "cross_entropy", "adam", *["float64"] * 2, "int64", False, True, False, 7
    )
    sizes = [replace(shape, blocks=2, buffers=buffers).bytes for buffers in (0, 2)]
    hopper.xp.attributes["MaxSharedMemoryPerBlockOptin"] = sizes[0]
    assert sizes[0] < sizes[1]
    random = np.random.default_rng(0)
    data = fcgpu.dataset(random.normal(0, 1, (33, 8)), np.arange(33) % 3)
    capture = trained(hopper, data, dtype="float64", optimizer="adam", epochs=1).capture
    assert capture.startswith("one kernel of ") == (most == 33 * 8)


def test_an_older_gpu_has_no_clusters():
    assert trained(double_backend()).capture.startswith("eager: ")


def test_a_kernel_that_fails_falls_back(hopper, monkeypatch):
    def refuse(shape, xp, device):
        raise RuntimeError("CUDA_ERROR_NOT_SUPPORTED: not supported")

    monkeypatch.setattr(cluster, "kernel", refuse)
    finished = trained(hopper)
    assert finished.capture.endswith("no cluster of blocks: RuntimeError: CUDA_ERROR_NOT_SUPPORTED: not supported")
    np.testing.assert_allclose(finished.model.params, trained("cpu").model.params, rtol=0, atol=1e-5)


DIGITS = replace(
    BASE, sizes=(784, 128, 64, 10), dtype="float32", features="uint8", activation="sigmoid",
    loss="binary_cross_entropy", rule="gradient_descent", regularised=False, threads=cluster.THREADS,
)  # fmt: skip


@pytest.mark.parametrize(
    ("architecture", "shape"),
    [
        pytest.param(90, DIGITS, id="digits"),
        pytest.param(90, replace(DIGITS, batch=128), id="digits, 128 rows", marks=pytest.mark.slow),
        pytest.param(100, replace(BASE, threads=cluster.THREADS), id="float64"),
    ],
)
def test_nvidias_compiler_takes_it(architecture, shape, nvrtc):
    """It also prints what should be at most 128 registers for a thread, and 0 spilled bytes."""
    if architecture not in supported(nvrtc):
        pytest.skip(f"this NVRTC does not know sm_{architecture}")
    shape = cluster.fitting(shape, 232_448, 0)[0]
    text = program(cluster.text(shape))
    error, log = compiled(nvrtc, text, [f"-arch=sm_{architecture}", "--std=c++17", "--ptxas-options=-v"])
    assert not error, log
    print(shape.sizes, shape.batch, re.findall(r"Used \d+ registers|\d+ bytes spill \w+", log))


@pytest.fixture
def graphs(monkeypatch):
    """A run with CUDA graphs instead of the cluster kernel."""

    def run(*arguments, **changes):
        with monkeypatch.context() as patch:
            patch.setattr(steps, "why_not", lambda *arguments: "a test asks for it")
            return trained(*arguments, **changes)

    return run


def is_the_path_of_graphs(device, data, graphs, times, **changes):
    """Equal to rounding, as in test_gpu_training.py, and bit-equal from run to run."""
    runs = [trained(device, data, **changes) for _ in range(times)]
    assert runs[0].capture.startswith("one kernel of "), runs[0].capture
    assert len({run.model.params.tobytes() for run in runs}) == 1
    assert len({run.train for run in runs}) == 1
    theirs = graphs(device, data, **changes)
    assert not theirs.capture.startswith("one kernel")
    bound = runs[0].steps * 1000 * float(np.finfo(runs[0].model.params.dtype).eps)
    np.testing.assert_allclose(runs[0].model.params, theirs.model.params, rtol=0, atol=bound)
    assert runs[0].train.loss == pytest.approx(theirs.train.loss, rel=bound)


def test_on_the_double_it_is_the_path_of_graphs(hopper, graphs, monkeypatch):
    monkeypatch.setattr(middle_cut, "CUTS", (middle_cut.Cut(64, 16, 2),))  # few threads, because each is a fiber
    is_the_path_of_graphs(hopper, samples(stored="uint8"), graphs, times=2, epochs=1)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "gradient_descent", "activation": "sigmoid", "output": "sigmoid", "batch": 10},
        {"optimizer": "adam", "schedule": "one_cycle", "warmup": 1, "learning_rate": 0.01, "alpha": 1.0, "batch": 32},
        {"optimizer": "momentum", "schedule": "cosine", "batch": 64, "shuffle": False},
        {"optimizer": "rmsprop", "learning_rate": 0.001, "hidden": (100,), "batch": 1, "dtype": "float64"},
        {"optimizer": "adamw", "learning_rate": 0.001, "hidden": (60, 50, 40, 30), "batch": 64, "alpha": 1.0},
        {"optimizer": "nesterov", "hidden": (32,), "batch": "full"},
    ],
    ids=lambda changes: f"{changes['optimizer']}, {changes['batch']}",
)
def test_on_a_gpu_it_is_the_path_of_graphs(changes, gpu, mnist, graphs):
    if int(gpu.xp.cuda.Device().compute_capability) < 90:
        pytest.skip("this GPU has no clusters of blocks")
    n = 60 if changes["batch"] in (1, "full") else 333
    data = replace(mnist, X=mnist.X[:n], y=mnist.y[:n], X_test=None, y_test=None)
    is_the_path_of_graphs(gpu, data, graphs, times=5, **{"hidden": (128, 64), "epochs": 3, **changes})
