"""Memory of a GPU: less of it gives the same numbers, too little of it a word; each body also runs on the double."""

from typing import NamedTuple

import numpy as np
import pytest

import fcgpu
from fcgpu.network import Network
from fcgpu.train import plan
from fcgpu.train.stream import Stream

HIDDEN, FEATURES, SAMPLES = (17, 9), 40, 1000
CHANGES = [
    {"batch": 64, "optimizer": "adam"},
    {"batch": 64, "optimizer": "adam", "dropout": 0.3, "alpha": 2.0, "gradient_clip": 1.0},
    {"batch": 300, "optimizer": "momentum", "shuffle": False},
    {"optimizer": "nesterov"},
    {"optimizer": "lbfgs", "alpha": 1.0},
]


@pytest.fixture
def data():
    random = np.random.default_rng(3)
    y = np.arange(SAMPLES) % 3
    X = random.normal(100, 30, (SAMPLES, FEATURES)) + 20 * random.normal(0, 1, (3, FEATURES))[y]
    return fcgpu.dataset(np.clip(X, 0, 255).astype(np.uint8), y, scale=1 / 255)


class Done(NamedTuple):
    """What is kept of a run: its events hold its arrays."""

    plan: plan.Plan
    notes: str
    params: np.ndarray
    loss: float


def run(data, device, **options):
    started, *epochs, finished = fcgpu.train(data, device=device, hidden=HIDDEN, epochs=3, **options)
    notes = started.plan.note + "".join(event.note for event in epochs)
    return Done(finished.plan, notes, finished.model.params, finished.train.loss)


def streamed(planned, rows, monkeypatch):
    """Make every plan stream, with tiles as they were and chunks of about so many rows."""
    tile = planned.tile

    def cuts(whole, row_bytes, *, movable):
        assert movable
        chunk = max(1, rows // whole.batch) * whole.batch if tile == whole.batch else tile
        yield plan.replace(whole, tile=tile, chunk=chunk)

    monkeypatch.setattr(plan, "_gpu_cuts", cuts)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_features_from_the_host_give_the_same_bits(changes, weighted, device, data, monkeypatch):
    weights = np.random.default_rng(0).random(SAMPLES) if weighted else None
    expected = run(data, device, sample_weight=weights, **changes)
    for rows in (64, 200):
        streamed(expected.plan, rows, monkeypatch)
        found = run(data, device, sample_weight=weights, **changes)
        assert found.plan.chunk
        assert (found.params.tobytes(), found.loss) == (expected.params.tobytes(), expected.loss)
        monkeypatch.undo()


def test_a_batch_in_tiles_from_the_host_is_the_batch_in_tiles(device, data):
    """Full batches, where every tile is a chunk of its own."""
    whole = run(data, device)
    found = run(data, device, memory_budget=whole.plan.data_bytes + 50_000)
    assert 0 < found.plan.chunk == found.plan.tile < SAMPLES
    tolerance = 3 * (SAMPLES + FEATURES + sum(HIDDEN)) * np.finfo(np.float32).eps
    np.testing.assert_allclose(found.params, whole.params, rtol=0, atol=tolerance)


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_a_device_with_less_than_it_said_gets_a_smaller_plan_and_says_so(changes, device, data):
    """The pool is held to ever less: the run goes on with ever less, until a refusal names the least."""
    pool, notes, refusal = device.xp.get_default_memory_pool(), [], ""
    expected = run(data, device, **changes)
    held = expected.plan.bytes
    while not refusal:
        device.give_back()
        pool.set_limit(size=pool.used_bytes() + max(held, 1))
        try:
            found = run(data, device, **changes)
        except fcgpu.DeviceError as error:
            refusal = str(error)
        else:
            notes.append(found.notes)
            np.testing.assert_allclose(found.params, expected.params, rtol=0, atol=1e-3)
        finally:
            pool.set_limit(size=0)
        held = held * 2 // 3
    assert f"{device.device} ran out of memory: " in "".join(notes)
    assert "ran out of memory" in refusal


def test_the_plan_is_what_a_run_takes(device, data):
    """Not less than the arrays of the run, nor much more."""
    pool = device.xp.get_default_memory_pool()
    for changes in CHANGES:
        device.give_back()
        before = pool.used_bytes()
        events = fcgpu.train(data, device=device, hidden=(256, 128), epochs=2, **changes)
        planned, _ = next(events).plan, next(events)
        taken = pool.used_bytes() - before
        assert 0.5 * planned.bytes < taken < planned.bytes + 64 * 512, changes  # a block is at least 512 bytes
        events.close()


def test_copies_run_beside_the_computation(device, monkeypatch):
    """By the events of the device itself, the copy of a chunk begins before the computation of the one before ends."""
    cuda, copies, tiles = device.xp.cuda, [], []

    def timed(record, stream, work):
        begin, end = cuda.Event(), cuda.Event()
        begin.record(stream)
        work()
        end.record(stream)
        record.append((begin, end))

    send, compute = Stream._copy, Network.loss_and_gradient
    monkeypatch.setattr(Stream, "_copy", lambda self, *args: timed(copies, self._copies, lambda: send(self, *args)))
    monkeypatch.setattr(
        Network,
        "loss_and_gradient",
        lambda self, *args, **options: timed(tiles, cuda.get_current_stream(), lambda: compute(self, *args, **options)),
    )
    real = type(device.xp).__name__ == "module"
    n, d, width = (65_536, 1024, 2048) if real else (64, 8, 4)
    X = np.random.default_rng(0).random((n, d), dtype=np.float32)
    monkeypatch.setattr(plan, "CHUNK_BYTES", X.nbytes // 16)
    events = fcgpu.train(
        (X, np.arange(n) % 10 % 2), device=device, hidden=(width,), epochs=2, memory_budget=X.nbytes * 3 // 4
    )
    assert next(events).plan.chunk == n // 16
    assert len(list(events)) == 3
    assert len(tiles) == 32
    if real:
        first_copy, last_tile = copies[0][0], tiles[-1][1]
        last_tile.synchronize()
        at = [[cuda.get_elapsed_time(first_copy, e) for pair in pairs for e in pair] for pairs in (copies, tiles)]
        copied, computed = (np.reshape(times, (-1, 2)) for times in at)
        together = sum((np.minimum(b, computed[:, 1]) - np.maximum(a, computed[:, 0])).clip(0).sum() for a, b in copied)
        assert together > 0.3 * min(np.diff(copied).sum(), np.diff(computed).sum())
