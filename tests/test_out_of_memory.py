"""Failed allocations, at each allocation of a run; and data that are streamed from the host."""

import math
import weakref
from collections import Counter

import numpy as np
import pytest
from device_double import double_backend
from memory_double import OutOfMemoryError
from test_gpu_memory import pixels, streamed

import fcgpu
from fcgpu.kernels.cublas import WORKSPACE
from fcgpu.train import plan
from fcgpu.train import run as training
from fcgpu.train.stream import Stream

HIDDEN, SAMPLES = (7, 4), 60


@pytest.fixture
def data():
    X, y = pixels(SAMPLES, 20)
    return fcgpu.dataset(X, y, X[:20], y[:20], scale=1 / 255)


def run(data, backend, **options):
    """(where the run reported a smaller plan, parameters, loss)."""
    started, *epochs, done = fcgpu.train(data, device=backend, hidden=HIDDEN, epochs=2, **options)
    said = ["start"] * bool(started.plan.note) + ["epoch"] * any(event.note for event in epochs)
    assert not any(event.note for event in epochs[1:])
    return said, done.model.params, done.train.loss


class Drawn:
    """A random generator without a seed: a second run cannot draw the same orders again."""

    def __init__(self):
        self.random = np.random.RandomState(3)

    def permutation(self, n):
        return self.random.permutation(n)


@pytest.mark.parametrize(
    ("budget", "changes"),
    [
        (None, {"batch": 25, "optimizer": "adam", "dropout": 0.3, "alpha": 2.0, "learning_rate": 0.01}),
        (9_400, {"batch": 25, "optimizer": "gradient_descent", "learning_rate": 0.1}),
    ],
    ids=["resident", "from the host"],
)
def test_whichever_allocation_fails_the_run_goes_on_and_says_so(budget, changes, data, pytestconfig):
    def attempt(refused):
        backend = double_backend()
        backend.xp.memory.refused = {refused}
        order = Drawn() if "batch" in changes else None
        return run(data, backend, memory_budget=budget, order=order, **changes), backend.xp.memory.allocations

    (_, params, loss), allocations = attempt(0)
    cut = next(
        fcgpu.train(data, device=double_backend(), hidden=HIDDEN, memory_budget=budget, epochs=2, **changes)
    ).plan
    assert bool(cut.chunk) == (budget is not None)
    ends = Counter()
    for number in range(1, allocations + 1, 1 if pytestconfig.getoption("thorough") else 2):
        (said, found, found_loss), _ = attempt(number)
        np.testing.assert_allclose(found, params, rtol=0, atol=1e-4)
        assert found_loss == pytest.approx(loss, rel=1e-4)
        ends[tuple(said)] += 1
    assert set(ends) <= {("start",), ("epoch",), ()}
    assert ends["start",] > 5  # the others belong to the scores, which fall back to smaller tiles or the CPU


def test_no_memory_for_cublas_is_no_memory(data, monkeypatch):
    """The run starts again with less memory, and does not fall back to CuPy's cuBLAS, which would need eager steps."""
    backend, fails = double_backend(monkeypatch), 1
    empty = backend.xp.empty

    def refuse(shape, dtype=float):
        nonlocal fails
        if shape == (WORKSPACE,) and (fails := fails - 1) >= 0:
            raise OutOfMemoryError("Out of memory allocating 33,554,432 bytes")
        return empty(shape, dtype)

    monkeypatch.setattr(backend.xp, "empty", refuse)
    started, *_, finished = fcgpu.train(data, device=backend, hidden=HIDDEN, epochs=3)
    assert fails == -1
    assert started.plan.note.startswith("cuda:0 ran out of memory: ")
    assert finished.capture == "eager: the features come from the host in chunks"
    del started, finished, _
    assert not backend.xp.cublas._handles


@pytest.mark.parametrize("order", [Drawn, lambda: None], ids=["drawn elsewhere", "from the seed"])
def test_in_the_first_epoch_a_run_begins_anew_with_the_same_order(order, data, monkeypatch):
    from fcgpu.train.gpu import OnGpu

    epoch, failing = OnGpu.epoch, [MemoryError("no more")]

    def fails(self, number, *arguments):
        epoch(self, number, *arguments)
        if number == 0 and failing:
            raise failing.pop()

    options = {"batch": 10, "optimizer": "adam", "learning_rate": 0.1}
    plain = run(data, double_backend(), order=order(), **options)
    monkeypatch.setattr(OnGpu, "epoch", fails)
    said, params, _ = run(data, double_backend(), order=order(), **options)
    assert said == ["epoch"]
    np.testing.assert_allclose(params, plain[1], rtol=0, atol=1e-5)


def test_a_run_that_ran_out_is_freed_before_the_next_is_built(data, monkeypatch):
    from fcgpu.train.gpu import OnGpu

    epoch, begin, runs = OnGpu.epoch, training.Run.__init__, []

    def built(self, *arguments, **options):
        assert all(run() is None for run in runs)
        runs.append(weakref.ref(self))
        begin(self, *arguments, **options)

    def fails(self, *arguments):
        epoch(self, *arguments)
        if len(runs) == 1:
            raise MemoryError("no more")

    monkeypatch.setattr(training.Run, "__init__", built)
    monkeypatch.setattr(OnGpu, "epoch", fails)
    assert run(data, double_backend())[0] == ["epoch"]
    assert len(runs) == 2


def test_later_it_is_an_error_with_a_remedy(data, monkeypatch):
    from fcgpu.train.gpu import OnGpu

    epoch = OnGpu.epoch

    def fails(self, number, *arguments):
        if number == 1:
            raise RuntimeError("CUDA_ERROR_OUT_OF_MEMORY: out of memory")
        epoch(self, number, *arguments)

    monkeypatch.setattr(OnGpu, "epoch", fails)
    with pytest.raises(fcgpu.DeviceError, match=r"cuda:0 ran out of memory \(RuntimeError: CUDA_ERROR_OUT_OF_MEMORY.*"
                       r"need at least .* KiB; free its memory, or use a smaller network"):  # fmt: skip
        run(data, double_backend())


def test_a_monitor_that_runs_out_of_memory_does_not_begin_the_run_anew(data):
    asked = []

    def monitor(event):
        asked.append(event.epoch)
        raise MemoryError("no more")

    with pytest.raises(fcgpu.DeviceError, match="cuda:0 ran out of memory"):
        run(data, double_backend(), monitor=monitor)
    assert asked == [1]


def test_other_errors_come_through(data, monkeypatch):
    from fcgpu.train.gpu import OnGpu

    def fails(self, *arguments):
        raise ZeroDivisionError("another")

    monkeypatch.setattr(OnGpu, "epoch", fails)
    with pytest.raises(ZeroDivisionError, match="another"):
        run(data, double_backend())


def test_a_prediction_with_too_little_memory_is_made_in_smaller_tiles():
    backend, random = double_backend(), np.random.default_rng(0)
    spec = fcgpu.Spec((40, 30, 3), "tanh", "softmax")
    model = fcgpu.Model(spec, random.standard_normal(spec.n_params), (0, 1, 2))
    X = random.standard_normal((300, 40))
    expected = model.predict_proba(X)
    backend.xp.memory.set_limit(80_000)
    np.testing.assert_allclose(model.predict_proba(X, device=backend), expected, rtol=1e-12)
    backend.xp.memory.set_limit(9_000)
    with pytest.raises(fcgpu.DeviceError, match=r"cuda:0 ran out of memory .*use device='cpu'"):
        model.predict_proba(X, device=backend)


BREAKS = {
    "the computation does not wait for the copy": ("_turn_to", "wait_event(self._there"),
    "the copy does not wait for the computation": ("_send", "wait_event(self._done"),
    "the host does not wait for its pinned memory": ("_send", "_there[side].synchronize"),
}


@pytest.mark.parametrize("what", BREAKS)
def test_each_event_of_a_stream_is_needed(what, data, monkeypatch):
    """Without an event the double, which runs everything as late as allowed, computes something else."""
    options = {"batch": 10, "optimizer": "adam", "learning_rate": 0.1}
    expected = run(data, double_backend(), **options)[1]
    monkeypatch.setattr(training, "LOOK_SECONDS", math.inf)
    streamed(10, 10, monkeypatch)
    assert np.array_equal(run(data, double_backend(), **options)[1], expected)
    monkeypatch.setattr(Stream, *without(*BREAKS[what]))
    assert not np.array_equal(run(data, double_backend(), **options)[1], expected)


def without(method, statement):
    """The method's name, and the method without the line that contains the statement."""
    import inspect
    import textwrap

    source = textwrap.dedent(inspect.getsource(getattr(Stream, method)))
    lines = [line for line in source.splitlines() if statement not in line]
    assert len(lines) == len(source.splitlines()) - 1
    namespace = dict(vars(inspect.getmodule(Stream)))
    exec("\n".join(lines), namespace)
    return method, namespace[method]


def test_a_stream_is_read_again_from_anywhere_and_leaves_no_thread(data):
    import threading

    before, backend = threading.active_count(), double_backend()
    cut = plan.Plan(SAMPLES, 10, 10, 1, 1, 0, 0, 0, chunk=20)
    stream = Stream(data.X, (data.y, None, None), cut, backend)
    for order in (None, np.random.default_rng(0).permutation(SAMPLES)):
        if order is not None:
            stream.begin(order)
        for start in (0, 10, 20, 30, 40, 50, 0, 40, 20):
            rows = slice(start, start + 10) if order is None else order[start : start + 10]
            assert stream[start : start + 10].tolist() == data.X[rows].tolist()
        assert stream.y.tolist() == data.y[slice(None) if order is None else order].tolist()
    stream.close()
    assert threading.active_count() == before


def test_rows_of_other_layouts_and_byte_orders_stream_too(data):
    cut = plan.Plan(SAMPLES, 10, 10, 1, 1, 0, 0, 0, chunk=30)
    X = data.X.astype(">f4")
    order = np.random.default_rng(0).permutation(SAMPLES)
    for layout in (X, np.asfortranarray(X), np.pad(X, ((0, 0), (1, 0)))[:, 1:]):
        stream = Stream(layout, (data.y, None, None), cut, double_backend())
        stream.begin(order)
        assert stream[10:20].tolist() == X[order[10:20]].tolist()
        assert stream[10:20].dtype == np.float32
        stream.close()
