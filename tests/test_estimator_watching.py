"""Watching an estimator's training: callbacks, validation data, monitors, progress."""

import io
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sklearn")

from peers import CLASSIFY, assert_same_bits, ours, problem
from scipy import sparse
from sklearn import metrics
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression

import fcgpu

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

KINDS = [*CLASSIFY, "regression", "regressions", "counts"]
SOLVERS = ["adam", "sgd", "rprop", "lbfgs"]


def halves(kind):
    """Training and validation data."""
    X, y = problem(kind, n=120)
    return (X[:70], y[:70]), (X[70:], y[70:])


def loss(kind, model, X, y):
    """The loss without the penalty and without weights."""
    if kind == "multilabel":
        P = model.predict_proba(X)
        return -np.mean(np.sum(np.log(np.where(y == 1, P, 1 - P)), axis=1))
    if kind in CLASSIFY:
        return metrics.log_loss(y, model.predict_proba(X), labels=model.classes_)
    if kind == "counts":
        return 0.5 * metrics.mean_poisson_deviance(y, model.predict(X))
    return 0.5 * metrics.mean_squared_error(y, model.predict(X))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kind", ["binary", "multilabel", "regression"])
def test_a_callback_gets_every_event(kind, solver):
    X, y = problem(kind)
    events = []
    model = ours(kind, solver=solver, callbacks=[events.append], max_iter=6, batch_size=16, tol=0.0).fit(X, y)
    started, *epochs, finished = events
    assert isinstance(started, fcgpu.Started)
    assert isinstance(finished, fcgpu.Finished)
    assert all(isinstance(event, fcgpu.EpochEnded) for event in epochs)
    assert [event.epoch for event in epochs] == list(range(1, model.n_iter_ + 1))
    np.testing.assert_allclose([event.loss for event in epochs], model.loss_curve_, rtol=1e-12)
    if kind == "binary":
        assert all(0 <= event.accuracy <= 1 for event in epochs)
    if kind == "regression":
        assert epochs[0].accuracy is None
        np.testing.assert_allclose(epochs[-1].model().predict(X), model.predict(X), rtol=1e-9)


@pytest.mark.filterwarnings("error::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_callback_stops_training_by_returning_true(solver):
    X, y = problem("multiclass")
    seen = []

    def third(event):
        seen.append(event)
        return isinstance(event, fcgpu.EpochEnded) and event.epoch == 3

    model = ours("multiclass", solver=solver, callbacks=[seen.append, third], max_iter=50).fit(X, y)
    assert model.n_iter_ == len(model.loss_curve_) == 3
    assert model.predict(X).shape == y.shape


def test_an_exception_of_a_callback_comes_through():
    optuna = pytest.importorskip("optuna")
    X, y = problem("multiclass")

    def pruned(event):
        if isinstance(event, fcgpu.EpochEnded) and event.epoch == 2:
            raise optuna.TrialPruned

    with pytest.raises(optuna.TrialPruned):
        ours("multiclass", callbacks=[pruned]).fit(X, y)


def test_the_pruning_of_the_readme_prunes():
    optuna = pytest.importorskip("optuna")
    blocks = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8").split("```python\n")
    (program,) = (block.split("```")[0] for block in blocks if "import optuna" in block)
    (X_train, y_train), (X_val, y_val) = halves("multiclass")
    names = {"X_train": X_train, "y_train": y_train, "X_val": X_val, "y_val": y_val}
    exec(program, names)
    states = [trial.state for trial in names["study"].trials]
    assert len(states) == 20
    assert {optuna.trial.TrialState.PRUNED, optuna.trial.TrialState.COMPLETE} == set(states)
    assert names["study"].best_value > 0.7


def test_an_estimator_whose_callback_keeps_events_is_cloned_and_copied():
    class Kept:
        def __init__(self):
            self.events = []

        def __call__(self, event):
            self.events.append(event)

    X, y = problem("binary")
    model = ours("binary", max_iter=2, callbacks=[Kept()]).fit(X, y)
    assert len(model.callbacks[0].events) == 4
    assert_same_bits(clone(model).fit(X, y), deepcopy(model))


def test_callbacks_change_no_bit():
    X, y = problem("multiclass")
    watched = ours("multiclass", callbacks=[lambda event: None], max_iter=5, dropout=0.2)
    assert_same_bits(watched.fit(X, y), ours("multiclass", max_iter=5, dropout=0.2).fit(X, y))


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kind", KINDS)
def test_validation_data_are_scored_after_every_epoch_and_change_no_bit(kind, solver):
    (X, y), validation = halves(kind)
    given = {"solver": solver, "max_iter": 6, "batch_size": 16}
    model = ours(kind, **given).fit(X, y, validation_data=validation)
    assert len(model.validation_scores_) == len(model.validation_losses_) == model.n_iter_
    assert model.validation_scores_[-1] == pytest.approx(model.score(*validation), abs=1e-9)
    assert model.validation_losses_[-1] == pytest.approx(loss(kind, model, *validation), rel=1e-6)
    assert_same_bits(model, ours(kind, **given).fit(X, y))


@pytest.mark.parametrize("kind", KINDS)
def test_early_stopping_on_validation_data_trains_on_every_sample(kind):
    (X, y), validation = halves(kind)
    given = {"early_stopping": True, "n_iter_no_change": 4, "max_iter": 60, "learning_rate_init": 0.1}
    model = ours(kind, batch_size=16, **given).fit(X, y, validation_data=validation)
    assert model.t_ == 70 * model.n_iter_
    assert model.best_validation_score_ == max(model.validation_scores_)
    assert model.score(*validation) == pytest.approx(max(model.validation_scores_), abs=1e-9)
    assert model.n_iter_ < 60


@pytest.mark.parametrize("kind", KINDS)
def test_monitoring_the_loss_restores_the_weights_of_least_loss(kind):
    (X, y), validation = halves(kind)
    given = {"early_stopping": True, "n_iter_no_change": 8, "max_iter": 40, "learning_rate_init": 0.1}
    model = ours(kind, monitor="loss", batch_size=16, **given).fit(X, y, validation_data=validation)
    assert np.argmin(model.validation_losses_) < model.n_iter_ - 1
    assert loss(kind, model, *validation) == pytest.approx(min(model.validation_losses_), rel=1e-6)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("binary", "roc_auc"),
        ("multiclass", "balanced_accuracy"),
        ("multiclass", "neg_log_loss"),
        ("multilabel", "f1_macro"),
        ("regression", "neg_mean_absolute_error"),
        ("regressions", "r2"),
        ("counts", "neg_mean_poisson_deviance"),
    ],
)
@pytest.mark.parametrize("as_callable", [False, True], ids=["name", "callable"])
def test_any_scorer_is_a_monitor(kind, name, as_callable):
    (X, y), validation = halves(kind)
    scorer = metrics.get_scorer(name)
    given = {"early_stopping": True, "n_iter_no_change": 5, "max_iter": 30, "learning_rate_init": 0.1}
    monitor = (lambda estimator, X, y: scorer(estimator, X, y)) if as_callable else name
    model = ours(kind, monitor=monitor, batch_size=16, **given).fit(X, y, validation_data=validation)
    assert len(model.validation_scores_) == model.n_iter_
    assert model.best_validation_score_ == max(model.validation_scores_)
    assert scorer(model, *validation) == pytest.approx(max(model.validation_scores_), abs=1e-9)


@pytest.mark.parametrize("container", [sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array])
def test_a_scorer_gets_sparse_rows_as_they_were_given(container):
    X, y = problem("binary")
    X = np.where(np.abs(X) > 0.7, X, 0)
    rows, dense = (
        ours("binary", early_stopping=True, monitor="roc_auc", max_iter=5).fit(given, y) for given in (container(X), X)
    )
    np.testing.assert_allclose(rows.validation_scores_, dense.validation_scores_)


def test_a_scorer_of_a_frame_warns_of_no_names():  # a warning is an error in these tests
    pd = pytest.importorskip("pandas")
    (X, y), (X_val, y_val) = halves("binary")
    frame, validation = (pd.DataFrame(part, columns=list("abcdef")) for part in (X, X_val))
    model = ours("binary", early_stopping=True, monitor="roc_auc", max_iter=5)
    model.fit(frame, y, validation_data=(validation, y_val))
    assert list(model.feature_names_in_) == list("abcdef")


@pytest.mark.parametrize("monitor", ["loss", "f1_macro"])
def test_a_monitor_needs_early_stopping(monitor):
    with pytest.raises(ValueError, match=r"monitor.*early_stopping|early_stopping.*monitor"):
        ours("multiclass", monitor=monitor).fit(*problem("multiclass"))


def test_monitors_and_validation_data_that_cannot_be_used_are_refused():
    (X, y), (X_val, y_val) = halves("multiclass")
    with pytest.raises(ValueError, match="monitor"):
        ours("multiclass", early_stopping=True, monitor="acuracy").fit(X, y)
    with pytest.raises(ValueError, match="features"):
        ours("multiclass").fit(X, y, validation_data=(X_val[:, :4], y_val))
    with pytest.raises(ValueError, match="class"):
        ours("multiclass").fit(X, y, validation_data=(X_val, np.where(y_val == 7, 8, y_val)))
    with pytest.raises(fcgpu.DataError, match=r"weights of the samples held out run from -1 to 1"):
        ours("multiclass").fit(X, y, validation_data=(X_val, y_val, np.where(y_val == 7, -1, 1)))
    for wrong in (X_val, X_val[:2], 7):
        with pytest.raises(ValueError, match=r"validation_data: expected \(X, y\)"):
            ours("multiclass").fit(X, y, validation_data=wrong)


def test_a_label_too_rare_to_be_split_is_named():
    X, _ = problem("binary")
    with pytest.raises(fcgpu.DataError, match=r"y has label yes only once: .*; give validation_data"):
        ours("binary", early_stopping=True).fit(X, np.where(np.arange(len(X)) == 7, "yes", "no"))


def test_a_network_that_overfits_is_stopped_in_time():
    random = np.random.default_rng(0)
    X = random.standard_normal((160, 20))
    y = (X[:, 0] + 2 * random.standard_normal(160) > 0).astype(int)
    given = {"hidden_layer_sizes": (50,), "learning_rate_init": 0.01, "max_iter": 200, "early_stopping": True}
    model = ours("binary", monitor="loss", **given).fit(X[:80], y[:80], validation_data=(X[80:], y[80:]))
    assert model.n_iter_ < 100
    assert min(model.validation_losses_) < metrics.log_loss(
        y[80:], LogisticRegression(C=1e6).fit(X[:80], y[:80]).predict_proba(X[80:])
    )


def test_early_stopping_has_its_patience_with_lbfgs_too():
    random = np.random.default_rng(0)
    X, y = random.standard_normal((200, 20)), random.integers(0, 2, 200)  # nothing that could be learned
    model = ours("binary", solver="lbfgs", early_stopping=True, n_iter_no_change=3, max_iter=60, tol=0.0).fit(X, y)
    best = 1 + np.argmax(model.validation_scores_)
    assert model.n_iter_ == best + 4 < 60  # the first of more than 3 epochs without a better score


def test_progress_is_on_standard_error(capsys):
    ours("multiclass", progress=True, max_iter=5).fit(*problem("multiclass"))
    out, err = capsys.readouterr()
    assert out == ""
    assert "5" in err


def test_progress_of_partial_fit_is_that_of_one_epoch(monkeypatch):
    screen = io.StringIO()
    screen.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", screen)
    for name, value in {"TERM": "xterm", "COLUMNS": "80"}.items():
        monkeypatch.setenv(name, value)
    X, y = problem("multiclass")
    ours("multiclass", progress=True).partial_fit(X, y, classes=np.unique(y))
    assert "epoch 1/1 " in screen.getvalue()
