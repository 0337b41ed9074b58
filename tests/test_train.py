"""The loop and its contracts: bit-equal on any number of threads, planned memory, frozen events, clear errors."""

import dataclasses
import hashlib
import math
import threading
import time

import numpy as np
import pytest
from test_workers import blas_threads
from threadpoolctl import threadpool_info, threadpool_limits

import fcgpu
from fcgpu.kernels.losses import OUTPUTS
from fcgpu.optim import FULL_BATCH, OPTIMIZERS
from fcgpu.optim.first_order import FirstOrder
from fcgpu.optim.lbfgs import LBFGS
from fcgpu.optim.schedules import SCHEDULES, Position, warm_up
from fcgpu.train import plan_c
from fcgpu.train.plan import plan
from fcgpu.train.results import Results
from fcgpu.train.state import State
from fcgpu.train.stopping import Patience

CPU = fcgpu.choose("cpu")


def run(data, **changes):
    where = {key: changes.pop(key) for key in ("device", "threads", "memory_budget") if key in changes}
    *events, finished = fcgpu.train(data, **({"device": "cpu"} | where), **changes)
    return events, finished


def bits(finished):
    return hashlib.sha256(finished.model.params.tobytes()).hexdigest()


@pytest.mark.parametrize(
    ("optimizer", "batch"), [*((o, "full") for o in OPTIMIZERS), *((o, 32) for o in OPTIMIZERS if o not in FULL_BATCH)]
)
def test_every_optimizer_learns_the_blobs(blobs, optimizer, batch):
    rate = {"gradient_descent": 0.3, "momentum": 0.05, "nesterov": 0.05, "lbfgs": 0.01}.get(optimizer, 0.02)
    _, done = run(blobs, hidden=(8,), optimizer=optimizer, learning_rate=rate, batch=batch, epochs=60)
    assert done.test.accuracy >= 0.95
    if optimizer == "lbfgs":
        assert done.stopped
        assert done.samples % 150 == 0
    else:
        assert done.steps == 60 * (1 if batch == "full" else 5)
        assert done.samples == 60 * 150


def test_a_regression_finds_a_line():
    X = np.random.default_rng(0).standard_normal((200, 3))
    y = X @ [1.0, -2.0, 0.5] + 3.5 + 0.25
    _, done = run((X, y), hidden=(), output="identity", learning_rate=0.1, epochs=400, dtype="float64")
    W, b = done.model.spec.layers(done.model.params)[0]
    np.testing.assert_allclose(W[:, 0], [1, -2, 0.5], atol=1e-3)
    np.testing.assert_allclose(b, 3.75, atol=1e-3)
    assert done.train.accuracy is None
    np.testing.assert_allclose(done.model.predict(X), y, atol=1e-2)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("batch", ["full", 2048])
def test_equal_bits_with_1_2_and_5_threads(mnist, batch, dtype):
    part = dataclasses.replace(mnist, X=mnist.X[:12_000], y=mnist.y[:12_000], X_test=None, y_test=None)
    runs = [run(part, batch=batch, epochs=2, seed=7, dtype=dtype, threads=threads) for threads in (1, 2, 5, 2)]
    assert runs[0][0][0].plan.lanes > 1 or runs[0][0][0].plan.in_c
    assert len({bits(done) for _, done in runs}) == 1
    assert len({tuple(e.loss for e in events[1:]) for events, _ in runs}) == 1


def test_a_seed_means_one_run_and_another_seed_another(blobs):
    first, again, other = (run(blobs, batch=16, epochs=2, seed=seed)[1] for seed in (1, 1, 2))
    assert bits(first) == bits(again) != bits(other)


def test_batches_cover_the_data_once_an_epoch_in_a_new_order_or_in_file_order():
    X = np.eye(10)
    data = fcgpu.dataset(X, np.arange(10) % 2)
    common = {"hidden": (), "output": "sigmoid", "optimizer": "gradient_descent", "init": "zeros", "batch": 3}
    common |= {"schedule": "constant"}
    _, in_order = run(data, epochs=1, shuffle=False, learning_rate=1.0, dtype="float64", **common)
    W, b = in_order.model.spec.layers(in_order.model.params)[0]
    # Only sample i changes weight i, once: by (target - σ(bias so far)) / batch size.
    bias, expected = 0.0, []
    for start in range(0, 10, 3):
        batch = range(start, min(start + 3, 10))
        errors = [(i % 2) - 1 / (1 + math.exp(-bias)) for i in batch]
        expected += [error / len(batch) for error in errors]
        bias += sum(errors) / len(batch)
    np.testing.assert_allclose(W[:, 0], expected, rtol=1e-13)
    np.testing.assert_allclose(b[0, 0], bias, rtol=1e-12)
    _, shuffled = run(data, epochs=1, shuffle=True, learning_rate=1.0, dtype="float64", **common)
    W = shuffled.model.spec.layers(shuffled.model.params)[0].W
    assert (np.abs(W) > 0.1).all()
    assert not np.allclose(W[:, 0], expected)


def test_events_are_frozen_and_in_order(blobs):
    events, done = run(blobs, epochs=3, batch=50, learning_rate=0.5, schedule="step", step_size=1, gamma=0.5)
    assert [type(e).__name__ for e in events] == ["Started"] + ["EpochEnded"] * 3
    assert [e.epoch for e in events[1:]] == [1, 2, 3]
    assert [e.step for e in events[1:]] == [3, 6, 9]
    assert [e.samples for e in events[1:]] == [150, 300, 450]
    assert [e.learning_rate for e in events[1:]] == [0.5, 0.25, 0.125]
    assert events[1].cost == pytest.approx(150 * events[1].loss)
    for event in (*events, done):
        with pytest.raises(dataclasses.FrozenInstanceError):
            event.epoch = 5
    assert events[0].plan.steps_per_epoch == 3


def test_an_event_tells_its_own_epochs_loss_even_later(blobs):
    events = fcgpu.train(blobs, epochs=4, device="cpu")
    early = [(e, e.loss, e.accuracy) for e in events if isinstance(e, fcgpu.EpochEnded)]
    assert [(e.loss, e.accuracy) for e, *_ in early] == [tuple(values) for _, *values in early]
    assert len({loss for _, loss, _ in early}) == 4


def test_the_model_of_an_event_is_a_copy(blobs):
    models = [e.model() for e in fcgpu.train(blobs, epochs=3, device="cpu") if isinstance(e, fcgpu.EpochEnded)]
    assert not np.array_equal(models[0].params, models[1].params)
    assert not np.array_equal(models[1].params, models[2].params)


def test_the_loss_of_an_epoch_is_measured_before_its_update(blobs):
    _, done = run(blobs, epochs=1, dtype="float64")
    events, _ = run(blobs, epochs=2, dtype="float64")
    assert events[2].loss == pytest.approx(done.train.loss, rel=1e-12)
    assert events[2].accuracy == pytest.approx(done.train.accuracy)


def test_alpha_is_in_the_loss_and_shrinks_the_weights_not_the_biases(blobs):
    common = {"hidden": (4,), "optimizer": "gradient_descent", "epochs": 1, "dtype": "float64", "learning_rate": 0.1}
    (_, plain), first = run(blobs, **common)
    (_, pulled), second = run(blobs, alpha=0.2 * blobs.n_samples, **common)
    spec = first.model.spec
    start = spec.layers(fcgpu.params.initial(spec, 0))
    squares = sum((layer.W**2).sum() for layer in start)
    assert pulled.penalty == pytest.approx(0.1 * squares, rel=1e-12)
    assert pulled.loss == pytest.approx(plain.loss + 0.1 * squares, rel=1e-12)
    for begin, a, b in zip(start, spec.layers(first.model.params), spec.layers(second.model.params), strict=True):
        np.testing.assert_allclose(b.W, a.W - 0.1 * 0.2 * begin.W, rtol=0, atol=1e-14)
        np.testing.assert_allclose(b.b, a.b, rtol=0, atol=1e-14)


@pytest.mark.parametrize("in_c", [True, False])
def test_penalty_and_accuracy_are_of_the_network_that_lbfgs_keeps_not_of_its_last_trial(in_c, blobs, monkeypatch):
    if not in_c:
        monkeypatch.setattr(plan_c, "is_for", lambda *arguments: False)
    (_, event), done = run(blobs, hidden=(4,), optimizer="lbfgs", max_fun=2, alpha=20.0, dtype="float64")
    squares = sum((layer.W**2).sum() for layer in done.model.spec.layers(done.model.params))
    assert event.penalty == pytest.approx(20 / 2 * squares / 150, rel=1e-12)
    assert event.accuracy == done.train.accuracy


@pytest.mark.parametrize("batch", ["full", 16])
def test_divergence_names_the_epoch_the_rate_and_a_remedy(blobs, batch):
    big = fcgpu.dataset(1e6 * blobs.X, blobs.y)
    with pytest.raises(
        fcgpu.DivergenceError,
        match=r"in epoch \d+ with learning_rate=1e\+30: "
        r"try learning_rate=1e\+29, gradient_clip=1, or features of a smaller scale$",
    ):
        run(big, optimizer="gradient_descent", learning_rate=1e30, epochs=50, batch=batch)


def test_lbfgs_stops_by_the_runs_tol(blobs):
    stopped = run(blobs, optimizer="lbfgs", tol=5.0)[1].stopped
    assert stopped == "no entry of the gradient is above tol=5"  # the recipe's own name for it


def test_weights_are_of_the_runs_dtype(blobs):
    weights = np.random.default_rng(0).random(150)
    wide, narrow = (run(blobs, epochs=2, sample_weight=w)[1] for w in (weights, weights.astype(np.float32)))
    assert bits(wide) == bits(narrow)


WIDER = {"float32": ", or dtype='float64'", "float64": ""}  # what else an error tells to try


@pytest.mark.parametrize(("dtype", "large"), [("float32", 3e19), ("float64", 1e160)])
@pytest.mark.parametrize("optimizer", FULL_BATCH)
def test_optimizers_of_the_full_batch_have_no_clipping_to_try(optimizer, dtype, large):
    data, what = (np.array([[1.0], [2.0]]), np.array([large, 0.5])), "features and targets of a smaller scale"
    with pytest.raises(fcgpu.DivergenceError, match=f"in epoch 1: try {what}{WIDER[dtype]}$"):
        run(data, optimizer=optimizer, hidden=(), output="identity", dtype=dtype)


@pytest.mark.parametrize(("dtype", "large"), [("float32", 1e25), ("float64", 1e200)])
def test_an_infinite_gradient_at_the_start_of_lbfgs_needs_a_wider_type_if_there_is_one(dtype, large):
    data, what = (large * np.array([[1.0], [-1.0]]), large**0.7 * np.array([1.0, -1.0])), "features of a smaller scale"
    with pytest.raises(fcgpu.DivergenceError, match=f"an entry of its gradient inf: try {what}{WIDER[dtype]}$"):
        run(data, optimizer="lbfgs", hidden=(), output="identity", dtype=dtype, start=State(np.zeros(2)))


@pytest.mark.parametrize("clip", [0.0, 1.0])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_an_infinite_gradient_of_a_finite_loss_is_divergence(optimizer, clip):
    """A sum of products of 1e25 and 1e18 overflows float32; the loss, half the square of 1e18, does not."""
    if clip and optimizer in FULL_BATCH:
        return
    X, y = np.array([[1e25], [-1e25]]), np.array([[1e18, 5e17], [-1e18, 5e17]])
    changes = {"gradient_clip": clip} if clip else {}
    with pytest.raises(fcgpu.DivergenceError, match=r"in epoch [12].*: try "):
        run((X, y), optimizer=optimizer, hidden=(), output="identity", epochs=3, start=State(np.zeros(4)), **changes)


def test_no_bit_of_a_score_depends_on_blas_threads():
    random, n = np.random.default_rng(0), 100_000
    Z, y, weights = random.normal(size=(n, 2)), random.normal(size=(n, 2)), random.random(n)
    number, numbers = (fcgpu.Model(fcgpu.Spec((1, k), output="identity"), np.zeros(2 * k)) for k in (1, 2))
    labels = fcgpu.Model(fcgpu.Spec((1, 2), output="softmax"), np.zeros(4), classes=(0, 1))

    def scores(threads):
        with threadpool_limits(threads, user_api="blas"):
            of_numbers = [numbers.score_logits(Z, y), number.score_logits(Z[:, :1], y[:, 0], weights)]
            return *of_numbers, labels.score_logits(Z, (y[:, 0] > 0).astype(int), weights)

    assert scores(1) == scores(2) == scores(4)


def test_the_plan_does_not_depend_on_threads_and_uses_every_lane(mnist, monkeypatch):
    monkeypatch.setattr(plan_c, "is_for", lambda *a: False)
    spec = fcgpu.Spec((784, 128, 64, 10))
    plans = [
        plan(spec, (mnist.X, mnist.y), fcgpu.Recipe(batch=batch), CPU, threads=threads)
        for batch in ("full", 10, 128, 1024)
        for threads in (1, 2, 8)
    ]
    for three in (plans[i : i + 3] for i in range(0, 12, 3)):
        assert len({(p.tile, p.lanes) for p in three}) == 1
        assert [p.at_once for p in three] == [min(t, three[0].lanes) for t in (1, 2, 8)]
    assert [p.lanes for p in plans[::3]] == [16, 1, 1, 2]  # ten or 128 rows are not worth a second thread


def test_refusals_name_value_and_remedy(blobs):
    cases = [
        ({"lr": 1}, "did you mean 'learning_rate'"),
        ({"optimizer": "SGD"}, "did you mean 'gradient_descent'"),
    ]
    for changes, message in cases:
        with pytest.raises(fcgpu.ConfigError, match=message):
            run(blobs, **changes)
    with pytest.raises(fcgpu.DataError, match="at least two classes"):
        run((blobs.X, np.zeros(150, dtype=int)))
    with pytest.raises(
        fcgpu.DataError, match=r"in one column, not [^;]*; for real-valued targets use output='identity'$"
    ):
        run((blobs.X, np.linspace(0, 1, 150)))
    for wrong in (-0.5, 1.5):
        with pytest.raises(fcgpu.DataError, match="targets of several columns run from"):
            run((blobs.X, np.full((150, 2), wrong)), output="sigmoid")
    with pytest.raises(fcgpu.DataError, match="a target is -1; output='exp' needs counts of 0 or more"):
        run((blobs.X, np.full(150, -1.0)), output="exp")
    for fraction, held in ((0.001, 0), (0.999, 150)):
        with pytest.raises(fcgpu.ConfigError, match=f"validation_fraction={fraction} of 150 samples is {held}"):
            run(blobs, early_stopping=True, validation_fraction=fraction)
    shares = np.full((150, 3), 0.33)  # rounded
    run((blobs.X, shares), epochs=1)
    shares[7] = 1, 0, 1
    with pytest.raises(fcgpu.DataError, match=r"sample 7 add up to 2; .* use output='sigmoid'"):
        run((blobs.X, shares))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": "rely"}, "activation='rely' is not known; did you mean 'relu'"),
        ({"output": "relu"}, "output='relu' is not known; choose from"),
        ({"init": "hi"}, "init='hi' is not known"),
        ({"sizes": (3, 1)}, "use output='sigmoid'"),
        ({"sizes": (3,)}, r"sizes=\[3\]"),
        ({"sizes": (3, 0)}, r"sizes=\[3, 0\]"),
    ],
    ids=str,
)
def test_a_spec_of_no_network_is_refused(changes, message):
    with pytest.raises(fcgpu.ConfigError, match=message):
        fcgpu.Spec(**({"sizes": (3, 2)} | changes))
    assert fcgpu.Spec((1, 1), output="sigmoid").n_params == 2


def held_out(n):
    """(those that are left, those held out) of n samples, by the seed 0 and validation_fraction 0.1, as drawn."""
    draw = np.random.Generator(np.random.PCG64(np.random.SeedSequence(0).spawn(2)[1])).permutation(n)
    return draw[n // 10 :], draw[: n // 10]


def test_samples_keep_their_order_where_others_are_held_out(blobs):
    (started, _), _ = run(blobs, epochs=1, early_stopping=True)
    rest = np.sort(held_out(150)[0])
    np.testing.assert_array_equal(started.data.X, blobs.X[rest])
    np.testing.assert_array_equal(started.data.y, blobs.y[rest])


def test_samples_keep_their_ids_where_others_are_held_out(blobs):
    """Other ids of held-out samples change nothing; other ids of the training samples do."""
    options = {"hidden": (8,), "dropout": 0.5, "epochs": 2, "early_stopping": True}
    _, same = run(blobs, sample_ids=np.zeros(150), **options)
    for held in (True, False):
        ids = np.zeros(150)
        ids[held_out(150)[held]] = 7
        _, found = run(blobs, sample_ids=ids, **options)
        assert (bits(found) == bits(same)) == held


@pytest.mark.parametrize("output", OUTPUTS)
def test_prediction_in_tiles_equals_prediction_at_once(output, monkeypatch):
    random = np.random.default_rng(4)
    spec = fcgpu.Spec((5, 7, 3), "tanh", output)
    classes = (0, 1, 2) if OUTPUTS[output].classifies else None
    model = fcgpu.Model(spec, random.standard_normal(spec.n_params), classes)
    X = random.standard_normal((101, 5))
    monkeypatch.setattr("fcgpu.outputs.supports", lambda spec: False)  # the C has tiles of its own
    whole = model.predict_proba(X, threads=1)
    monkeypatch.setattr("fcgpu.outputs.TILE_BYTES", 1)
    for threads in (1, 3):
        np.testing.assert_allclose(model.predict_proba(X, threads=threads), whole, rtol=1e-13)


def test_predicting_on_other_features_is_refused():
    model = fcgpu.Model(fcgpu.Spec((3, 2)), np.zeros(8), (0, 1))
    with pytest.raises(fcgpu.DataError, match="X has 4 features, the model was trained with 3"):
        model.predict(np.zeros((2, 4)))
    with pytest.raises(fcgpu.ConfigError, match="device='gpu'"):
        model.score(np.zeros((2, 3)), [0, 1], device="gpu")
    for threads in (-1, 0, "2"):
        with pytest.raises(fcgpu.ConfigError, match=f"threads={threads!r}: expected a whole number of 1 or more"):
            model.predict(np.zeros((2, 3)), threads=threads)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("output", ["identity", "exp"])
def test_r2_is_that_of_scikit_learn(output, weighted):
    r2_score = pytest.importorskip("sklearn.metrics").r2_score
    random = np.random.default_rng(0)
    Z, weights = random.normal(size=(50, 3)), random.random(50) if weighted else None
    predicted = np.exp(Z) if output == "exp" else Z
    y = predicted + 0.3 * random.random((50, 3))
    y[:, 1] = 1  # constant, and not predicted
    y[:, 2] = predicted[:, 2]
    model = fcgpu.Model(fcgpu.Spec((2, 3), output=output), np.zeros(9))
    found = model.score_logits(Z, y, weights)
    expected = r2_score(y[:, [0, 2]], predicted[:, [0, 2]], sample_weight=weights)  # with weights 1 is not their mean
    assert found.r2 == pytest.approx((2 * expected + 0) / 3, rel=1e-12)
    assert found.accuracy is None
    one = fcgpu.Model(fcgpu.Spec((2, 1), output="identity"), np.zeros(3))
    assert one.score_logits(np.ones((4, 1)), np.ones(4)).r2 == 1
    assert one.score_logits(Z[:1, :1], y[:1, 0]).r2 is None
    with pytest.raises(fcgpu.DataError, match=r"shape \(50, 2\) don't match the model: expected \(50, 3\)"):
        model.score_logits(Z, y[:, :2])


@pytest.mark.parametrize(("first", "r2"), [(0.1, 1), (0.2, 0)])
def test_a_target_is_constant_where_those_that_differ_have_no_weight(first, r2):
    Z, y, weights = np.array([[first], [0.1], [0.3]]), np.array([0.1, 0.1, 2.0]), np.array([1.0, 3.0, 0.0])
    assert fcgpu.Model(fcgpu.Spec((2, 1), output="identity"), np.zeros(3)).score_logits(Z, y, weights).r2 == r2


@pytest.mark.parametrize(("output", "loss"), [("softmax", 0), ("sigmoid", 0), ("exp", math.inf)])
def test_a_score_does_not_depend_on_what_numpy_does_about_its_errors(output, loss):
    classes = (0, 1) if OUTPUTS[output].classifies else None
    model = fcgpu.Model(fcgpu.Spec((2, 2), output=output), np.array([1.0, 0, 0, 1, 0, 0]), classes)
    with np.errstate(all="raise"):
        y = np.eye(2) if classes is None else [0, 1]
        assert model.score([[1e4, -1e4], [-1e4, 1e4]], y).loss == loss


def test_schedules_by_hand():
    def factor(name, step, epoch=0, samples=0, drops=0, **options):
        return SCHEDULES[name].factor(Position(step, 100, epoch, samples, drops), **options)

    assert factor("constant", 50) == 1
    assert [factor("step", 0, epoch, step_size=2, gamma=0.1) for epoch in range(5)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01]
    )
    with pytest.raises(fcgpu.ConfigError, match=r"gamma=1e\+200 to the power 2 overflows"):
        factor("step", 0, 4, step_size=2, gamma=1e200)
    assert factor("cosine", 0) == 1
    assert factor("cosine", 50) == pytest.approx(0.5)
    assert factor("cosine", 99) == pytest.approx(0.5 * (1 + math.cos(0.99 * math.pi)))
    assert [factor("inverse_scaling", 7, samples=t, power_t=0.5) for t in (0, 3, 99)] == pytest.approx([1, 0.5, 0.1])
    assert [factor("one_cycle", t) for t in (0, 15, 30, 99)] == pytest.approx([0.04, 0.52, 1, 4e-6])
    assert factor("one_cycle", 30 + 69 / 2) == pytest.approx(0.5 * (1 + 4e-6))
    assert [factor("adaptive", 7, drops=d) for d in (0, 1, 2)] == pytest.approx([1, 0.2, 0.04])
    assert [warm_up(Position(t, 100, 0, 0, 0), 4) for t in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert warm_up(Position(0, 100, 0, 0, 0), 0) == 1


def test_a_start_from_other_batches_goes_on_with_its_epoch_in_the_schedule(blobs):
    def rates(**changes):
        return [e.learning_rate for e in fcgpu.train(blobs, device="cpu", **changes) if isinstance(e, fcgpu.EpochEnded)]

    state = next(e for e in fcgpu.train(blobs, device="cpu", batch=10, epochs=6) if getattr(e, "epoch", 0) == 3).state()
    whole = rates(epochs=6, warmup=1)
    assert rates(epochs=6, warmup=1, start=state) == whole[3:]
    assert sorted(whole[1:], reverse=True) == whole[1:]


def test_where_the_epochs_of_a_start_do_not_count_its_steps_do_in_a_warm_up(blobs):
    """As in partial_fit, each call of which is one epoch."""
    keys, state, rates = {"batch": 50, "warmup": 3, "schedule": "constant", "learning_rate": 0.9, "epochs": 1}, None, []
    for _ in range(4):
        _, event, _ = fcgpu.train(blobs, device="cpu", start=state, **keys)
        rates.append(event.learning_rate)
        state = dataclasses.replace(event.state(), epochs=0)
    assert rates == pytest.approx([0.3, 0.6, 0.9, 0.9])


def test_an_event_of_an_epoch_that_is_over_has_its_loss_but_no_model(blobs):
    first, second, *rest = (e for e in fcgpu.train(blobs, device="cpu", epochs=3) if isinstance(e, fcgpu.EpochEnded))
    assert first.loss > second.loss > 0
    for ask in (first.model, first.state, first.test):
        with pytest.raises(fcgpu.ConfigError, match="the run is at epoch 3 and no longer has the network of epoch 1"):
            ask()
    assert rest[-1].model().params.shape == rest[-1].state().params.shape


def test_the_last_epochs_event_keeps_its_network_beside_the_best_one(blobs):
    """Of the last epoch, not the best: a run that goes on from its state is the run that never stopped."""
    keys = {"device": "cpu", "batch": 10, "learning_rate": 1.0, "schedule": "constant", "early_stopping": True}
    during = [e.model().params for e in fcgpu.train(blobs, epochs=4, **keys) if isinstance(e, fcgpu.EpochEnded)]
    *_, last, finished = fcgpu.train(blobs, epochs=4, **keys)
    np.testing.assert_array_equal(last.model().params, during[-1])
    np.testing.assert_array_equal(last.state().params, during[-1])
    np.testing.assert_array_equal(last.state().best, finished.model.params)
    assert (finished.model.params != during[-1]).any()


def test_patience_ends_after_more_than_so_many_epochs_in_a_row_without_improvement():
    watched = Patience(tol=0.5, patience=1)
    assert [(watched.improved(loss), watched.waited) for loss in (3.0, 2.5, 2.25, 1.75, 2.0, math.nan)] == [
        (True, 0), (True, 0), (True, 1), (True, 0), (False, 1), (False, 2),
    ]  # fmt: skip
    assert watched.exhausted
    assert watched.best == 1.75


def test_where_no_epoch_is_better_than_another_the_last_network_is_kept(blobs):
    events, done = run(blobs, early_stopping=True, monitor=lambda event: math.inf, epochs=3)
    np.testing.assert_array_equal(done.model.params, events[-1].model().params)


def test_stopping_early_leaves_no_thread(mnist):
    before = threading.active_count()
    events = fcgpu.train(mnist, device="cpu", threads=2, epochs=5)
    next(events), next(events)
    assert threading.active_count() > before
    events.close()
    assert threading.active_count() == before


def test_blas_keeps_its_threads_between_events(mnist):
    def threads():
        return [b["num_threads"] for b in threadpool_info() if b["user_api"] == "blas"]

    with threadpool_limits(2, user_api="blas"):
        before = threads()
        for _ in fcgpu.train(mnist, device="cpu", epochs=1):
            assert threads() == before


@pytest.mark.parametrize(("optimizer", "samples"), [("lbfgs", 300), ("lbfgs", 5000), ("adam", 5000)])
def test_blas_has_one_thread_in_a_step(optimizer, samples, mnist, monkeypatch):
    def looked(self, w, g, evaluate):
        found.extend(blas_threads())
        return step(self, w, g, evaluate)

    found = []
    rule = LBFGS if optimizer == "lbfgs" else FirstOrder
    step = rule.step
    monkeypatch.setattr(rule, "step", looked)
    with threadpool_limits(2, user_api="blas"):
        for _ in fcgpu.train((mnist.X[:samples], mnist.y[:samples]), device="cpu", epochs=1, optimizer=optimizer):
            pass
    assert set(found) == {1}


def test_the_clock_stands_still_while_the_test_samples_are_judged(blobs, monkeypatch):
    def slow(*args):
        time.sleep(0.3)
        return score(*args)

    score = Results._score
    monkeypatch.setattr(Results, "_score", slow)
    scores = []
    for event in fcgpu.train(blobs, hidden=(), epochs=2, device="cpu"):
        if isinstance(event, fcgpu.EpochEnded):
            assert event.seconds < 0.3
            scores.append(event.test())
    assert event.seconds < 0.3
    assert scores[0] != scores[1] == event.test
    _, epoch, _ = fcgpu.train((blobs.X, blobs.y), hidden=(), epochs=1, device="cpu")
    assert epoch.test() is None
