"""The plan of a run on GPUs of 2 GB to 80 GB, and the choice of a run's device; nothing is allocated."""

from typing import NamedTuple

import numpy as np
import pytest
from device_double import double_backend

import fcgpu
from fcgpu.backend import GPU_SHARE, GPU_START, Work, choose
from fcgpu.train import plan_c
from fcgpu.train.plan import plan, work_of
from fcgpu.train.plan_gpu import GPU_TILE_ROWS

GB = 1e9
DEFAULT, LARGE = (128, 64), (8192, 8192, 8192)


class Array(NamedTuple):
    """The attributes of an array that a plan reads."""

    shape: tuple
    dtype: np.dtype

    @property
    def nbytes(self):
        return int(np.prod(self.shape)) * self.dtype.itemsize


def planned(gigabytes, samples, features, stored, hidden=DEFAULT, **changes):
    spec = fcgpu.Spec((features, *hidden, 10))
    data = Array((samples, features), np.dtype(stored)), Array((samples,), np.dtype(np.intp))
    budget = int(GPU_SHARE * gigabytes * GB)
    recipe = fcgpu.Recipe(hidden=hidden, **changes)
    return plan(spec, data, recipe, double_backend(), memory_budget=budget), budget


MNIST, FLOATS = (60_000, 784, "uint8"), (60_000, 784, "float32")
MILLION, LARGER, HUGE = (1_000_000, 784, "float32"), (50_000_000, 100, "float32"), (200_000_000, 784, "uint8")
TABLE = [
    # GB, data, network, options: whether a batch is one tile, whether the features are on the device
    *((size, data, DEFAULT, {}, True, True) for size in (2, 4, 8, 24, 80) for data in (MNIST, FLOATS)),
    *((size, MNIST, DEFAULT, {"batch": 128}, True, True) for size in (2, 80)),
    (2, MILLION, DEFAULT, {}, False, False),
    (4, MILLION, DEFAULT, {}, False, True),
    (80, MILLION, DEFAULT, {}, False, True),
    (2, MILLION, DEFAULT, {"batch": 128}, True, False),
    (8, MILLION, DEFAULT, {"batch": 128}, True, True),
    (8, LARGER, DEFAULT, {"batch": 1024}, True, False),
    (24, LARGER, DEFAULT, {"batch": 1024}, True, True),
    (2, HUGE, DEFAULT, {"batch": 1024}, True, False),
    (24, HUGE, DEFAULT, {"batch": 1024}, True, False),
    (80, HUGE, DEFAULT, {}, False, False),
    (2, MNIST, LARGE, {"batch": 128, "optimizer": "adam"}, True, None),
    (4, MNIST, LARGE, {"batch": 128, "optimizer": "adam"}, True, True),
    (8, MNIST, LARGE, {"optimizer": "adam"}, False, True),
    (80, MNIST, LARGE, {"optimizer": "adam"}, True, True),
    (24, MNIST, LARGE, {"optimizer": "lbfgs", "history_size": 10}, False, True),
]


@pytest.mark.parametrize(("gigabytes", "data", "hidden", "changes", "at_once", "resident"), TABLE, ids=str)
def test_from_2_gb_to_80_gb(gigabytes, data, hidden, changes, at_once, resident):
    if resident is None:
        with pytest.raises(fcgpu.DeviceError, match=r"need at least \d\.\d GiB on cuda:0: raise the budget, or use"):
            planned(gigabytes, *data, hidden, **changes)
        return
    cut, budget = planned(gigabytes, *data, hidden, **changes)
    assert cut.bytes <= budget
    assert (cut.tile == cut.batch, cut.chunk == 0) == (at_once, resident)
    assert cut.tile <= GPU_TILE_ROWS
    if cut.chunk:
        assert cut.chunk % cut.batch == 0 or cut.chunk == cut.tile
        assert 2 * cut.chunk * data[1] * np.dtype(data[2]).itemsize <= cut.data_bytes < budget
    else:
        assert cut.data_bytes >= data[0] * data[1] * np.dtype(data[2]).itemsize


def test_more_memory_is_never_planned_worse():
    cuts = [planned(gigabytes, *MILLION)[0] for gigabytes in (0.5, 1, 2, 3, 4, 6, 8, 16, 80)]
    assert [not cut.chunk for cut in cuts] == sorted(not cut.chunk for cut in cuts)
    for chunked in (True, False):
        tiles = [cut.tile for cut in cuts if bool(cut.chunk) == chunked]
        assert tiles == sorted(tiles)


def test_features_that_lie_on_the_device_already_are_not_counted_twice_nor_moved():
    backend, spec = double_backend(), fcgpu.Spec((100, 4, 10))
    X = backend.xp.empty((1000, 100), dtype=np.float32)
    y = np.zeros(1000, np.intp)
    cut = plan(spec, (X, y), fcgpu.Recipe(hidden=(4,)), backend)
    assert cut.budget == backend.memory() + X.nbytes + y.nbytes
    small = plan(spec, (X, y), fcgpu.Recipe(hidden=(4,)), backend, memory_budget=X.nbytes + y.nbytes + 30_000)
    assert small.tile < 1000
    assert small.chunk == 0


SMALL = work_of(fcgpu.Spec((3, 4, 1), output="sigmoid"), 10, 100)
BIG = work_of(fcgpu.Spec((784, 128, 64, 10)), 60_000, 100)


def test_auto_leaves_to_the_cpu_what_is_done_there_first_and_says_why(monkeypatch):
    asked = []
    monkeypatch.setattr("fcgpu.backend._gpu", lambda number, reason: asked.append(number) or double_backend())
    small = fcgpu.choose("auto", SMALL)
    assert small.device == "cpu"
    assert small.reason == f"expected to take 0.001 s here, and {GPU_START:.2g} s on a GPU with its start"
    assert not asked  # the GPU was not initialised for it
    assert fcgpu.choose("auto", BIG).device == fcgpu.choose("auto").device == "cuda:0"
    assert fcgpu.choose("cuda", SMALL).device == "cuda:0"
    steps = next(n for n in range(1, 10**6) if not SMALL._replace(flop=1e8, steps=n).is_small)
    assert Work(1e8, SMALL.launches, steps).cpu_seconds >= GPU_START  # a GPU must save at least its start-up time
    assert fcgpu.choose("auto", Work(1e8, SMALL.launches, steps - 1)).device == "cpu"


def test_a_run_chooses_by_all_its_steps(monkeypatch, mnist):
    monkeypatch.setattr("fcgpu.backend._gpu", lambda number, reason: double_backend())
    part = fcgpu.dataset(mnist.X[:640], mnist.y[:640], scale=mnist.scale)
    assert next(fcgpu.train(part, epochs=1)).backend.device == "cpu"
    assert next(fcgpu.train(part, epochs=10_000)).backend.device == "cuda:0"


def test_the_work_of_a_step_is_what_its_products_and_launches_are():
    assert BIG.flop == 60_000 * 2 * (2 * 784 * 128 + 3 * (128 * 64 + 64 * 10))
    assert BIG.launches == 16
    assert work_of(fcgpu.Spec((12_288, 1), output="sigmoid"), 1) == (4 * 12_288, 6, 1, 0)


def test_a_network_that_no_cache_holds_pays_for_its_parameters():
    """784-2048-2048-10 took 5.2 ms a step of one sample on 16 cores, and 0.16 ms on an H200."""
    work = work_of(fcgpu.Spec((784, 2048, 2048, 10)), 1)
    assert 3e-3 < work.cpu_seconds < 8e-3
    assert 1e-4 < work.gpu_seconds - GPU_START < 2.5e-4


@pytest.mark.parametrize(
    ("hidden", "samples", "batch", "lanes"),
    [
        ((512, 512), 1022, 511, 1),
        ((512, 512), 1021, 511, 2),  # no batch is half of the samples: not one tile
        ((512, 512), 1024, 512, 2),
        ((512, 512), 4096, 1024, 4),
        ((512, 512), 300, 300, 2),
        ((512, 512), 1, 1, 1),
        ((256,), 1022, 511, 2),
        ((128, 64), 60_000, 60_000, 16),
    ],
)
def test_wide_networks_have_few_lanes(hidden, samples, batch, lanes, monkeypatch):
    monkeypatch.setattr(plan_c, "is_for", lambda *a: False)
    data = np.zeros((samples, 784), np.uint8), np.zeros(samples, np.intp)
    spec = fcgpu.Spec((784, *hidden, 10))
    cut = plan(spec, data, fcgpu.Recipe(hidden=hidden, batch=batch), fcgpu.choose("cpu"), threads=2)
    assert (cut.lanes, cut.held) == (lanes, lanes)


@pytest.mark.parametrize(
    ("sizes", "batch", "lanes", "tile"),
    [
        ((20, 100, 3), 499, 1, 499),
        ((20, 100, 3), 5300, 1, 2650),  # its 80 million operations are not worth a second thread
        ((20, 100, 3), 5600, 2, 2800),
        ((100, 50, 50, 3), 6000, 2, 3000),
        ((784, 128, 64, 10), 600, 2, 300),
        ((784, 128, 64, 10), 3000, 4, 750),
        ((10, 5, 3), 100_000, 1, 8334),  # narrow: tiles of many rows
    ],
)
def test_more_work_has_more_lanes(sizes, batch, lanes, tile, monkeypatch):
    monkeypatch.setattr(plan_c, "is_for", lambda *a: False)
    data = np.zeros((batch, sizes[0]), np.float32), np.zeros(batch, np.intp)
    cut = plan(fcgpu.Spec(sizes), data, fcgpu.Recipe(hidden=sizes[1:-1], batch="full"), fcgpu.choose("cpu"), threads=2)
    assert (cut.lanes, cut.tile) == (lanes, tile)


def test_a_drawn_order_needs_memory():
    X, y, spec = np.zeros((1000, 1), np.float32), np.zeros(1000, int), fcgpu.Spec((1, 2))

    def data_bytes(**changes):
        return plan(spec, (X, y), fcgpu.Recipe(hidden=(), **changes), choose("cpu"), threads=1).data_bytes

    assert data_bytes(batch=10) == X.nbytes + y.nbytes + 32 * 1000
    for changes in ({"batch": 10, "shuffle": False}, {"batch": 1000}, {}):
        assert data_bytes(**changes) == X.nbytes + y.nbytes
