"""Estimators that are interrupted, reconfigured, or given validation data: the result is never another network's."""

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn.metrics import make_scorer, roc_auc_score

import fcgpu
from fcgpu import MLPClassifier
from fcgpu.train.state import State

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(300, 5))
Y = RANDOM.integers(0, 3, 300)
SIDE = (X[:, 0] > 0).astype(int)


def interrupt(at):
    def callback(event):
        if isinstance(event, fcgpu.EpochEnded) and event.epoch == at:
            raise KeyboardInterrupt

    return callback


@pytest.mark.parametrize("given", [{}, {"early_stopping": True}, {"solver": "lbfgs"}, {"batch_size": "full"}], ids=str)
def test_ctrl_c_in_a_callback_keeps_what_was_learned(given):
    made = MLPClassifier((8,), max_iter=50, random_state=0, callbacks=[interrupt(3)], **given)
    with pytest.warns(UserWarning, match="Training interrupted by user"):
        made.fit(X, Y)
    assert made.n_iter_ == len(made.loss_curve_) == 3
    expected = MLPClassifier((8,), max_iter=3, random_state=0, **given).fit(X, Y)
    np.testing.assert_array_equal(made.coefs_[0], expected.coefs_[0])


def test_ctrl_c_while_the_held_out_samples_are_judged_keeps_it_too(monkeypatch):
    calls = []

    def scorer(at, X, y):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return at.score(X, y)

    made = MLPClassifier((8,), max_iter=50, random_state=0, early_stopping=True, monitor=scorer)
    with pytest.warns(UserWarning, match="Training interrupted by user"):
        made.fit(X, Y)
    assert made.n_iter_ == len(made.loss_curve_) == 3
    made.predict(X)


def test_a_callback_that_stops_before_the_first_epoch_says_so():
    with pytest.raises(fcgpu.ConfigError, match="stopped the training before its first epoch"):
        MLPClassifier((8,), callbacks=[lambda event: True]).fit(X, Y)


@pytest.mark.parametrize(
    ("first", "then"), [("sgd", "rmsprop"), ("adam", "momentum"), ("sgd", "adam"), ("adam", "sgd")]
)
def test_partial_fit_with_another_solver_begins_its_optimizer_anew(first, then):
    solvers = {"momentum": {"solver": "sgd", "nesterovs_momentum": False}}
    made = MLPClassifier((8,), random_state=0, **solvers.get(first, {"solver": first}))
    for _ in range(5):
        made.partial_fit(X, Y, classes=[0, 1, 2])
    made.set_params(**solvers.get(then, {"solver": then}), learning_rate_init=1e-12)
    before = made.coefs_[0].copy()
    made.partial_fit(X, Y)
    assert 0 < abs(made.coefs_[0] - before).max() < 1e-9


def test_partial_fit_takes_the_learning_rate_that_it_finds():  # scikit-learn's keeps that of the first call
    made = MLPClassifier((8,), random_state=0).partial_fit(X, Y, classes=np.unique(Y))
    before = made.coefs_[0].copy()
    made.set_params(learning_rate_init=1e-12).partial_fit(X, Y)
    np.testing.assert_allclose(made.coefs_[0], before, rtol=0, atol=1e-9)
    made.set_params(learning_rate_init=0.1).partial_fit(X, Y)
    assert np.abs(made.coefs_[0] - before).max() > 0.01


def test_a_state_of_another_optimizer_is_refused():
    state = fcgpu.train((X, Y), hidden=(8,), epochs=2, device="cpu", optimizer="adam")
    next(state), next(state)
    state = next(state).state()
    with pytest.raises(fcgpu.CheckpointError, match="state of optimizer='adam', this run's is 'momentum'"):
        fcgpu.train((X, Y), hidden=(8,), epochs=4, device="cpu", optimizer="momentum", start=state)
    options = {"hidden": (8,), "epochs": 1, "device": "cpu", "optimizer": "momentum", "learning_rate": 1e-12}
    *_, moved = fcgpu.train((X, Y), start=State(state.params), **options)
    np.testing.assert_allclose(moved.model.params, state.params, atol=1e-9)


def flipped():
    """Samples, half of which have wrong labels and weight 0."""
    random = np.random.default_rng(1)
    features = random.normal(size=(400, 5))
    labels = (features[:, 0] + features[:, 1] > 0).astype(int)
    weights = (np.arange(400) % 2).astype(float)
    labels[weights == 0] ^= 1
    return features, labels, weights


def test_samples_held_out_have_their_weights():
    features, labels, weights = flipped()
    options = {
        "hidden": (8,), "epochs": 200, "learning_rate": 0.02, "early_stopping": True, "n_iter_no_change": 5,
        "validation_fraction": 0.3, "device": "cpu",
    }  # fmt: skip
    *_, finished = fcgpu.train((features, labels), sample_weight=weights, **options)
    good = weights > 0
    assert (finished.model.predict(features[good]) == labels[good]).mean() > 0.95


def test_held_out_samples_without_any_weight_are_refused():
    weights = np.zeros(300)
    weights[:1] = 1
    with pytest.raises(
        fcgpu.DataError,
        match=r"held out, or of the others, are 0: .*, or leave early_stopping out$",
    ):
        fcgpu.train((X, SIDE), sample_weight=weights, early_stopping=True, device="cpu")
    with pytest.raises(fcgpu.DataError, match="weights of the samples held out run from 0 to 0"):
        MLPClassifier((4,), class_weight={0: 0, 1: 1}).fit(X, SIDE, validation_data=(X[SIDE == 0], SIDE[SIDE == 0]))


@pytest.mark.parametrize("monitor", ["loss", "accuracy", make_scorer(roc_auc_score)], ids=str)
def test_a_weight_of_0_in_validation_data_is_absence(monitor):
    weights = np.where(np.arange(300) < 40, 1.0, 0.0)
    fits = [
        MLPClassifier((8,), max_iter=4, random_state=0, early_stopping=True, monitor=monitor).fit(
            X, SIDE, validation_data=given
        )
        for given in ((X, SIDE, weights), (X[:40], SIDE[:40]))
    ]
    if monitor in ("loss", "accuracy"):
        np.testing.assert_allclose(fits[0].validation_scores_, fits[1].validation_scores_)
    np.testing.assert_allclose(fits[0].validation_losses_, fits[1].validation_losses_, rtol=1e-6)


def test_a_scorer_that_takes_no_weights_is_given_none():
    given = X, SIDE, np.ones(300)
    made = MLPClassifier((8,), max_iter=2, early_stopping=True, monitor=lambda at, X, y: at.score(X, y))
    assert len(made.fit(X, SIDE, validation_data=given).validation_scores_) == 2


def test_class_weight_counts_in_validation_data_as_in_a_split():
    made = MLPClassifier((8,), max_iter=8, random_state=0, class_weight={0: 0, 1: 1}, early_stopping=True)
    made.fit(X, SIDE, validation_data=(X, SIDE))
    assert made.validation_scores_[-1] == pytest.approx(np.mean(made.predict(X)[SIDE == 1]))


def test_a_monitor_of_nan_is_no_improvement_and_the_last_network_stays():
    options = {"hidden": (8,), "epochs": 15, "device": "cpu", "seed": 0}
    watched = {"early_stopping": True, "validation_fraction": 0.2, "n_iter_no_change": 3}
    *_, finished = fcgpu.train((X, Y), monitor=lambda event: float("nan"), **watched, **options)
    assert finished.epochs == 4
    assert finished.stopped
    start = fcgpu.train((X, Y), **{**options, "epochs": 1, "learning_rate": 1e-300})
    *_, untrained = start
    assert abs(finished.model.params - untrained.model.params).max() > 1e-4


def test_an_exception_leaves_an_estimator_as_it_was():
    made = MLPClassifier((8,), max_iter=5, random_state=0, warm_start=True, early_stopping=True, monitor="accuracy")
    made.fit(X, Y)
    before = made.predict_proba(X)
    curves = [list(curve) for curve in (made.loss_curve_, made.validation_scores_, made.validation_losses_)]

    def fail(event):
        if isinstance(event, fcgpu.EpochEnded) and event.epoch == 3:
            raise ZeroDivisionError

    made.set_params(callbacks=[fail], learning_rate_init=0.5)
    with pytest.raises(ZeroDivisionError):
        made.fit(X, Y)
    np.testing.assert_array_equal(made.predict_proba(X), before)
    assert [made.loss_curve_, made.validation_scores_, made.validation_losses_] == curves
    made = MLPClassifier((8,), max_iter=5, random_state=0, warm_start=True).fit(X, Y)
    with pytest.raises(fcgpu.DataError, match="sample weights add up"):
        made.fit(X, Y, np.full(len(X), 1e-320), validation_data=(X, Y))
    assert made.validation_scores_ is None
