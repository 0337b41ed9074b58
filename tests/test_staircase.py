"""The staircase order, which skips zeros: its properties, and that a run with it is the same run."""

from importlib import import_module

import numpy as np
import pytest

import fcgpu
from fcgpu.backend import choose
from fcgpu.optim import FULL_BATCH, OPTIMIZERS
from fcgpu.params import initial
from fcgpu.train.staircase import EPOCHS

NAMES = ("loop", "plan", "plan_c", "samples", "staircase")
loop, plan, plan_c, samples, staircase = (import_module(f"fcgpu.train.{name}") for name in NAMES)


def sparse(n=300, n_features=40, dtype=np.uint8, seed=0):
    """Increasingly rare features, the last in no sample; one sample has no feature at all."""
    random = np.random.default_rng(seed)
    X = random.integers(1, 256, (n, n_features)) * (random.random((n, n_features)) < 0.6 * 0.8 ** np.arange(n_features))
    X[0] = 0
    X = X[:, random.permutation(n_features)]
    return fcgpu.dataset(X.astype(dtype), (X.sum(axis=1) > np.median(X.sum(axis=1))).astype(int), scale=1 / 255)


def steps_of(X, batch):
    data = sparse()
    spec = loop.fit_to(fcgpu.Recipe(), data)[0]
    cut = plan.plan(spec, (X, data.y), fcgpu.Recipe(batch=batch), choose("cpu"), threads=2)
    return staircase.staircase(X, cut, EPOCHS, drawn=batch != "full")


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_all_that_is_not_zero_is_below_the_stairs(dtype):
    X = sparse(dtype=dtype).X
    stairs = steps_of(X, "full")
    inner = stairs.copy(2)
    assert (np.sort(stairs.samples) == np.arange(300)).all()
    assert (np.sort(stairs.features) == np.arange(40)).all()
    assert (np.diff(stairs.widths) <= 0).all()
    assert inner.dtype == dtype
    assert inner.shape[1] == stairs.widths[0] < 40
    assert inner.nbytes == stairs.nbytes
    for row, width in zip(inner, stairs.widths, strict=True):
        last = max(1, np.flatnonzero(row).max(initial=-1) + 1)
        assert width == min(40, -(-last // staircase.STEP) * staircase.STEP)
    outer = np.zeros_like(X)
    outer[np.ix_(stairs.samples, stairs.features[: inner.shape[1]])] = inner
    assert (outer == X).all()
    part = slice(7, 90), slice(11)
    assert (stairs[part] == inner[part]).all()


def test_a_batch_is_sorted_and_holds_its_samples():
    stairs = steps_of(sparse().X, 64)
    order = np.random.default_rng(1).permutation(300)
    rows = stairs.batches(order, 64)
    for start in range(0, 300, 64):
        batch = rows[start : start + 64]
        assert (np.diff(batch) > 0).all()
        assert set(stairs.samples[batch]) == set(order[start : start + 64])


@pytest.mark.parametrize("X", [np.ones((300, 40)), np.eye(300, 20)], ids=["no zeros", "few features"])
def test_where_it_does_not_pay_there_is_none(X):
    assert steps_of(X, "full") is None


def trained(data, monkeypatch, *, stairs, **options):
    seen = []

    def noted(*args, **options):
        seen.append(staircase.staircase(*args, **options) if stairs else None)
        return seen[-1]

    monkeypatch.setattr(samples, "staircase", noted)
    monkeypatch.setattr(plan_c, "is_for", lambda *a: False)  # steps in C need no staircase
    *_, done = fcgpu.train(data, device="cpu", **options)
    assert (seen[0] is not None) == stairs
    return done.model.params


RATES = {"gradient_descent": 0.5, "momentum": 0.1, "nesterov": 0.1, "lbfgs": 0.01}


OPTIONS = ({}, {"alpha": 2.0}, {"dropout": (0.3,)}, {"early_stopping": True}, {"weights": True})
BATCHES = (("full", True), (64, True), (64, False))
RUNS = [  # every pair of an optimizer with options, and with a batch
    pytest.param(*BATCHES[at], options, optimizer, id=f"{BATCHES[at]}-{next(iter(options), 'plain')}-{optimizer}")
    for i, options in enumerate(OPTIONS)
    for j, optimizer in enumerate(OPTIMIZERS)
    for at in [0 if optimizer in FULL_BATCH else (i + j) % 3]
    if optimizer not in FULL_BATCH or "dropout" not in options
]


@pytest.mark.parametrize(("batch", "shuffle", "options", "optimizer"), RUNS)
def test_a_run_is_the_same_but_for_rounding(batch, shuffle, options, optimizer, monkeypatch):
    data = sparse()
    options = {key: value for key, value in options.items() if key != "weights"} | {
        "sample_weight": np.linspace(0.5, 2, 300) if "weights" in options else None,
        "hidden": (8,), "epochs": EPOCHS, "optimizer": optimizer, "batch": batch, "dtype": "float64",
        "shuffle": shuffle, "learning_rate": RATES.get(optimizer, 0.01), "activation": "tanh",
    }  # fmt: skip
    there = trained(data, monkeypatch, stairs=True, **options)
    plain = trained(data, monkeypatch, stairs=False, **options)
    assert np.max(np.abs(there - plain)) < 1e-9
    assert np.max(np.abs(there - initial(loop.fit_to(fcgpu.Recipe(hidden=(8,)), data)[0], 0))) > 1e-3


def test_no_bit_depends_on_the_copy(monkeypatch):
    data, options = sparse(), {"hidden": (8,), "epochs": EPOCHS, "batch": 64}
    ample = trained(data, monkeypatch, stairs=True, **options)
    made = []
    monkeypatch.setattr(staircase.Staircase, "copy", lambda self, threads: made.append(1))
    spec, y = loop.fit_to(fcgpu.Recipe(hidden=(8,)), data)
    least = plan.plan(spec, (data.X, y), fcgpu.Recipe(batch=64), choose("cpu")).bytes
    short = trained(data, monkeypatch, stairs=True, memory_budget=least, **options)
    assert not made
    assert (short == ample).all()


def test_what_a_copy_was_made_of_is_let_go(monkeypatch):
    monkeypatch.setattr(plan_c, "is_for", lambda *a: False)  # steps in C need no staircase
    found, copy = [], staircase.Staircase.copy
    monkeypatch.setattr(staircase.Staircase, "copy", lambda self, threads: found.append(self) or copy(self, threads))
    next(fcgpu.train(sparse(), device="cpu", epochs=EPOCHS))
    assert [stairs.X for stairs in found] == [None]


@pytest.mark.parametrize("batch", ["full", 64])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_going_on_from_a_state_is_going_on(optimizer, batch, monkeypatch):
    if optimizer in FULL_BATCH and batch != "full":
        return
    monkeypatch.setattr(plan_c, "is_for", lambda *a: False)  # steps in C need no staircase
    options = {"hidden": (8,), "epochs": 6, "optimizer": optimizer, "early_stopping": True, "device": "cpu"}
    options |= {"batch": batch, "dropout": () if optimizer in FULL_BATCH else 0.2}
    for event in fcgpu.train(sparse(), **options):
        if isinstance(event, fcgpu.EpochEnded) and event.epoch == 3:
            state = event.state()
    done = event
    assert state.epochs == 3
    *_, again = fcgpu.train(sparse(), start=state, **options)
    assert (again.model.params == done.model.params).all()
