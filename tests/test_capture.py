"""Steps captured as CUDA graphs equal the same steps run eagerly, bit for bit, on the device double.

A graph of the double knows memory by address and reads its contents when it is replayed; during capture, an allocation,
an upload, a wait and cuBLAS calls through CuPy are refused.
"""

import gc
import itertools
import json
import math
import sys
from functools import partial
from threading import Thread

import numpy as np
import pytest
from device_double import HALVES, WHOLE, double_backend
from given import samples
from stream_double import Recording

import fcgpu
from fcgpu.backend import INSTALL
from fcgpu.cli import main
from fcgpu.kernels import device
from fcgpu.kernels.updates import UPDATES
from fcgpu.optim import FULL_BATCH
from fcgpu.optim.schedules import SCHEDULES
from fcgpu.params import Padded, Spec
from fcgpu.train import capture, plan_gpu, run
from fcgpu.train.capture import Capture, Steps, recorded
from fcgpu.train.upload import Upload

SAMPLES = 60


@pytest.fixture(autouse=True)
def no_look(monkeypatch):
    """Check the loss only at the end of a run."""
    monkeypatch.setattr(run, "LOOK_SECONDS", math.inf)


@pytest.fixture
def recording(monkeypatch):
    """A double on which steps are captured."""
    return double_backend(monkeypatch)


def trained(backend, data=None, **changes):
    """(numbers of every epoch, the state after each, Finished)."""
    changes = {"hidden": (7, 4), "epochs": 4, **changes}
    options = {key: changes.pop(key) for key in ("start", "sample_weight") if key in changes}
    numbers, states = [], []
    for event in fcgpu.train(data or samples(), device=backend, **options, **changes):
        if isinstance(event, fcgpu.EpochEnded):
            numbers.append((event.loss, event.penalty, event.accuracy, event.learning_rate, event.monitored))
            states.append(event.state())
    return numbers, states, event


def same(monkeypatch, backend, **changes):
    """Assert that the captured run and the eager run are bit-equal; returns the captured run's results."""
    with monkeypatch.context() as patch:
        patch.setattr(capture, "why_eager", lambda backend: "a test asks for it")
        expected, _, plain = trained(double_backend(), **changes)
    assert plain.capture == "eager: a test asks for it"
    found, states, finished = trained(backend, **changes)
    assert found == expected
    np.testing.assert_array_equal(finished.model.params, plain.model.params)
    assert finished.capture.startswith("graph of ")
    return found, states, finished


CASES = {
    **{f"{name}-full": {"optimizer": name} for name in (*UPDATES, "lbfgs")},
    **{f"{name}-ragged": {"optimizer": name, "batch": 7} for name in UPDATES if name not in FULL_BATCH},
    **{
        f"schedule {name}": {"batch": 7, "schedule": name, "learning_rate": 0.05, "n_iter_no_change": 1, "tol": 0.5}
        for name in SCHEDULES
    },
    "warm-up": {"batch": 13, "schedule": "one_cycle", "warmup": 2},
    "in file order": {"batch": 7, "shuffle": False},
    "whole batches": {"batch": 10},
    "one sample a batch": {"batch": 1, "epochs": 2},
    "regularised": {"batch": 7, "alpha": 6.0, "gradient_clip": 0.5, "dropout": 0.3},
    "regularised, full": {"alpha": 6.0, "gradient_clip": 0.5, "dropout": (0.3, 0.1)},
    "lbfgs, regularised": {"optimizer": "lbfgs", "alpha": 6.0},
    "weighted": {"batch": 7, "sample_weight": np.linspace(0, 2, SAMPLES)},
    "weighted, full": {"sample_weight": np.linspace(0, 2, SAMPLES), "alpha": 1.0},
    "early stopping": {"batch": 7, "early_stopping": True, "n_iter_no_change": 1, "tol": 0.3, "epochs": 9},
    "tiles": {"tile": 17, "dropout": 0.2},
    "tiles of a batch": {"tile": 11, "batch": 33, "sample_weight": np.linspace(0, 2, SAMPLES)},
    "pixels": {"data": samples(stored="uint8"), "batch": 7},
    "float64": {"dtype": "float64", "batch": 7},
    "sigmoid": {"output": "sigmoid", "activation": "sigmoid"},
    "regression": {"output": "identity", "batch": 7},
    "no hidden layer": {"hidden": (), "batch": 7},
}


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_recorded_steps_equal_called_ones_bit_for_bit(changes, recording, monkeypatch):
    changes = dict(changes)
    monkeypatch.setattr(plan_gpu, "GPU_TILE_ROWS", changes.pop("tile", plan_gpu.GPU_TILE_ROWS))
    same(monkeypatch, recording, **changes)


@pytest.mark.parametrize("seed", range(6))
def test_recorded_steps_of_random_networks_equal_called_ones_and_nearly_the_cpus(seed, recording, monkeypatch):
    random = np.random.default_rng(seed)
    hidden = tuple(int(n) for n in random.integers(1, 20, random.integers(0, 4)))
    batch = [int(random.integers(1, SAMPLES)), "full"][seed % 2]
    found, _, finished = same(
        monkeypatch, recording, hidden=hidden, batch=batch, seed=seed, activation=["tanh", "relu", "sigmoid"][seed % 3],
        epochs=3, dtype="float64",
    )  # fmt: skip
    expected, _, on_cpu = trained("cpu", hidden=hidden, batch=batch, seed=seed, epochs=3, dtype="float64",
                                  activation=["tanh", "relu", "sigmoid"][seed % 3])  # fmt: skip
    np.testing.assert_allclose(finished.model.params, on_cpu.model.params, rtol=0, atol=1e-11)
    assert [row[2] for row in found] == [row[2] for row in expected]


@pytest.mark.parametrize(
    ("batch", "precision"),
    [
        ("full", "float16"),
        (7, "bfloat16"),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in [("full", "tf32"), ("full", "bfloat16")]),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in [(7, "tf32"), (7, "float16")]),
    ],
)
def test_recorded_steps_of_every_precision_equal_called_ones_and_are_near_float32(precision, batch, monkeypatch):
    recording = double_backend(monkeypatch, WHOLE + HALVES)
    changes = {"data": samples(stored="uint8"), "batch": batch, "epochs": 20, "learning_rate": 0.02}
    _, _, finished = same(monkeypatch, recording, precision=precision, **changes)
    exact = trained("cpu", **changes)[2]
    assert finished.model.params.dtype == np.float32
    assert finished.train.loss == pytest.approx(exact.train.loss, rel=2e-2)
    kinds = {call[-3:] for call in recording.xp.cublas.calls}
    if precision == "tf32":
        assert kinds == {("float32", "float32", 77)}
    else:
        assert kinds == {(precision, precision, 68), (precision, "float32", 68)}


@pytest.mark.parametrize("changes", [{"batch": 7, "dropout": 0.3}, {"optimizer": "lbfgs"}, {"schedule": "cosine"}])
def test_going_on_equals_never_having_stopped(changes, recording, monkeypatch):
    whole, states, finished = same(monkeypatch, recording, epochs=5, **changes)
    for at, state in enumerate(states[:-1], 1):
        rest, _, again = trained(recording, epochs=5, start=state, **changes)
        assert rest == whole[at:]
        np.testing.assert_array_equal(again.model.params, finished.model.params)


def test_a_state_goes_from_the_gpu_to_the_cpu_and_back(recording):
    changes = {"batch": 7, "dtype": "float64", "epochs": 4}
    whole, states, _ = trained(recording, **changes)
    rest, others, _ = trained("cpu", start=states[0], **changes)
    np.testing.assert_allclose([r[0] for r in rest], [r[0] for r in whole[1:]], rtol=1e-12)
    back, _, _ = trained(recording, start=others[0], **changes)
    np.testing.assert_allclose([r[0] for r in back], [r[0] for r in whole[2:]], rtol=1e-12)


def launches(backend, **changes):
    """For each epoch: (kernels and products, graph launches, uploads, allocations, synchronisations of the host)."""
    xp, seen = backend.xp, []
    for _ in fcgpu.train(samples(), device=backend, hidden=(7, 4), epochs=6, **changes):
        counts = xp.streams.counts
        seen.append(
            (
                sum(xp.launches.values()) + len(xp.cublas.calls), counts["graph launches"], xp.uploads, xp.allocations,
                xp.synchronisations + counts["synchronisations"],
            )
        )  # fmt: skip
    return [tuple(b - a for a, b in itertools.pairwise(column)) for column in zip(*seen[:-2], strict=True)]


@pytest.mark.parametrize(
    "changes", [{}, {"alpha": 1.0}, {"dropout": 0.3}, {"gradient_clip": 0.5}, {"optimizer": "rprop"}]
)
def test_an_epoch_of_full_batches_is_one_launch(changes, recording):
    kernels, graphs, uploads, allocations, waits = launches(recording, **changes)
    assert graphs == (0, 1, 1, 1, 1)
    assert kernels[2:] == uploads[1:4] == (0, 0, 0)
    assert allocations[1:] == (0,) * 4
    assert waits == (0,) * 5


@pytest.mark.parametrize("changes", [{}, {"alpha": 1.0, "dropout": 0.3, "gradient_clip": 0.5}])
def test_an_epoch_of_mini_batches_is_two_launches_and_its_order(changes, recording):
    kernels, graphs, uploads, allocations, waits = launches(recording, batch=7, **changes)
    # A graph of the eight full batches, one of the last batch; epoch 1 begins eagerly, with a graph of the other seven.
    assert graphs == (1, 2, 2, 2, 2)
    assert kernels[2:] == (0, 0, 0)
    assert uploads[1:4] == (1, 1, 1)
    assert allocations[1:] == (0,) * 4
    assert waits == (0,) * 5


def test_called_steps_allocate_and_wait_for_nothing_either(monkeypatch):
    monkeypatch.setattr(capture, "why_eager", lambda backend: "a test asks for it")
    for changes in ({}, {"batch": 7, "alpha": 1.0, "dropout": 0.3, "gradient_clip": 0.5}, {"optimizer": "rprop"}):
        _, graphs, _, allocations, waits = launches(double_backend(), **changes)
        assert allocations[1:] == waits[1:] == graphs[1:] == (0,) * 4


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 15),  # three layers: 3 + 5 products, 2 + 2 activations, the loss, the turn, the update
        ({"batch": 10}, 16),  # and the kernel that gathers the samples
        ({"alpha": 1.0}, 16),
        ({"gradient_clip": 1.0}, 17),
        ({"dropout": 0.1}, 19),
        ({"precision": "float16"}, 16),
        ({"optimizer": "lbfgs"}, 14),
    ],
)
def test_the_launches_of_a_step(changes, expected, monkeypatch):
    recording = double_backend(monkeypatch, WHOLE + HALVES)
    trained(recording, samples(stored="uint8"), epochs=2, **changes)
    found = recording.xp.streams.lengths  # of the graphs, in the order of their capture
    assert found == ([expected] if "batch" not in changes else [5 * expected, 6 * expected])


def test_many_steps_are_few_graphs(recording, monkeypatch):
    monkeypatch.setattr(capture, "GRAPH", 16)
    _, _, finished = same(monkeypatch, recording, batch=1, epochs=3)
    assert finished.capture == "graph of 15 steps"
    assert set(recording.xp.streams.counts) >= {"graphs"}
    # 60 steps: one eager and 59 replayed as 3 * 15 + 14, then twice 4 * 15
    assert recording.xp.streams.counts["graphs"] == 2
    assert recording.xp.streams.counts["graph launches"] == 3 * 4


def test_it_is_said_why_steps_are_not_recorded(monkeypatch):
    backend = double_backend(monkeypatch)
    monkeypatch.setitem(sys.modules, "nvmath", None)
    assert 'nvmath-python is not installed: pip install "fcgpu[cuda12]"' in capture.why_eager(backend)
    assert trained(backend)[2].capture.startswith("eager: nvmath-python is not installed")


def test_an_old_cupy_is_not_recorded(recording):
    recording.xp.__version__ = "13.6.0"
    assert "CuPy 13.6.0 is older than 14" in capture.why_eager(recording)


def test_a_cublas_that_does_not_start_falls_back_to_cupys(recording, monkeypatch):
    def create():
        raise RuntimeError("CUBLAS_STATUS_NOT_INITIALIZED")

    monkeypatch.setattr(sys.modules["nvmath.bindings.cublas"], "create", create)
    _, _, finished = trained(recording)
    assert finished.capture == (
        "eager: cuBLAS does not start through nvmath-python (RuntimeError: CUBLAS_STATUS_NOT_INITIALIZED)"
    )


def test_a_capture_that_fails_falls_back_to_eager_steps(recording, monkeypatch):
    expected = trained(double_backend())[0]

    def refuse(self, mode=None):
        raise RuntimeError("cudaErrorStreamCaptureUnsupported")

    monkeypatch.setattr("stream_double.Stream.begin_capture", refuse)
    found, _, finished = trained(recording)
    assert found == expected
    assert "a graph cannot be recorded (RuntimeError: cudaErrorStreamCaptureUnsupported)" in finished.capture


@pytest.mark.parametrize("name", ["load", "end_step"])
def test_a_capture_that_fails_beside_the_graph_falls_back_too_and_its_cause_is_said(name, recording, monkeypatch):
    expected, launch = trained(double_backend(), batch=7)[0], getattr(device, name)

    def refuse(*arguments, **options):
        if recording.xp.streams.current.branch_of is not None:
            raise RuntimeError("refused")
        launch(*arguments, **options)

    monkeypatch.setattr(device, name, refuse)
    found, _, finished = trained(recording, batch=7)
    assert found == expected
    assert finished.capture == "eager: a graph cannot be recorded (RuntimeError: refused)"


def test_what_a_graph_cannot_hold_is_refused(recording):
    xp = recording.xp
    with (made := Capture(recording)).on_stream():
        device, pinned = xp.zeros((2,)), np.zeros(2)
        steps = {
            "an allocation": lambda: device + 1,
            "another allocation": lambda: xp.zeros((2,)),
            "an upload": lambda: device.set(pinned),
            "a fetch": device.get,
            "a wait": made.stream.synchronize,
            "CuPy's product": lambda: xp.matmul(xp.zeros((2, 2)), xp.zeros((2, 2)), out=xp.zeros((2, 2))),
        }
        for what, step in steps.items():
            with pytest.raises((Recording, NotImplementedError)):
                recorded(made.stream, step, 1)
            made.why = ""
            runner = Steps(lambda i, n, step=step: step(), made, 1)
            runner.run(2)  # the second run would be captured, but is eager
            assert made.why.startswith("a graph cannot be recorded"), what
        with pytest.raises(Recording):
            recorded(made.stream, partial(sys.modules["nvmath.bindings.cublas"].destroy, made.products.handle()), 1)


def test_the_handle_of_another_threads_run_ends_behind_the_recording(recording):
    made, other = Capture(recording), Capture(recording)
    handle, handles = other.products.handle(), recording.xp.cublas._handles
    thread = Thread(target=lambda: delattr(other, "products"))

    def step():
        thread.start()
        thread.join(0.2)
        assert handle in handles

    with made.on_stream():
        recorded(made.stream, step, 1)
    thread.join()
    assert handle not in handles


@pytest.mark.parametrize("before", [True, False])
def test_no_garbage_is_collected_while_steps_are_recorded(before, recording):
    """Garbage may hold a finished run's handle; the double refuses a capture during which it could be collected."""
    seen, (made, was) = [], (Capture(recording), gc.isenabled())
    fails = partial(divmod, 1, 0)
    try:
        (gc.enable if before else gc.disable)()
        with made.on_stream():
            recorded(made.stream, lambda: seen.append(gc.isenabled()), 2)
            assert gc.isenabled() == before
            with pytest.raises(ZeroDivisionError):
                recorded(made.stream, fails, 1)
            assert gc.isenabled() == before
    finally:
        (gc.enable if was else gc.disable)()
    assert seen == [False, False]


def test_a_graph_without_its_memory_is_found_out(recording):
    """The double reports freed memory; a run keeps all of its graph's memory alive."""
    xp = recording.xp
    with (made := Capture(recording)).on_stream():
        array, other = xp.zeros((2,)), xp.zeros((2,))
        graph = recorded(made.stream, partial(xp.multiply, other, array, out=other), 1)
        del array
        gc.collect()
        graph.launch()
        with pytest.raises(RuntimeError, match="memory that was freed"):
            made.stream.synchronize()
        made.stream.queue.clear()
        made.stream.done = 0


def test_pinned_memory_is_overwritten_when_it_has_been_read(recording):
    xp = recording.xp
    upload, stream = Upload(xp, (3,), np.int64), xp.cuda.Stream(non_blocking=True)
    seen = [xp.zeros((3,), dtype=np.int64) for _ in range(5)]
    with stream:
        for i, array in enumerate(seen):
            upload.send([i, i])
            array[...] = upload.array
    stream.synchronize()
    assert [a.tolist() for a in seen] == [[i, i, 0] for i in range(5)]


def test_streams_wait_for_one_another(recording):
    """Work outside a run's stream is visible inside, and the reverse; without the events the double runs too late."""
    xp, made = recording.xp, Capture(recording)
    array = xp.zeros((1,))
    with made.on_stream():
        array += 1
    assert array.tolist() == [1]
    with made.stream:
        array += 1
    assert array.tolist() == [1]
    made.stream.synchronize()
    assert array.tolist() == [2]


def test_the_callers_own_stream_is_waited_for_too(recording):
    xp, made, callers = recording.xp, Capture(recording), recording.xp.cuda.Stream(non_blocking=True)
    array = xp.zeros((1,))
    with callers:
        array += 1
        with made.on_stream():
            array *= 10
            assert array.tolist() == [10]
        array += 5
        assert array.tolist() == [15]


@pytest.mark.parametrize(("kind", "loss_scale"), [("softmax", 256), ("identity", 1)])
@pytest.mark.parametrize("batch", [60, 7])
def test_in_float16_gradients_are_multiplied_by_the_batch_size_and_more(kind, loss_scale, batch, monkeypatch):
    """The products for dW divide by it again; those of the first layer multiply by the pixels' scale."""
    recording = double_backend(monkeypatch, WHOLE + HALVES)
    trained(recording, samples(stored="uint8"), precision="float16", output=kind, batch=batch, epochs=1, hidden=(7,))
    found = {call[8] for call in recording.xp.cublas.calls if call[11] == "float32" and call[1] == 1}  # alpha of dW
    sizes = {batch, SAMPLES % batch or batch}
    expected = {scale / (n * loss_scale) for n in sizes for scale in (1, 1 / 255)}
    assert sorted(found) == pytest.approx(sorted(expected), rel=1e-6)


@pytest.mark.parametrize("sizes", [(3, 2), (7, 8, 9), (784, 128, 64, 10), (1, 1, 1)])
def test_parameters_go_into_the_padded_vector_and_back(sizes):
    spec, random = Spec(sizes, output="sigmoid"), np.random.default_rng(0)
    layout = Padded(spec)
    for lead in ((), (3,)):
        packed = random.random((*lead, spec.n_params)).astype(np.float32)
        padded = layout.padded(packed)
        assert padded.shape == (*lead, layout.size)
        np.testing.assert_array_equal(layout.packed(padded), packed)
        assert padded.sum(dtype=float) == pytest.approx(packed.sum(dtype=float))  # the padding is 0
        for M, (W, b) in zip(layout.matrices(padded), spec.layers(packed), strict=True):
            n_in, n_out = W.shape[-2:]
            assert M.shape[-2] % 8 == M.shape[-1] % 8 == 0
            np.testing.assert_array_equal(M[..., :n_in, :n_out], W)
            np.testing.assert_array_equal(M[..., n_in, :n_out], b[..., 0, :])


@pytest.mark.parametrize("changes", [{}, {"optimizer": "rprop"}, {"alpha": 6.0, "gradient_clip": 0.5}])
def test_what_is_padded_stays_zero(changes, recording):
    made = []
    for event in fcgpu.train(samples(), device=recording, hidden=(7, 4), epochs=4, learning_rate=0.05, **changes):
        if isinstance(event, fcgpu.EpochEnded):
            gpu = event._state.func.__self__.steps
            made = [gpu.params, gpu.gradient, *(s for s in gpu.rule.state[:1])]  # rprop's steps need not be 0
    for vector in made:
        host = vector.get()
        np.testing.assert_array_equal(gpu.layout.padded(gpu.layout.packed(host)), host)
        assert host.any()


@pytest.mark.parametrize(
    ("changes", "capability", "words"),
    [
        ({"precision": "tf32"}, "75", "needs a GPU of compute capability 8.0"),
        ({"precision": "bfloat16"}, "70", "and this one has 7.0: use precision='float16' or 'float32'"),
        ({"precision": "float16", "dtype": "float64"}, "90", "is for dtype='float32'"),
        ({"precision": "float16", "optimizer": "lbfgs"}, "90", "is not for optimizer='lbfgs'"),
        ({"precision": "half"}, "90", "expected one of float32, tf32, float16, bfloat16"),
    ],
)
def test_a_precision_that_cannot_be_is_refused(changes, capability, words, recording):
    recording.xp.compute_capability = capability
    with pytest.raises(fcgpu.ConfigError, match=words):
        trained(recording, **changes)


def test_a_precision_on_the_cpu_is_refused():
    with pytest.raises(fcgpu.ConfigError, match=r"precision='tf32' is for a GPU, and this run is on the CPU"):
        trained("cpu", precision="tf32")


@pytest.mark.parametrize("installed", [True, False])
def test_the_command_line_says_how_steps_are_run(installed, monkeypatch, capsys, tmp_path):
    backend = double_backend(monkeypatch)
    if not installed:
        monkeypatch.setitem(sys.modules, "nvmath", None)
    monkeypatch.setattr("fcgpu.backend._gpu", lambda number, reason: backend)
    assert main(["info", "--device", "cuda", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)["capture"]
    assert said == ("CUDA graphs" if installed else f"nvmath-python is not installed: {INSTALL}")
    assert main(["info", "--device", "cuda"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert ("recorded in CUDA graphs" if installed else "eager: nvmath-python is not installed") in shown
    data = samples()
    np.save(tmp_path / "data.npy", np.column_stack([data.y, data.X]))
    words = ["train", str(tmp_path / "data.npy"), "--epochs", "3", "--device", "cuda", "--precision", "tf32"]
    assert main([*words, "--out", str(tmp_path / "run"), "--json", "--quiet"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["precision"] == "tf32"
    assert result["capture"] == ("graph of 1 step" if installed else f"eager: {said}")
    assert main([*words, "--out", str(tmp_path / "shown")]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert ("tf32, graph of 1 step" if installed else "tf32, eager: nvmath-python is not installed") in shown


def test_on_the_cpu_nothing_is_said_of_graphs(capsys, tmp_path):
    assert trained("cpu", epochs=1)[2].capture == ""
    assert main(["info", "--device", "cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["capture"] is None


def test_a_branch_runs_beside_the_graph_and_is_over_before_what_follows_the_join(monkeypatch):
    """What a branch reads must be there before it begins, and nobody may read what it writes before the join."""
    backend = double_backend(monkeypatch)
    xp, made = backend.xp, capture.Capture(backend, tf32=False)
    x, y, early, late = (xp.zeros((1,), dtype=np.float32) for _ in range(4))

    def step():
        xp.subtract(x, -1, out=x)
        with made.beside():
            xp.multiply(x, 10, out=y)
        early[...] = y
        made.join()
        late[...] = y

    with made.on_stream():
        step()
        graph = capture.recorded(made.stream, step, 2)
        graph.launch()
    assert xp.streams.lengths == [8]
    assert [float(a.get()[0]) for a in (x, y, early, late)] == [3, 30, 20, 30]


def test_a_branch_that_is_not_joined_is_refused(monkeypatch):
    backend = double_backend(monkeypatch)
    xp, made = backend.xp, capture.Capture(backend, tf32=False)
    x = xp.zeros((1,), dtype=np.float32)

    def step():
        with made.beside():
            xp.multiply(x, 2, out=x)

    with made.on_stream(), pytest.raises(RuntimeError, match="Unjoined"):
        capture.recorded(made.stream, step, 1)
