"""Features beyond scikit-learn's: dropout, outputs, initialisations, dtypes, schedules, clipping, more solvers."""

import numpy as np
import pytest

pytest.importorskip("sklearn")

from peers import CLASSIFY, assert_same_bits, ours, problem, weights
from sklearn.linear_model import LogisticRegression, Ridge

import fcgpu

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

STILL = {"solver": "sgd", "momentum": 0.0, "learning_rate_init": 1e-300, "tol": 0.0, "n_iter_no_change": np.inf}


def rates(model, X, y):
    """The learning rate of the last update of each epoch."""
    seen = []
    model.set_params(callbacks=[lambda event: seen.append(event) if isinstance(event, fcgpu.EpochEnded) else None])
    model.fit(X, y)
    return np.array([event.learning_rate for event in seen])


@pytest.mark.parametrize("kind", ["multiclass", "regression"])
def test_dropout_is_of_training_and_not_of_prediction(kind):
    X, y = problem(kind)
    with_masks = ours(kind, dropout=0.4, max_iter=8, batch_size=16).fit(X, y)
    np.testing.assert_array_equal(with_masks.predict(X), with_masks.predict(X))
    for start in (0, 20):
        part = slice(start, start + 20)
        np.testing.assert_allclose(with_masks.predict(X[part]), with_masks.predict(X)[part], rtol=1e-12)
    assert_same_bits(with_masks, ours(kind, dropout=0.4, max_iter=8, batch_size=16).fit(X, y))
    without = ours(kind, max_iter=8, batch_size=16).fit(X, y)
    assert abs(with_masks.loss_curve_[0] - without.loss_curve_[0]) > 1e-3
    other = ours(kind, dropout=0.4, max_iter=8, batch_size=16, random_state=4).fit(X, y)
    assert abs(with_masks.loss_curve_[0] - other.loss_curve_[0]) > 1e-6


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_the_expectation_over_masks_is_the_network_without_them(p):
    # One linear hidden layer h and weights w: a mask of mean 1 does not change the mean prediction, and gives it the
    # variance p / (1 - p) sum_j (h_j w_j)^2, by which the mean squared loss grows.
    X, y = problem("regression", n=20)
    given = {"activation": "identity", "hidden_layer_sizes": (6,), "alpha": 0.0, "max_iter": 3000, **STILL}
    model = ours("regression", dropout=p, **given).fit(X, y)
    h = X @ model.coefs_[0] + model.intercepts_[0]
    variance = p / (1 - p) * ((h * model.coefs_[1][:, 0]) ** 2).sum(axis=1)
    expected = 0.5 * np.mean((model.predict(X) - y) ** 2 + variance)
    error = np.std(model.loss_curve_) / np.sqrt(3000)
    assert abs(np.mean(model.loss_curve_) - expected) < 4 * error
    assert 0 < error < 0.05 * expected


def test_dropout_takes_one_rate_for_each_hidden_layer():
    X, y = problem("multiclass")
    one, each, none = ({"dropout": p, "max_iter": 5} for p in (0.3, (0.3, 0.3), (0.0, 0)))
    assert_same_bits(ours("multiclass", **one).fit(X, y), ours("multiclass", **each).fit(X, y))
    assert_same_bits(ours("multiclass", **none).fit(X, y), ours("multiclass", max_iter=5).fit(X, y))
    with pytest.raises(ValueError, match="dropout"):
        ours("multiclass", dropout=(0.3,)).fit(X, y)


@pytest.mark.parametrize("solver", ["nesterov", "momentum", "gradient_descent", "rmsprop", "adamw", "rprop"])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
def test_more_solvers_and_activations_learn(solver, activation):
    X, y = problem("multiclass", n=150)
    rate = 0.5 if solver == "gradient_descent" else 0.05
    model = ours("multiclass", solver=solver, activation=activation, learning_rate_init=rate, max_iter=60).fit(X, y)
    assert model.score(X, y) > 0.8


@pytest.mark.parametrize(("solver", "nesterovs_momentum"), [("nesterov", True), ("momentum", False)])
def test_sgd_with_momentum_by_its_own_name(solver, nesterovs_momentum):
    X, y = problem("multiclass")
    given = {"batch_size": 16, "max_iter": 5, "momentum": 0.8}
    by_name = ours("multiclass", solver=solver, **given).fit(X, y)
    sgd = ours("multiclass", solver="sgd", nesterovs_momentum=nesterovs_momentum, **given).fit(X, y)
    assert_same_bits(by_name, sgd)


def test_each_schedule_has_its_shape():
    X, y = problem("multiclass")
    given = {"batch_size": 16, "max_iter": 20, "learning_rate_init": 0.03}
    cosine = rates(ours("multiclass", learning_rate="cosine", **given), X, y)
    assert np.all(np.diff(cosine) < 0)
    assert cosine[9] == pytest.approx(0.015, rel=0.1)
    assert cosine[-1] < 1e-3 * 0.03
    cycle = rates(ours("multiclass", learning_rate="one_cycle", **given), X, y)
    top = cycle.argmax()
    assert 0 < top < 19
    assert np.all(np.diff(cycle[: top + 1]) > 0)
    assert np.all(np.diff(cycle[top:]) < 0)
    assert cycle.max() == pytest.approx(0.03, rel=0.05)
    warm = rates(ours("multiclass", warmup=5, **given), X, y)
    np.testing.assert_allclose(warm, 0.03 * np.minimum(1, np.arange(1, 21) / 5))


@pytest.mark.parametrize("weighted", [False, True])
def test_gradient_clip_is_the_greatest_norm_of_an_update(weighted):
    X, y = problem("regressions")
    w = weights(len(X)) if weighted else None
    given = {"solver": "sgd", "momentum": 0.0, "learning_rate_init": 0.1, "max_iter": 1, "batch_size": "full"}
    start = ours("regressions", **given | STILL).fit(X, y, w)

    def moved(clip):
        end = ours("regressions", gradient_clip=clip, **given).fit(X, y, w)
        before, after = start.coefs_ + start.intercepts_, end.coefs_ + end.intercepts_
        return np.sqrt(sum(((a - b) ** 2).sum() for a, b in zip(before, after, strict=True)))

    norm = moved(0.0) / 0.1
    assert norm > 0.1
    assert moved(norm / 3) == pytest.approx(0.1 * norm / 3)
    assert moved(norm * 3) == moved(0.0)


@pytest.mark.parametrize("init", ["zeros", "uniform", "normal", "glorot", "he", "lecun"])
def test_each_initialisation_has_its_spread(init):
    X, y = problem("multiclass", n_features=150)
    W, last = ours("multiclass", init=init, hidden_layer_sizes=(250,), max_iter=1, **STILL).fit(X, y).coefs_
    limit = np.sqrt(6 / 400)
    expected = {"zeros": 0, "uniform": 12**-0.5, "normal": 1, "glorot": limit / 3**0.5, "he": (2 / 150) ** 0.5}
    assert W.std() == pytest.approx(expected.get(init, 150**-0.5), rel=0.02)
    assert W.mean() == pytest.approx(0.5 if init == "uniform" else 0, abs=0.01)
    if init == "glorot":
        assert np.abs(W).max() <= limit
    assert last.shape == (250, 3)


def test_another_output_than_the_usual_one_is_learned():
    X, y = problem("binary")
    softmax = ours("binary", output="softmax", max_iter=150).fit(X, y)
    assert (softmax.out_activation_, softmax.n_outputs_) == ("softmax", 2)
    assert softmax.predict_proba(X).shape == (len(X), 2)
    np.testing.assert_allclose(softmax.predict_proba(X).sum(axis=1), 1)
    np.testing.assert_array_equal(softmax.predict(X), softmax.classes_[softmax.predict_proba(X).argmax(axis=1)])
    assert softmax.score(X, y) > 0.9
    assert_same_bits(ours("binary", output="sigmoid").fit(X, y), ours("binary").fit(X, y))

    X, y = problem("multiclass")
    sigmoid = ours("multiclass", output="sigmoid", max_iter=150, random_state=0).fit(X, y)
    assert (sigmoid.out_activation_, sigmoid.n_outputs_) == ("logistic", 3)
    proba = sigmoid.predict_proba(X)
    assert proba.shape == (len(X), 3)
    assert np.all((proba >= 0) & (proba <= 1))
    np.testing.assert_array_equal(sigmoid.predict(X), sigmoid.classes_[proba.argmax(axis=1)])
    assert sigmoid.score(X, y) > 0.8
    assert_same_bits(ours("multiclass", output="softmax").fit(X, y), ours("multiclass").fit(X, y))

    with pytest.raises(ValueError, match="softmax"):
        ours("multilabel", output="softmax").fit(*problem("multilabel"))


@pytest.mark.parametrize(
    ("dtype", "given", "trained"),
    [
        ("auto", np.float32, np.float32),
        ("auto", np.float64, np.float64),
        ("float32", np.float64, np.float32),
        ("float64", np.float32, np.float64),
    ],
)
@pytest.mark.parametrize("kind", [*CLASSIFY, "regression"])
def test_dtype_is_of_the_parameters_and_of_what_is_computed(kind, dtype, given, trained):
    X, y = problem(kind)
    model = ours(kind, dtype=dtype, max_iter=3).fit(X.astype(given), y)
    assert {array.dtype for array in model.coefs_ + model.intercepts_} == {np.dtype(trained)}
    values = model.predict(X.astype(given)) if kind == "regression" else model.predict_proba(X.astype(given))
    assert values.dtype == trained
    assert isinstance(model.loss_, float | np.floating)


@pytest.mark.parametrize("given", [{}, {"batch_size": 100}, {"solver": "lbfgs"}, {"dropout": 0.2}], ids=str)
def test_the_same_bits_again_and_on_any_number_of_threads(given):
    X, y = problem("multiclass", n=3000, n_features=40)
    given = {"hidden_layer_sizes": (64, 32), "max_iter": 3, "batch_size": "full", **given}
    one, two = (ours("multiclass", threads=threads, **given).fit(X, y) for threads in (1, 2))
    assert_same_bits(one, two)
    np.testing.assert_array_equal(one.predict_proba(X), two.predict_proba(X))
    before = [W.copy() for W in one.coefs_]
    for a, b in zip(before, one.fit(X, y).coefs_, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_without_hidden_layers_a_classifier_is_logistic_regression(kind):
    X, y = problem(kind, n=200)
    given = {"hidden_layer_sizes": (), "solver": "lbfgs", "tol": 1e-8, "max_iter": 500}
    for alpha in (0.1, 10.0):
        mine = ours(kind, alpha=alpha, **given).fit(X, y)
        theirs = LogisticRegression(C=1 / alpha, tol=1e-8, max_iter=500).fit(X, y)
        np.testing.assert_allclose(mine.predict_proba(X), theirs.predict_proba(X), atol=1e-4)
        if kind == "binary":
            np.testing.assert_allclose(mine.coefs_[0].T, theirs.coef_, atol=2e-3)


def test_without_hidden_layers_a_regressor_is_ridge():
    X, y = problem("regression")
    given = {"hidden_layer_sizes": (), "solver": "lbfgs", "tol": 1e-9, "max_iter": 500}
    mine = ours("regression", alpha=3.0, **given).fit(X, y)
    np.testing.assert_allclose(mine.coefs_[0][:, 0], Ridge(alpha=3.0).fit(X, y).coef_, atol=1e-4)


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression", "regressions"])
def test_the_model_is_saved_and_loaded(kind, tmp_path):
    X, y = problem(kind)
    model = ours(kind, max_iter=10).fit(X, y)
    assert isinstance(model.device_, str)
    fcgpu.save_model(model.model_, tmp_path / "model.safetensors")
    loaded = fcgpu.load_model(tmp_path / "model.safetensors")
    mine, theirs = model.predict(X), loaded.predict(X)
    if kind in CLASSIFY:
        np.testing.assert_array_equal(mine, theirs)
    else:
        np.testing.assert_allclose(mine, theirs, rtol=1e-9)
