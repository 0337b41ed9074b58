"""The estimators in the rest of scikit-learn and other libraries: searches, pipelines, copies, tables, sparse rows."""

import pickle

import numpy as np
import pytest

pytest.importorskip("sklearn")

import joblib
from peers import CLASSIFY, assert_same_bits, assert_same_fit, assert_same_network, ours, pair, problem
from scipy import sparse
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import BaggingClassifier, VotingClassifier
from sklearn.experimental import enable_halving_search_cv  # noqa: F401 (what it imports is public only after this)
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, HalvingGridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

import fcgpu
from fcgpu.estimator import arrays

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

KINDS = [*CLASSIFY, "regression"]


def quick(kind, **given):
    return ours(kind, **({"max_iter": 30, "learning_rate_init": 0.05} | given))


@pytest.mark.parametrize("kind", KINDS)
def test_pipeline_and_cross_validation(kind):
    X, y = problem(kind, n=90)
    pipeline = make_pipeline(StandardScaler(), quick(kind))
    scaled = StandardScaler().fit_transform(X)
    np.testing.assert_array_equal(pipeline.fit(X, y).predict(X), quick(kind).fit(scaled, y).predict(scaled))
    scores = cross_val_score(pipeline, X, y, cv=3)
    assert scores.shape == (3,)
    assert scores.mean() > 0.3


def test_grid_search_has_equal_results_in_two_processes():
    X, y = problem("multiclass", n=90)
    grid = {"hidden_layer_sizes": [(), (4,)], "solver": ["adam", "lbfgs"]}
    one, two = (GridSearchCV(quick("multiclass"), grid, cv=2, n_jobs=n_jobs).fit(X, y) for n_jobs in (None, 2))
    assert two.best_score_ > 0.6
    assert two.best_estimator_.predict(X).shape == y.shape
    np.testing.assert_array_equal(one.cv_results_["mean_test_score"], two.cv_results_["mean_test_score"])


@pytest.mark.parametrize("resource", ["n_samples", "max_iter"])
def test_halving_search(resource):
    X, y = problem("multiclass", n=120)
    limit = {} if resource == "n_samples" else {"min_resources": 4, "max_resources": 16}
    search = HalvingGridSearchCV(
        quick("multiclass"), {"alpha": [1e-4, 10.0, 100.0]}, resource=resource, factor=2, cv=2, random_state=0, **limit
    )
    assert search.fit(X, y).best_params_["alpha"] == 1e-4


def test_ensembles_and_calibration():
    X, y = problem("binary", n=90)
    voting = VotingClassifier([("net", quick("binary")), ("linear", LogisticRegression())], voting="soft").fit(X, y)
    assert voting.score(X, y) > 0.8
    calibrated = CalibratedClassifierCV(quick("binary"), cv=3).fit(X, y)
    np.testing.assert_allclose(calibrated.predict_proba(X).sum(axis=1), 1)
    bagging = BaggingClassifier(quick("binary"), n_estimators=3, n_jobs=2, random_state=0).fit(X, y)
    assert bagging.score(X, y) > 0.8


def test_set_output():
    pd = pytest.importorskip("pandas")
    X, y = problem("binary")
    frame = pd.DataFrame(X, columns=list("abcdef"))
    pipeline = make_pipeline(MinMaxScaler(), quick("binary")).set_output(transform="pandas")
    pipeline.fit(frame, y)
    assert list(pipeline[-1].feature_names_in_) == list("abcdef")
    assert isinstance(pipeline.predict_proba(frame), np.ndarray)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("early_stopping", [False, True])
def test_frames_have_their_names_checked(kind, early_stopping):
    pd = pytest.importorskip("pandas")
    X, y = problem(kind)
    frame = pd.DataFrame(X, columns=list("abcdef"))
    targets = pd.Series(y, index=np.arange(100, 153)) if y.ndim == 1 else pd.DataFrame(y)
    model = quick(kind, early_stopping=early_stopping, validation_fraction=0.3).fit(frame, targets)
    np.testing.assert_array_equal(model.feature_names_in_, list("abcdef"))
    assert_same_bits(model, quick(kind, early_stopping=early_stopping, validation_fraction=0.3).fit(X, y))
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame[list("fedcba")])
    with pytest.warns(UserWarning, match="feature names"):
        model.predict(X)
    with pytest.raises(ValueError, match="6 features"):
        quick(kind).fit(X, y).predict(X[:, :5])


@pytest.mark.parametrize("container", [sparse.csr_array, sparse.csc_array, sparse.csr_matrix, sparse.csc_matrix])
@pytest.mark.parametrize("kind", ["multiclass", "regression"])
def test_sparse_rows_are_their_dense_selves(kind, container):
    X, y = problem(kind)
    X = np.where(np.abs(X) > 0.7, X, 0)
    for given in ({"batch_size": 16}, {"solver": "lbfgs", "max_iter": 10}, {"early_stopping": True}):
        dense, rows = quick(kind, **given).fit(X, y), quick(kind, **given).fit(container(X), y)
        assert_same_fit(rows, dense)
        np.testing.assert_allclose(rows.predict(container(X)).astype(float), dense.predict(X).astype(float), atol=1e-5)
    both = pair(kind, batch_size=16, max_iter=10)
    assert_same_fit(*(estimator.fit(container(X), y) for estimator in both))
    assert_same_network(*(estimator.partial_fit(container(X), y) for estimator in both))


@pytest.mark.parametrize(
    ("container", "dtype"),
    [(sparse.csr_array, "float64"), (sparse.csc_matrix, "float32"), (sparse.csr_array, "int64"),
     (sparse.csc_matrix, "uint8")],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["binary", "multilabel", "regression"])
def test_very_sparse_rows_are_multiplied_as_such(kind, container, dtype, monkeypatch):
    X = np.zeros((60, 40), dtype)  # one number of ten or more is not 0
    random = np.random.default_rng(0)
    X[np.repeat(np.arange(60), 4), random.integers(0, 40, 240)] = random.integers(1, 5, 240)
    y = problem(kind, n=60)[1]
    rows, multiplied = container(X), []
    real = arrays.VerySparseRows.__getitem__
    monkeypatch.setattr(arrays.VerySparseRows, "__getitem__", lambda s, i: multiplied.append(real(s, i)) or real(s, i))
    for given in (
        {"batch_size": 16}, {"batch_size": 16, "dropout": 0.3, "threads": 3}, {"solver": "lbfgs"},
        {"early_stopping": True, "batch_size": 7}, {"batch_size": 60, "alpha": 0.1},
    ):  # fmt: skip
        dense, model = (quick(kind, max_iter=5, **given).fit(samples, y) for samples in (X, rows))
        atol = 1e-6 if dtype in ("float64", "int64") else 1e-3
        assert_same_fit(model, dense, atol)
        found, expected = model._outputs(rows, "predict")[0], model._outputs(X, "predict")[0]
        np.testing.assert_allclose(found, expected, atol=atol)
        assert found.dtype == expected.dtype
    assert all(sparse.issparse(part) for part in multiplied)
    assert len(multiplied) > 100


def test_a_matrix_without_numbers():
    rows, y = sparse.csr_array((40, 9)), np.arange(40) % 3
    model = quick("multiclass", batch_size=8).fit(rows, y)
    assert_same_fit(model, quick("multiclass", batch_size=8).fit(rows.toarray(), y))


def test_a_sparse_multilabel_target():
    X, y = problem("multilabel")
    assert_same_bits(quick("multilabel").fit(X, sparse.csr_array(y)), quick("multilabel").fit(X, y))


@pytest.mark.parametrize("container", [sparse.csr_matrix, sparse.csc_array])
def test_sparse_targets_are_refused_with_the_remedy(container):
    X, y = problem("regressions")
    with pytest.raises(fcgpu.DataError, match=r"y is a sparse matrix: expected dense targets, as y.toarray\(\)"):
        ours("regressions").fit(X, container(y))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_copies_predict_and_go_on_with_the_same_bits(kind, solver, tmp_path):
    X, y = problem(kind)
    model = quick(kind, solver=solver, dropout=0.0, batch_size=16).fit(X, y)
    joblib.dump(model, tmp_path / "model.joblib")
    for copy in (pickle.loads(pickle.dumps(model)), joblib.load(tmp_path / "model.joblib")):
        assert_same_bits(copy, model)
        np.testing.assert_array_equal(copy.predict(X), model.predict(X))
        if solver == "adam":  # continues with the same optimizer state
            assert_same_bits(copy.partial_fit(X, y), pickle.loads(pickle.dumps(model)).partial_fit(X, y))
            twin = quick(kind, solver=solver, batch_size=16).fit(X, y).partial_fit(X, y)
            assert_same_bits(copy, twin)
    fresh = clone(model)
    assert not hasattr(fresh, "coefs_")
    assert fresh.get_params() == model.get_params()
    assert_same_bits(fresh.fit(X, y), model)


@pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor"])
def test_parameters_are_kept_as_they_are_given(name):
    cls = getattr(fcgpu, name)
    sizes = [3, 2]
    model = cls(hidden_layer_sizes=sizes, dropout=[0.1, 0.2], device="cuda:7", solver="nonsense")  # checked only in fit
    assert model.get_params()["hidden_layer_sizes"] is sizes
    assert model.set_params(solver="rprop", batch_size="full").solver == "rprop"
    assert "rprop" in repr(model)
    with pytest.raises(ValueError, match="momentun"):
        model.set_params(momentun=0.5)


@pytest.mark.parametrize("kind", ["binary", "regression"])
def test_a_subclass_may_take_other_parameters(kind):
    """As searches that know no tuples need them."""
    X, y = problem(kind)

    def searched(base):
        class Two(base):
            def __init__(self, first=4, second=3, alpha=0.0):
                super().__init__(hidden_layer_sizes=(first, second), alpha=alpha, max_iter=20, random_state=0)
                self.first, self.second = first, second

        return GridSearchCV(Two(), {"first": [2, 9], "alpha": [1e-4, 1.0]}, cv=3).fit(X, y)

    mine, other = (searched(type(estimator)) for estimator in pair(kind))
    assert mine.best_params_ == other.best_params_
    assert [W.shape for W in mine.best_estimator_.coefs_] == [W.shape for W in other.best_estimator_.coefs_]
    np.testing.assert_allclose(mine.cv_results_["mean_test_score"], other.cv_results_["mean_test_score"], atol=1e-6)


def test_a_subclass_may_take_any_parameters():
    class Named(fcgpu.MLPRegressor):
        def __init__(self, name, **given):
            super().__init__(**given)
            self.name = name

    X, y = problem("regression")
    assert_same_bits(Named("a", hidden_layer_sizes=(3,), random_state=0).fit(X, y),
                     fcgpu.MLPRegressor(hidden_layer_sizes=(3,), random_state=0).fit(X, y))  # fmt: skip
