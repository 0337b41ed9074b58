"""A resumed run equals an uninterrupted one: every combination of a recipe's keys, stopped at each of 6 epochs."""

import contextlib
import itertools

import numpy as np
import pytest
from command import overwrite

import fcgpu
from fcgpu.formats import atomic, sealed
from fcgpu.optim import FULL_BATCH, OPTIMIZERS
from fcgpu.optim.schedules import SCHEDULES
from fcgpu.train.checkpoint import Checkpoint, check_cut, check_data, cut_of, fingerprint, load, save
from fcgpu.train.plan import Plan
from fcgpu.train.state import State

EPOCHS = 6
random = np.random.default_rng(3)
DATA = fcgpu.dataset(random.standard_normal((40, 5)), random.integers(0, 3, 40))


def cells(optimizer):
    """Every valid and distinct recipe of the optimizer."""
    schedules = [""] if optimizer in FULL_BATCH else SCHEDULES
    for schedule, batch, dropout, shuffle, early_stopping in itertools.product(
        schedules, ("full", 12), ((), (0.3,)), (True, False), (True, False)
    ):
        if optimizer in FULL_BATCH and (batch != "full" or dropout):
            continue
        if batch == "full" and not shuffle:  # the same as with shuffling
            continue
        yield fcgpu.Recipe(
            optimizer=optimizer, schedule=schedule, batch=batch, dropout=dropout, shuffle=shuffle,
            early_stopping=early_stopping, validation_fraction=0.2, n_iter_no_change=1, tol=0.02, step_size=2,
            hidden=(6, 4), learning_rate=0.05, warmup=1 if optimizer not in FULL_BATCH else 0, epochs=EPOCHS,
        )  # fmt: skip


def told(event):
    return event.epoch, event.step, event.loss, event.penalty, event.accuracy, event.learning_rate, event.monitored


def run(recipe, start=None):
    """Each epoch's values, the state after each epoch, and the final result."""
    epochs, states = [], []
    for event in fcgpu.train(DATA, recipe, device="cpu", threads=1, start=start):
        if isinstance(event, fcgpu.EpochEnded):
            epochs.append(told(event))
            states.append(event.state())
    end = event.epochs, event.steps, event.stopped, event.model.params.tobytes()
    return epochs, states, end


# The quick tests use optimizers with different kinds of state; the slow tests use the others.
SHORT = ("adam", "lbfgs", "rprop")


@pytest.mark.parametrize(
    "optimizer", [pytest.param(name, marks=() if name in SHORT else pytest.mark.slow) for name in OPTIMIZERS]
)
def test_going_on_equals_never_having_stopped(optimizer, tmp_path, monkeypatch):
    monkeypatch.setattr(atomic.os, "fsync", lambda descriptor: None)  # for speed
    stops = early = 0
    path = tmp_path / "c"
    for recipe in cells(optimizer):
        epochs, states, end = run(recipe)
        early += len(epochs) < EPOCHS
        for stopped, state in enumerate(states, 1):
            save(Checkpoint(state, recipe, fingerprint(DATA), {}, 0.0), path)
            went_on, _, same = run(recipe, start=load(path).state)
            assert (went_on, same) == (epochs[stopped:], end), (recipe, stopped)
            stops += 1
    print(f"{optimizer}: {stops} stops, 0 differing bits; {early} runs stopped early")
    assert stops >= 2 * 3


@pytest.mark.parametrize("optimizer", ["gradient_descent", "adam", "lbfgs"])
def test_a_checkpoint_holds_the_state_to_the_bit(optimizer, tmp_path):
    recipe = next(cells(optimizer))
    states = run(recipe)[1]
    save(Checkpoint(states[1], recipe, fingerprint(DATA), {"tile": 4, "lanes": 2}, 0.5), tmp_path / "c")
    found = load(tmp_path / "c")
    assert (found.recipe, found.cut, found.score) == (recipe, {"tile": 4, "lanes": 2}, 0.5)
    for name, value in vars(states[1]).items():
        other = getattr(found.state, name)
        if name == "rule":
            assert {k: np.asarray(v).tobytes() for k, v in value.items()} == {
                k: np.asarray(v).tobytes() for k, v in other.items()
            }
        elif isinstance(value, np.ndarray):
            assert value.tobytes() == other.tobytes()
        else:
            assert value == other, name


def test_every_single_bit_flip_of_a_checkpoint_is_detected(tmp_path):
    recipe = fcgpu.Recipe(optimizer="gradient_descent", hidden=(), epochs=2, batch=12)
    path = tmp_path / "c"
    save(Checkpoint(run(recipe)[1][0], recipe, fingerprint(DATA), {}, 0.5), path)
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        overwrite(path, whole[: bit // 8] + bytes([whole[bit // 8] ^ 1 << bit % 8]) + whole[bit // 8 + 1 :])
        try:  # pytest.raises would take ten times as long as the reader
            load(path)
        except fcgpu.CheckpointError:
            continue
        pytest.fail(f"bit {bit} was flipped unseen")
    print(f"{8 * len(whole)} bits flipped, {8 * len(whole)} detected")


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": -1}, {"epochs": EPOCHS + 1}, {"steps": 0.5}, {"drops": 2**53}, {"halvings": True}, {"seconds": -1.0},
        {"seconds": np.inf}, {"seconds": "1"}, {"score": None}, {"score": True}, {"stopped": None}, {"order": {}},
        {"data": {}}, {"data": dict.fromkeys(("X", "y", "classes", "scale"), 1)}, {"cut": 1},
        {"patience": {"tol": 0.1, "patience": "1"}}, {"patience": {"none": 1}}, {"recipe": "epochs = 0"},
        {"recipe": 'epochs = 6\ndtype = "float64"'},
    ],
    ids=str,
)  # fmt: skip
def test_a_state_that_no_run_has_is_refused_whoever_sealed_it(tmp_path, change):
    path = stopped(tmp_path)
    about, tensors = sealed.read(path, "checkpoint")
    sealed.write(path, about | change, tensors)
    with pytest.raises(fcgpu.CheckpointError, match="do not match"):
        load(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: {"params": t["params"].reshape(2, -1)},
        lambda t: {"params": t["params"].astype(np.float64)},
        lambda t: t | {"best": t["best"][:-1]},
        lambda t: t | {"best": t["best"].astype(np.float64)},
    ],
)
def test_arrays_that_no_run_has_are_refused_whoever_sealed_them(tmp_path, change):
    path = stopped(tmp_path)
    about, tensors = sealed.read(path, "checkpoint")
    sealed.write(path, about, change(tensors))
    with pytest.raises(fcgpu.CheckpointError, match="do not match"):
        load(path)


def stopped(folder):
    """The checkpoint of a run with early stopping, which loads."""
    recipe = fcgpu.Recipe(early_stopping=True, hidden=(), epochs=EPOCHS)
    save(Checkpoint(run(recipe)[1][0], recipe, fingerprint(DATA), {}, 0.5), folder / "c")
    load(folder / "c")
    return folder / "c"


def test_a_checkpoint_of_another_format_says_which_version_reads_it(tmp_path):
    path = tmp_path / "c"
    sealed.write(path, {"format": 3, "fcgpu_version": "9.1"}, {})
    with pytest.raises(fcgpu.CheckpointError, match=r"c: format 3 of fcgpu 9\.1; .* reads format 2: resume with"):
        load(path)


def test_halved_learning_rates_are_halves():
    recipe = fcgpu.Recipe(schedule="cosine", epochs=4, hidden=())
    epochs, states, _ = run(recipe)
    start = states[0].__class__(**(vars(states[0]) | {"halvings": 3}))
    assert [e[5] * 8 for e in run(recipe, start)[0]] == [e[5] for e in epochs[1:]]


@pytest.mark.parametrize(
    ("changes", "what"),
    [({"X": DATA.X + 1}, "X of"), ({"y": 2 - DATA.y}, "y of"), ({"classes": (0, 1, 5)}, "classes of"),
     ({"scale": 0.5}, "scale of"), ({"X": DATA.X.astype("f4")}, r"X of other is float32 40x5 \w+, was float64 40x5")],
)  # fmt: skip
def test_other_data_are_refused_with_what_differs(changes, what):
    there = Checkpoint(State(None), fcgpu.Recipe(), fingerprint(DATA), {}, 0.0)
    check_data("run", there, DATA)
    other = fcgpu.Dataset(**(vars(DATA) | {"name": "other"} | changes))
    with pytest.raises(fcgpu.CheckpointError, match=f"run: other data than the run's: {what}"):
        check_data("run", there, other)


@pytest.mark.parametrize("on_gpu", [False, True])
def test_another_cut_is_refused_where_it_changes_bits(on_gpu):
    cuts = [cut_of(Plan(40, 40, tile, 1, 1, 0, 0, 0), on_gpu) for tile in (8, 20)]
    there = Checkpoint(State(None), fcgpu.Recipe(), {}, cuts[0], 0.0)
    check_cut("run", there, cuts[0])
    with contextlib.nullcontext() if on_gpu else pytest.raises(fcgpu.CheckpointError, match=r"tile 8, .* tile 20"):
        check_cut("run", there, cuts[1])


def test_a_run_may_go_on_from_a_gpu_on_the_cpu_and_back():
    on_cpu, on_gpu = (cut_of(Plan(40, 40, 8, 1, 1, 0, 0, 0), on_gpu) for on_gpu in (False, True))
    for was, now in ((on_cpu, on_gpu), (on_gpu, on_cpu)):
        check_cut("run", Checkpoint(State(None), fcgpu.Recipe(), {}, was, 0.0), now)


def test_the_threads_by_which_a_batch_in_c_is_cut_change_no_bit_and_are_not_looked_at():
    cuts = [cut_of(Plan(400, 400, tile, 1, 1, 0, 0, 0, in_c=True), on_gpu=False) for tile in (32, 25)]
    check_cut("run", Checkpoint(State(None), fcgpu.Recipe(), {}, cuts[0], 0.0), cuts[1])


def test_a_fingerprint_depends_on_values_and_not_on_how_they_lie_in_memory():
    other = fcgpu.Dataset(**(vars(DATA) | {"X": np.asfortranarray(DATA.X)}))
    assert fingerprint(other) == fingerprint(DATA)


@pytest.mark.parametrize("wrong", ["shape", "name"])
@pytest.mark.parametrize("optimizer", ["momentum", "lbfgs"])
def test_the_state_of_another_rule_is_refused(optimizer, wrong):
    state = run(fcgpu.Recipe(optimizer="rmsprop", hidden=(), epochs=1))[1][0]
    name = {"momentum": "v", "lbfgs": "history"}[optimizer] if wrong == "shape" else "w"
    assert state.optimizer == "rmsprop"
    with pytest.raises(fcgpu.CheckpointError, match="the state of optimizer='rmsprop'"):
        run(fcgpu.Recipe(optimizer=optimizer, hidden=(), epochs=2), state)
    state = state.__class__(**(vars(state) | {"rule": {name: state.rule["v"][1:]}, "optimizer": ""}))
    with pytest.raises(fcgpu.CheckpointError, match="has shape"):
        run(fcgpu.Recipe(optimizer=optimizer, hidden=(), epochs=2), state)
