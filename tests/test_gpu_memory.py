"""GPU memory: less memory gives the same numbers, too little a clear error; each test also runs on the double."""

import gc
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
from device_double import double_backend

import fcgpu
from fcgpu.kernels.cublas import WORKSPACE
from fcgpu.train import cluster, plan, plan_gpu
from fcgpu.train.capture import why_eager
from fcgpu.train.layers import Layers
from fcgpu.train.stream import Stream

HIDDEN, FEATURES, SAMPLES = (17, 9), 40, 500
CHANGES = [
    {"batch": 64, "optimizer": "adam"},
    {"batch": 64, "optimizer": "adam", "dropout": 0.3, "alpha": 2.0, "gradient_clip": 1.0},
    {"batch": 150, "optimizer": "momentum", "shuffle": False},
    {"optimizer": "nesterov"},
    {"optimizer": "lbfgs", "alpha": 1.0},
]


# The quick tests use the optimizer with the most state; the slow tests use the others.
LONG = [changes if "dropout" in changes else pytest.param(changes, marks=pytest.mark.slow) for changes in CHANGES]


def pixels(samples, features):
    """X and y of three classes."""
    random = np.random.default_rng(3)
    y = np.arange(samples) % 3
    X = random.normal(100, 30, (samples, features)) + 20 * random.normal(0, 1, (3, features))[y]
    return np.clip(X, 0, 255).astype(np.uint8), y


@pytest.fixture
def data():
    return fcgpu.dataset(*pixels(SAMPLES, FEATURES), scale=1 / 255)


@pytest.fixture
def at_once():
    """Without Python's garbage collector: it does not know that a device is full."""
    collects = gc.isenabled()
    gc.disable()
    yield
    if collects:
        gc.enable()


class Done(NamedTuple):
    """The results of a run, without its events, which would keep its arrays alive."""

    plan: plan.Plan
    notes: str
    params: np.ndarray
    loss: float


def run(data, device, **options):
    started, *epochs, finished = fcgpu.train(data, device=device, hidden=HIDDEN, epochs=3, **options)
    notes = started.plan.note + "".join(event.note for event in epochs)
    return Done(finished.plan, notes, finished.model.params, finished.train.loss)


def streamed(tile, chunk, monkeypatch):
    """Make every plan stream the features, with tiles and chunks of these numbers of rows."""
    monkeypatch.setattr(plan_gpu, "cuts", lambda *sizes, movable: iter([(tile, chunk)]))


@pytest.fixture
def no_cluster():
    """Without this, small batches with features on the device would use another kernel, with other last bits."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster, "why_not", lambda *arguments: "a test asks for it")
        yield


@pytest.mark.usefixtures("no_cluster")
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("changes", [*LONG[:-1], CHANGES[-1]], ids=str)
def test_features_from_the_host_give_the_same_bits(changes, weighted, device, data, monkeypatch):
    if weighted:
        weights, ids = np.random.default_rng(0).random(SAMPLES), np.arange(SAMPLES)[::-1]
        changes = {**changes, "sample_weight": weights, "sample_ids": ids}
    expected = run(data, device, **changes)
    tile, batch = expected.plan.tile, expected.plan.batch
    for batches in (1, 3):
        streamed(tile, min(batches * batch, SAMPLES), monkeypatch)
        found = run(data, device, **changes)
        assert found.plan.chunk
        assert (found.params.tobytes(), found.loss) == (expected.params.tobytes(), expected.loss)
        monkeypatch.undo()


def test_a_batch_in_tiles_from_the_host_is_the_batch_in_tiles(device, data):
    """Full batches, in which every tile is its own chunk."""
    whole = run(data, device)
    found = run(data, device, memory_budget=whole.plan.data_bytes - 10_000)
    assert 0 < found.plan.chunk == found.plan.tile < SAMPLES
    tolerance = 3 * (SAMPLES + FEATURES + sum(HIDDEN)) * np.finfo(np.float32).eps
    np.testing.assert_allclose(found.params, whole.params, rtol=0, atol=tolerance)


@pytest.mark.parametrize("changes", [CHANGES[1], CHANGES[3]], ids=str)
def test_a_device_with_less_than_it_said_gets_a_smaller_plan_and_says_so(changes, device, data):
    """With ever less memory the run uses ever smaller plans, until an error names the least memory."""
    pool, notes, refusal = device.xp.get_default_memory_pool(), [], ""
    expected = run(data, device, **changes)
    held = expected.plan.bytes
    while not refusal:
        device.give_back()
        pool.set_limit(size=pool.used_bytes() + max(held, 1) + (0 if why_eager(device) else WORKSPACE))
        try:
            found = run(data, device, **changes)
        except fcgpu.DeviceError as error:
            refusal = str(error)
        else:
            notes.append(found.notes)
            np.testing.assert_allclose(found.params, expected.params, rtol=0, atol=1e-3)
        finally:
            pool.set_limit(size=0)
        held = held // 2
    assert f"{device.device} ran out of memory: " in "".join(notes)
    assert "ran out of memory" in refusal


def test_another_device_than_the_callers_gets_a_smaller_plan_too(data, monkeypatch):
    double = double_backend(monkeypatch)
    second, pool = replace(double, device="cuda:1"), double.xp.get_default_memory_pool()
    double.xp.number = 1
    expected = run(data, second)
    second.give_back()
    pool.set_limit(size=pool.used_bytes() + expected.plan.bytes // 2 + WORKSPACE)
    found = run(data, second)
    assert found.notes.startswith("cuda:1 ran out of memory: ")
    np.testing.assert_allclose(found.params, expected.params, rtol=0, atol=1e-3)


def test_the_plan_is_what_a_run_takes(device, data):
    """The plan's bytes are the run's, up to 5 % and small blocks."""
    pool = device.xp.get_default_memory_pool()
    for changes in CHANGES:
        device.give_back()
        before = pool.used_bytes()
        events = fcgpu.train(data, device=device, hidden=(256, 128), epochs=2, **changes)
        planned, _ = next(events).plan, next(events)
        taken = pool.used_bytes() - before - (0 if why_eager(device) else WORKSPACE)  # without cuBLAS's workspace
        assert 0.95 * planned.bytes < taken < planned.bytes + 64 * 512, changes  # a block is at least 512 bytes
        del events, _


ENDS = {
    "at its end": list,
    "in the middle": lambda events: [next(events), next(events)],
    "before its first step": lambda events: [next(events)],
    "before it begins": lambda events: [],
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
@pytest.mark.parametrize(
    "changes", [*LONG[1:], pytest.param({"memory_budget": 36_000}, marks=pytest.mark.slow)], ids=str
)
def test_who_lets_go_of_a_run_has_its_memory_back(changes, end, device, data, at_once):
    run(data, device, **changes)  # memory that is kept for the next run is allocated here
    pool = device.xp.get_default_memory_pool()
    gc.collect()
    before = pool.used_bytes()
    events = fcgpu.train(data, device=device, hidden=HIDDEN, epochs=3, **changes)
    kept = end(events)
    assert pool.used_bytes() > before
    del events, kept
    assert pool.used_bytes() == before


def test_who_lets_go_of_predictions_has_their_memory_back(device, data, at_once):
    model, pool = list(fcgpu.train(data, device="cpu", epochs=1))[-1].model, device.xp.get_default_memory_pool()
    gc.collect()
    before = pool.used_bytes()
    assert len(model.predict(data.X, device=device)) == SAMPLES
    assert pool.used_bytes() == before


@pytest.mark.parametrize("changes", LONG, ids=str)
def test_the_events_of_a_run_that_is_over_keep_only_what_they_may_be_asked_for(changes, device, data):
    def told(event):
        return event.loss, event.accuracy, event.model().params.tobytes(), event.state().epochs

    options = {"device": device, "hidden": (112, 64), "epochs": 3, **changes}
    *expected, _ = (told(e) if isinstance(e, fcgpu.EpochEnded) else e for e in fcgpu.train(data, **options))
    pool = device.xp.get_default_memory_pool()
    del _
    gc.collect()
    before = pool.used_bytes()
    started, *epochs, finished = fcgpu.train(data, **options)
    taken = pool.used_bytes() - before
    vectors = (4 if changes["optimizer"] != "lbfgs" else 45) * 4 * finished.model.params.size  # with optimizer state
    assert taken < data.X.nbytes + 1.3 * vectors + 32 * 512
    assert [(event.loss, event.accuracy) for event in epochs] == [numbers[:2] for numbers in expected[1:]]
    assert told(epochs[-1])[2:] == expected[-1][2:]
    assert finished.train.accuracy > 0.3
    assert started.plan.bytes > taken


def test_copies_run_beside_the_computation(device, monkeypatch):
    """By device events: most of the copies' time overlaps with the computation."""
    cuda, copies, tiles, real = device.xp.cuda, [], [], type(device.xp).__name__ == "module"

    def mark(record, stream):
        record.append(cuda.Event())
        record[-1].record(stream)

    def around(cls, name, record, begin, end, stream):
        method = getattr(cls, name)

        def marked(self, *arguments):
            if begin:
                mark(record, stream(self))
            answer = method(self, *arguments)
            if end:
                mark(record, stream(self))
            return answer

        monkeypatch.setattr(cls, name, marked)

    around(Stream, "_copy", copies, True, True, lambda self: self._copies)
    around(Stream, "__getitem__", tiles, False, True, lambda self: self._current())
    around(Layers, "backward", tiles, False, True, lambda self: device.xp.cuda.get_current_stream())
    n, d, width = (65_536, 1024, 16_384) if real else (64, 8, 4)  # a tile's computation takes longer than its copy
    X = np.random.default_rng(0).random((n, d), dtype=np.float32)
    streamed(n // 16, n // 16, monkeypatch)
    assert len(list(fcgpu.train((X, np.arange(n) % 2), device=device, hidden=(width,), epochs=2))) == 4
    assert len(tiles) == 2 * 2 * 16 <= len(copies)
    if real:
        at = [[cuda.get_elapsed_time(copies[0], event) for event in events] for events in (copies, tiles)]
        copied, computed = (np.reshape(times, (-1, 2)) for times in at)
        both = sum((np.minimum(b, computed[:, 1]) - np.maximum(a, computed[:, 0])).clip(0).sum() for a, b in copied)
        assert both > 0.5 * np.diff(copied).sum()
