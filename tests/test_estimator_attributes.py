"""A fitted estimator's attributes, and continued training (warm_start, partial_fit), as in scikit-learn."""

import copy
import inspect
import pickle
import re

import numpy as np
import pytest

pytest.importorskip("sklearn")

from peers import CLASSIFY, KINDS, SOLVERS, assert_same_fit, assert_same_network, ours, pair, problem, weights
from sklearn import neural_network
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning, NotFittedError

import fcgpu
from fcgpu.estimator import arrays
from fcgpu.params import LINE
from fcgpu.train import plan_c

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

ESTIMATORS = ["MLPClassifier", "MLPRegressor"]
VALUES = ("n_features_in_", "n_iter_", "n_layers_", "n_outputs_", "out_activation_", "t_")


def assert_same_attributes(a, b):
    for name in VALUES:
        assert getattr(a, name) == getattr(b, name), name
        assert type(getattr(a, name)) is type(getattr(b, name)), name
    for name in ("loss_", "best_loss_", "best_validation_score_"):
        if getattr(b, name) is None:
            assert getattr(a, name) is None
        else:
            assert getattr(a, name) == pytest.approx(getattr(b, name), abs=1e-6)
    assert {name for name in vars(b) if name.endswith("_")} <= set(vars(a))
    assert hasattr(a, "classes_") == hasattr(b, "classes_")
    if hasattr(b, "classes_"):
        np.testing.assert_array_equal(a.classes_, b.classes_)
        assert a.classes_.dtype == b.classes_.dtype


@pytest.mark.parametrize("name", ESTIMATORS)
def test_parameters_have_scikit_learns_names_order_and_defaults(name):
    mine = inspect.signature(getattr(fcgpu, name)).parameters
    theirs = inspect.signature(getattr(neural_network, name)).parameters
    assert list(mine)[: len(theirs)] == list(theirs)
    for key, parameter in theirs.items():
        assert (mine[key].default, mine[key].kind) == (parameter.default, parameter.kind), key


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("method", ["partial_fit", "predict", "predict_proba", "predict_log_proba", "score"])
def test_methods_take_scikit_learns_arguments_in_its_order(name, method):
    theirs = getattr(getattr(neural_network, name), method, None)
    assert hasattr(getattr(fcgpu, name), method) == (theirs is not None)
    if theirs:
        mine = inspect.signature(getattr(getattr(fcgpu, name), method)).parameters
        expected = list(inspect.signature(theirs).parameters)
        assert list(mine)[: len(expected)] == expected


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_attributes_are_scikit_learns(kind, early_stopping):
    X, y = problem(kind)
    a, b = pair(kind, max_iter=5, batch_size=16, early_stopping=early_stopping, validation_fraction=0.25)
    assert_same_attributes(a.fit(X, y), b.fit(X, y))


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("solver", ["lbfgs", "sgd", "adam"])
def test_every_attribute_that_scikit_learn_documents_is_there(name, solver):
    pd = pytest.importorskip("pandas")
    theirs = getattr(neural_network, name)
    section = inspect.getdoc(theirs).split("Attributes\n")[1].split("See Also")[0]
    documented = set(re.findall(r"^(\w+_) : ", section, re.MULTILINE))
    assert len(documented) >= 14
    X, y = problem("binary" if name == "MLPClassifier" else "regression")
    model = getattr(fcgpu, name)(solver=solver, max_iter=2).fit(pd.DataFrame(X, columns=list("abcdef")), y)
    assert [key for key in documented if not hasattr(model, key)] == []


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_are_scikit_learns(kind):
    X, y = problem(kind)
    a, b = (estimator.fit(X, y) for estimator in pair(kind, max_iter=20, batch_size=16))
    new, truth = problem(kind, n=31, seed=0)
    for method in ("predict", "predict_proba", "predict_log_proba"):
        assert hasattr(a, method) == hasattr(b, method)
        if not hasattr(b, method):
            continue
        mine, other = getattr(a, method)(new), getattr(b, method)(new)
        assert (mine.shape, mine.dtype) == (other.shape, other.dtype)
        if method == "predict" and kind in CLASSIFY:
            np.testing.assert_array_equal(mine, other)
        else:
            np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-6)
    w = weights(31)
    assert a.score(new, truth, w) == pytest.approx(b.score(new, truth, w), abs=1e-6)


@pytest.mark.parametrize("kind", CLASSIFY)
def test_probabilities_stay_finite_where_every_unit_is_saturated(kind):
    X, y = problem(kind)
    a = ours(kind, max_iter=3).fit(X, y)
    a.coefs_ = [500 * W for W in a.coefs_]
    proba = a.predict_proba(X)
    assert np.isfinite(proba).all()
    if kind != "multilabel":
        np.testing.assert_allclose(proba.sum(axis=1), 1)


@pytest.mark.parametrize("kind", KINDS)
def test_predictions_follow_coefs_and_intercepts(kind):
    X, y = problem(kind)
    a, b = (estimator.fit(X, y) for estimator in pair(kind, max_iter=3))
    random = np.random.default_rng(9)
    W = [random.standard_normal(coef.shape) for coef in a.coefs_]
    bias = [random.standard_normal(intercept.shape) for intercept in a.intercepts_]
    a.coefs_, a.intercepts_ = [w.copy() for w in W], [v.copy() for v in bias]
    b.coefs_, b.intercepts_ = W, bias
    method = "predict_proba" if kind in CLASSIFY else "predict"
    np.testing.assert_allclose(getattr(a, method)(X), getattr(b, method)(X), atol=1e-9)
    a.coefs_[0][...] = 0
    b.coefs_[0][...] = 0
    np.testing.assert_allclose(getattr(a, method)(X), getattr(b, method)(X), atol=1e-9)


@pytest.mark.parametrize("kind", ["multiclass", "regression"])
def test_a_column_of_targets_is_taken_with_scikit_learns_warning(kind):
    X, y = problem(kind)
    column, flat = ours(kind, max_iter=3), ours(kind, max_iter=3).fit(X, y)
    with pytest.warns(DataConversionWarning):
        column.fit(X, y[:, None])
    assert_same_fit(column, flat, atol=0)
    assert column.predict(X).shape == (len(X),)


@pytest.mark.parametrize("kind", KINDS)
def test_warm_start_goes_on_alike(kind):
    X, y = problem(kind)
    given = {"warm_start": True, "max_iter": 4, "batch_size": 16, "n_iter_no_change": 3, "tol": 0.01}
    a, b = pair(kind, **given)
    for _ in range(4):
        for estimator in (a, b):
            estimator.fit(X, y)
        assert_same_attributes(a, b)
        assert_same_fit(a, b)
    assert len(a.loss_curve_) > 4
    for estimator in (a, b):  # it stops by its own parameters, not by those of the fit before
        estimator.set_params(tol=9.0, n_iter_no_change=1).fit(X, y)
    assert_same_fit(a, b)
    assert a.n_iter_ < 4


@pytest.mark.parametrize("kind", KINDS)
def test_a_warm_start_with_early_stopping_keeps_the_best_weights_of_all_fits(kind):
    """scikit-learn overwrites them with the last weights if a later fit finds none better: nothing to compare with."""
    (X, y), validation = problem(kind), problem(kind, seed=7)
    given = {"warm_start": True, "max_iter": 4, "batch_size": 16, "early_stopping": True, "learning_rate_init": 0.1}
    a = ours(kind, **given)
    for _ in range(4):
        a.fit(X, y, validation_data=validation)
        assert a.score(*validation) == pytest.approx(max(a.validation_scores_))
        assert a.best_validation_score_ == max(a.validation_scores_)
    assert len(a.validation_scores_) > 8


def test_warm_start_wants_the_same_classes():
    X, y = problem("multiclass")
    a = ours("multiclass", warm_start=True, max_iter=2).fit(X, y)
    with pytest.raises(ValueError, match="warm_start"):
        a.fit(X, np.where(y == 7, 8, y))
    with pytest.raises(ValueError, match="warm_start"):
        a.fit(X[y != 7], y[y != 7])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kind", KINDS)
def test_partial_fit_goes_on_alike(kind, solver, weighted):
    X, y = problem(kind, n=90)
    a, b = pair(kind, batch_size=16, **SOLVERS[solver])
    first = {"classes": np.arange(3) if kind == "multilabel" else np.unique(y)} if kind in CLASSIFY else {}
    for start in (0, 30, 60, 0):
        part = slice(start, start + 30 + start // 10)
        w = {"sample_weight": weights(len(X[part]))} if weighted else {}
        for estimator in (a, b):
            estimator.partial_fit(X[part], y[part], **w, **first)
        first = {}
        assert_same_attributes(a, b)
        assert_same_fit(a, b)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kind", ["multiclass", "regression"])
def test_partial_fit_after_fit_keeps_the_optimizers_state(kind, solver):
    X, y = problem(kind)
    a, b = pair(kind, batch_size=16, max_iter=4, **SOLVERS[solver])
    for estimator in (a, b):
        estimator.fit(X, y).partial_fit(X, y).partial_fit(X, y)
    assert_same_attributes(a, b)
    assert_same_fit(a, b)


def test_partial_fit_checks_classes():
    X, y = problem("multiclass")
    with pytest.raises(ValueError, match="classes"):
        ours("multiclass").partial_fit(X, y)
    with pytest.raises(ValueError, match="classes"):
        ours("multiclass").partial_fit(X, y, classes=[-1, 4])
    with pytest.raises(ValueError, match=r"classes={.*}: expected a list"):
        ours("multiclass").partial_fit(X, y, classes={-1, 4, 7})
    a = ours("multiclass").partial_fit(X[y == 4], y[y == 4], classes=[-1, 4, 7])
    np.testing.assert_array_equal(a.classes_, [-1, 4, 7])
    with pytest.raises(ValueError, match="classes"):
        a.partial_fit(X, y, classes=[-1, 4, 8])
    with pytest.raises(ValueError, match="classes"):
        a.partial_fit(X, np.where(y == 7, 8, y))


@pytest.mark.parametrize("dtype", ["int8", "U20", object])
def test_classes_have_scikit_learns_dtype(dtype):
    X, y = problem("binary")
    labels = np.where(y == "yes", 1, 0).astype(dtype) if dtype == "int8" else y.astype(dtype)
    mine, other = (estimator.fit(X, labels) for estimator in pair("binary", max_iter=2))
    assert mine.classes_.dtype == other.classes_.dtype
    np.testing.assert_array_equal(mine.classes_, other.classes_)


def test_few_samples_of_many_classes_are_no_regression():  # it would warn, which is an error here
    X, y = np.eye(30), np.arange(30)
    assert len(ours("multiclass").partial_fit(X, y, classes=np.arange(40)).partial_fit(X, y).classes_) == 40


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("regressions", "y has 2 outputs; expected 3, as before"),
        ("multilabel", r"\(53, 2\); expected 3 labels of 0 and 1"),
    ],
)
def test_partial_fit_says_how_many_targets_were_there(kind, words):
    X, y = problem(kind)
    model = ours(kind).fit(X, y)
    with pytest.raises(ValueError, match=words):
        model.partial_fit(X, y[:, :-1])


def test_partial_fit_says_that_there_were_several_labels():
    X, y = problem("multilabel")
    model = ours("multilabel").partial_fit(X, y, classes=[0, 1])  # of each label
    np.testing.assert_array_equal(model.classes_, range(3))
    with pytest.raises(ValueError, match=r"of shape \(53,\); expected 3 labels of 0 and 1, as before"):
        model.partial_fit(X, y[:, 0])


def test_fit_after_partial_fit_starts_anew():
    X, y = problem("multiclass")
    a, fresh = ours("multiclass", max_iter=3), ours("multiclass", max_iter=3).fit(X, y)
    a.partial_fit(X[:, :4], y, classes=np.unique(y))
    assert_same_fit(a.fit(X, y), fresh, atol=0)
    assert a.t_ == fresh.t_
    np.testing.assert_array_equal(a.fit(X[y > 0], y[y > 0]).classes_, [4, 7])


def test_divergence_is_a_value_error_that_says_what_to_do():
    X, y = problem("regression")
    a = ours("regression", solver="sgd", activation="identity", learning_rate_init=1e3, max_iter=50)
    with np.errstate(all="ignore"), pytest.raises(ValueError, match=r"scale|preprocess"):
        a.fit(1e3 * X, y)


def test_divergence_in_the_first_epoch_leaves_nothing_to_keep():
    X, y = problem("regression")
    given = {"solver": "sgd", "activation": "identity", "learning_rate_init": 1e9, "batch_size": 5}
    with np.errstate(all="ignore"), pytest.raises(fcgpu.DivergenceError, match="in epoch 1"):
        ours("regression", early_stopping=True, **given).fit(1e3 * X, y)


@pytest.mark.filterwarnings("ignore:overflow|invalid value:RuntimeWarning")
def test_divergence_with_early_stopping_keeps_the_best_weights():
    X, y = problem("regression")
    given = {"solver": "sgd", "activation": "identity", "learning_rate_init": 0.03, "early_stopping": True}
    a, b = (
        estimator.fit(4 * X, y)
        for estimator in pair("regression", max_iter=40, batch_size=40, n_iter_no_change=40, **given)
    )
    assert np.isnan(a.validation_scores_[-1])
    assert np.isnan(b.validation_scores_[-1])
    assert_same_network(a, b)
    with pytest.warns(ConvergenceWarning, match="in epoch .* best weights before that are kept") as warned:
        a.fit(4 * X, y)
    assert warned[0].filename == __file__


@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_unfitted_estimator_says_so(name):
    with pytest.raises(NotFittedError):
        getattr(fcgpu, name)().predict(np.zeros((2, 3)))


def test_verbose_reports_each_epoch_and_silence_is_the_default(capsys):
    X, y = problem("multiclass")
    ours("multiclass", max_iter=3).fit(X, y)
    assert capsys.readouterr() == ("", "")
    ours("multiclass", max_iter=3, verbose=True).fit(X, y)
    assert "".join(capsys.readouterr()).lower().count("loss") == 3


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({}, "the loss"),
        ({"early_stopping": True}, "the validation score"),
        ({"early_stopping": True, "monitor": "loss"}, "the validation loss"),
    ],
)
def test_verbose_and_callbacks_are_told_why_a_training_stopped(given, what, capsys):
    X, y = problem("multiclass")
    told = []
    ours("multiclass", tol=9, n_iter_no_change=2, verbose=True, callbacks=[told.append], **given).fit(X, y)
    assert told[-1].stopped == f"{what} did not improve by more than 9 in 2 epochs"
    assert capsys.readouterr().out.endswith(f"\nStopped: {told[-1].stopped}\n")


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("in_c", [False, True])
def test_the_weights_begin_with_a_cache_line_for_which_predictions_are_faster(in_c, monkeypatch):
    if not in_c:
        monkeypatch.setattr(plan_c, "is_for", lambda *_: False)
    X, y = problem("multiclass")
    for n in range(1, 9):
        model = ours("multiclass", hidden_layer_sizes=(n,), max_iter=1).fit(X, y)
        assert model.coefs_[0].ctypes.data % LINE == 0


def test_predictions_follow_whatever_becomes_of_the_coefficients():
    """As fit leaves them they are views of one vector, which predictions then take as it is."""
    X, y = problem("multiclass")
    model = ours("multiclass", hidden_layer_sizes=(5, 5), max_iter=3).fit(X, y)
    parts = [part for pair in zip(model.coefs_, model.intercepts_, strict=True) for part in pair]
    whole = arrays.undivided(parts)
    assert np.shares_memory(whole, model.coefs_[0])
    np.testing.assert_array_equal(whole, arrays.joined(parts))
    want = model.predict_proba(X)

    def changed(**assigned):
        other = copy.copy(model)
        other.__dict__.update(assigned)
        peer = fcgpu.Model(model._spec(), arrays.joined(
            [part for pair in zip(other.coefs_, other.intercepts_, strict=True) for part in pair]
        ), tuple(model.classes_.tolist()))  # fmt: skip
        np.testing.assert_array_equal(other.predict_proba(X), peer.predict_proba(X))
        return other.predict_proba(X)

    W, b = model.coefs_, model.intercepts_
    squares = changed(coefs_=[W[0], W[1].T, W[2]])  # the same memory, in another order
    assert not np.array_equal(squares, want)
    assert not np.array_equal(changed(intercepts_=[b[1], b[0], b[2]]), want)
    assert not np.array_equal(changed(coefs_=[2 * W[0], W[1], W[2]]), want)
    np.testing.assert_array_equal(changed(coefs_=[part.tolist() for part in W]), want)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict_proba(X), want)
    both = np.vstack([W[0], b[0]])  # in which they follow each other, too
    np.testing.assert_array_equal(arrays.undivided([both[:-1], both[-1]]), both.ravel())
    W[1][2, 3] += 1
    assert not np.array_equal(model.predict_proba(X), want)
    assert not np.array_equal(changed(), want)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_a_network_is_cut_before_its_last_layer(kind):
    """Which shows what the last hidden layer has learned."""
    X, y = problem(kind)
    for model in (pairs := [estimator.fit(X, y) for estimator in pair(kind, max_iter=3)]):
        model.coefs_, model.intercepts_ = model.coefs_[:-1], model.intercepts_[:-1]
        model.n_layers_, model.n_outputs_ = 3, 5
    method = "predict_proba" if kind in CLASSIFY else "predict"
    mine, other = (getattr(model, method)(X) for model in pairs)
    assert mine.shape == (53, 5)
    np.testing.assert_allclose(mine, other, atol=1e-6)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "multilabel"])
def test_a_network_is_put_together_by_hand(kind):
    X, y = problem(kind)
    fitted, made = ours(kind, max_iter=3).fit(X, y), ours(kind)
    names = ["coefs_", "intercepts_", "n_layers_", "n_outputs_", "out_activation_"]
    for name in [*names, "classes_"] if kind in CLASSIFY else names:
        setattr(made, name, getattr(fitted, name))
    np.testing.assert_array_equal(made.predict(X), fitted.predict(X))
    if kind in CLASSIFY:
        np.testing.assert_array_equal(made.predict_proba(X), fitted.predict_proba(X))
    with pytest.raises(fcgpu.DataError, match=r"X has 5 features, but coefs_\[0\] is for 6"):
        made.predict(X[:, :5])
    made.intercepts_ = made.intercepts_[:2]
    with pytest.raises(fcgpu.DataError, match=r"coefs_ of shapes \[\(6, 7\), .* are no network: expected"):
        made.predict(X)


@pytest.mark.parametrize("dtype", ["int64", "float16", ">f8"])
def test_parameters_of_any_type_are_numbers(dtype):
    X, y = problem("multiclass")
    model = ours("multiclass", max_iter=3).fit(X, y)
    model.coefs_ = [np.round(9 * W) for W in model.coefs_]
    model.intercepts_ = [np.round(9 * b) for b in model.intercepts_]
    want = model.predict_proba(X)
    model.coefs_ = [W.astype(dtype) for W in model.coefs_]
    model.intercepts_ = [b.astype(dtype) for b in model.intercepts_]
    np.testing.assert_array_equal(model.predict_proba(X), want)
    np.testing.assert_array_equal(model.model_.predict_proba(X), want)
