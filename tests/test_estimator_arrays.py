"""Array types: any DLPack array is accepted, and with array-API dispatch the results are of the same kind."""

import tracemalloc
from copy import deepcopy

import numpy as np
import pytest

pytest.importorskip("sklearn")

from peers import CLASSIFY, assert_same_bits, ours, problem, weights
from sklearn import config_context
from sklearn.externals import array_api_compat
from sklearn.utils.estimator_checks import check_array_api_input_and_values

from fcgpu.estimator import arrays, labels

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

KINDS = [*CLASSIFY, "regression", "regressions"]


class Exporter:
    """An array that supports only the DLPack protocol."""

    def __init__(self, array):
        self._array = array

    def __dlpack__(self, **options):
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._array.__dlpack_device__()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "binary"])  # binary labels are text
def test_dlpack_arrays_are_taken_everywhere(kind, dtype):
    X, y = problem(kind)
    X, w, new = X.astype(dtype), weights(len(X)), problem(kind, seed=7)[0].astype(dtype)
    given = {"batch_size": 16, "max_iter": 5}
    exported = ours(kind, **given).fit(Exporter(X), Exporter(y), Exporter(w))
    plain = ours(kind, **given).fit(X, y, w)
    assert_same_bits(exported, plain)
    for method in ("predict", "predict_proba", "predict_log_proba"):
        if hasattr(plain, method):
            values = getattr(exported, method)(Exporter(new))
            assert type(values) is np.ndarray
            np.testing.assert_array_equal(values, getattr(plain, method)(new))
    assert exported.score(Exporter(X), Exporter(y)) == plain.score(X, y)
    assert_same_bits(exported.partial_fit(Exporter(X), Exporter(y)), plain.partial_fit(X, y))
    validated = ours(kind, **given).fit(X, y, validation_data=(Exporter(X), Exporter(y)))
    assert validated.validation_scores_[-1] == pytest.approx(validated.score(X, y))


def test_an_array_that_numpy_cannot_take_is_refused():
    class Bfloat16(Exporter):
        def __dlpack__(self, **options):
            raise RuntimeError("Unsupported dtype")

    class Elsewhere(Exporter):
        def __dlpack_device__(self):
            return 4, 0  # OpenCL

    X, y = problem("multiclass")
    with pytest.raises(ValueError, match="X lies on DLPack device type 4"):
        ours("multiclass").fit(Elsewhere(X), y)
    with pytest.raises(ValueError, match=r"Bfloat16 through DLPack: Unsupported dtype; expected an array of a NumPy"):
        ours("multiclass").fit(Bfloat16(X), y)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_handed_in_is_not_written_to(kind):
    X, y = problem(kind)
    X, w = np.asfortranarray(X), weights(len(X))
    before = [array.copy() for array in (X, y, w)]
    for array in (X, y, w):
        array.flags.writeable = False
    model = ours(kind, batch_size=16, max_iter=3, dropout=0.2).fit(X, y, w, validation_data=(X, y))
    model.predict(X)
    for array, copy in zip((X, y, w), before, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_the_bytes_does_not_matter(kind):
    X, y = problem(kind)
    plain = ours(kind, max_iter=3).fit(X, y)
    every_second = np.repeat(np.repeat(X, 2, axis=0), 2, axis=1)[::2, ::2]
    for other in (np.asfortranarray(X), every_second, X.tolist()):
        assert_same_bits(ours(kind, max_iter=3).fit(other, y), plain)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "binary"])
def test_cupy_arrays_give_cupy_arrays(kind, gpu):
    cp = gpu.xp
    X, y = problem(kind)
    given = {"batch_size": 16, "max_iter": 5}
    on_device = ours(kind, device="cuda", **given).fit(cp.asarray(X), cp.asarray(y))
    on_host = ours(kind, device="cpu", **given).fit(X, y)
    np.testing.assert_allclose(on_device.loss_curve_, on_host.loss_curve_, rtol=1e-6)
    for method in ("predict", "predict_proba"):
        if hasattr(on_host, method):
            values = getattr(on_device, method)(cp.asarray(X))
            assert isinstance(values, cp.ndarray)
            np.testing.assert_allclose(cp.asnumpy(values), getattr(on_host, method)(X), atol=1e-6)


@pytest.fixture(params=["array_api_strict", "torch"])
def namespace(request):
    return array_api_compat.get_namespace(pytest.importorskip(request.param).asarray(1.0))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "binary"])
def test_with_array_api_dispatch_arrays_give_their_own_kind(kind, dtype, namespace):
    X, y = problem(kind)
    X, w = X.astype(dtype), weights(len(X)).astype(dtype)
    given = {"batch_size": 16, "max_iter": 5}
    plain = ours(kind, **given).fit(X, y, w)
    X_there, y_there, w_there = map(namespace.asarray, (X, y, w))
    with config_context(array_api_dispatch=True):
        there = ours(kind, **given).fit(X_there, y_there, w_there)
        for method in ("predict", "predict_proba", "predict_log_proba"):
            if hasattr(plain, method):
                values, expected = getattr(there, method)(X_there), getattr(plain, method)(X)
                assert array_api_compat.get_namespace(values) is namespace, method
                assert np.from_dlpack(values).dtype == expected.dtype, method
                np.testing.assert_array_equal(np.from_dlpack(values), expected)
        score = there.score(X_there, y_there)
        assert isinstance(score, float)
        assert score == plain.score(X, y)
        with pytest.raises(ValueError, match="same namespace"):
            there.predict(X)
    assert_same_bits(there, plain)
    assert type(there.predict(X_there)) is np.ndarray  # without dispatch


def test_with_array_api_dispatch_a_scorer_watches_what_is_held_out(namespace):
    X, y = problem("multiclass")
    given = {"batch_size": 16, "max_iter": 5, "early_stopping": True, "monitor": "balanced_accuracy"}
    plain = ours("multiclass", **given).fit(X, y)
    with config_context(array_api_dispatch=True):
        there = ours("multiclass", **given).fit(*map(namespace.asarray, (X, y)))
    assert there.validation_scores_ == plain.validation_scores_


@pytest.mark.parametrize("kind", ["multiclass", "regression"])
@pytest.mark.parametrize(
    ("array_namespace", "place"),
    [("numpy", {}), ("array_api_strict", {"device_name": "CPU_DEVICE"}),
     ("array_api_strict", {"device_name": "device1", "dtype_name": "float32"})],
)  # fmt: skip
def test_scikit_learns_check_of_the_values(kind, array_namespace, place):
    pytest.importorskip(array_namespace)
    model = ours(kind, max_iter=5)
    assert model.__sklearn_tags__().array_api_support
    check_array_api_input_and_values("ours", model, array_namespace, check_sample_weight=True, **place)


def test_what_scikit_learns_check_would_return_is_not_checked_by_it(monkeypatch):
    """The check takes longer than a prediction; whatever it would convert, refuse or warn of goes through it."""

    class Asked(Exception):
        pass

    def asked(*args, **options):
        raise Asked

    X, y = problem("multiclass")
    named = pytest.importorskip("pandas").DataFrame(X, columns=[f"f{i}" for i in range(X.shape[1])])
    model, of_names = (ours("multiclass", max_iter=2).fit(samples, y) for samples in (X, named))
    want = model.predict(X)
    monkeypatch.setattr("fcgpu.estimator.arrays.validate_data", asked)
    np.testing.assert_array_equal(model.predict(X), want)
    np.testing.assert_array_equal(model.predict(np.asfortranarray(X)), want)
    np.testing.assert_array_equal(model.predict(X.astype(np.float32)), want)
    hole = X.copy()
    hole[-1, -1] = np.nan
    unusual = [
        *(X.tolist(), X.astype(np.int64), X.astype(np.float16), X.astype(object), X[0], X[:0]),
        *(X[:, 1:], hole, np.where(np.isnan(hole), -np.inf, X), np.ma.masked_array(X), named),
        np.resize(X, (1 << 14, X.shape[1])),
    ]
    for samples in unusual:
        with pytest.raises(Asked):
            model.predict(samples)
    with pytest.raises(Asked):
        of_names.predict(X)  # a warning: X has no names
    few = pytest.importorskip("scipy.sparse").csr_matrix(X * (X > 1))
    dense, hole = few.toarray(), few.copy()
    hole.data[-1] = np.nan
    for form in (few, few.tocsc(), few.astype(np.float32)):
        np.testing.assert_array_equal(model.predict(form), model.predict(dense))
    for samples in (hole, few.tocoo(), few.astype(np.int64), few[:0], few[:, 1:]):
        with pytest.raises(Asked):
            model.predict(samples)


def test_partial_fit_checks_what_it_must(monkeypatch):
    """After the first call numbers that no check would change are not checked by scikit-learn."""
    X, y = problem("multiclass")
    y = np.unique(y, return_inverse=True)[1]
    model = ours("multiclass", random_state=0).partial_fit(X, y, classes=[0, 1, 2])
    copy = deepcopy(model).partial_fit(X.tolist(), y.tolist())
    asked = []
    for name in ("arrays.validate_data", "labels.type_of_target"):
        real = getattr({"arrays": arrays, "labels": labels}[name.split(".")[0]], name.split(".")[1])
        monkeypatch.setattr(f"fcgpu.estimator.{name}", lambda *a, real=real, **k: asked.append(real) or real(*a, **k))
    assert_same_bits(model.partial_fit(X, y), copy)
    assert not asked
    others = [(wrong, "has classes not in") for wrong in (y + 1, y - 1, np.where(y == 1, 7, y))]
    shapes = [(y[1:], "inconsistent numbers of samples"), (np.c_[y, y], "multiclass-multioutput")]
    for wrong, words in (*others, *shapes, (y + 0.5, "continuous")):
        with pytest.raises(ValueError, match=words):
            model.partial_fit(X, wrong)
    hole = X.copy()
    hole[0, 0] = np.inf
    for wrong, words in ((hole, "infinity"), (X[:, 1:], "features"), (X[0], "2D")):
        with pytest.raises(ValueError, match=words):
            model.partial_fit(wrong, y)
    targets = np.where(np.arange(len(y)) == 3, np.nan, y.astype(float))
    regression = ours("regression", random_state=0).partial_fit(X, y.astype(float))
    with pytest.raises(ValueError, match="NaN"):
        regression.partial_fit(X, targets)


def test_the_hashes_of_a_sparse_matrix_are_those_of_its_rows():
    sparse = pytest.importorskip("scipy.sparse")
    random = np.random.default_rng(0)
    dense = random.normal(size=(50, 30)) * (random.random((50, 30)) < 0.2)
    dense[[0, 7, 49]] = 0
    dense[8] = dense[9]
    expected = arrays.row_hashes(dense)
    assert len(set(expected)) == 47
    made = sparse.csr_matrix(dense)
    long = made.copy()
    long.data, long.indices = (np.concatenate([a, a]) for a in (made.data, made.indices))
    twice = sparse.csr_matrix((np.repeat(made.data, 2) / 2, np.repeat(made.indices, 2), 2 * made.indptr), made.shape)
    zeros = made.copy()
    zeros.data[::4] = -0.0
    wide = sparse.csr_matrix((made.data, made.indices.astype(np.int64), made.indptr.astype(np.int64)), made.shape)
    for kind in (arrays.SparseRows, arrays.VerySparseRows):
        for matrix in (made, made.tocsc(), long, twice, wide):
            np.testing.assert_array_equal(arrays.row_hashes(kind(matrix)), expected)
        np.testing.assert_array_equal(arrays.row_hashes(kind(zeros)), arrays.row_hashes(zeros.toarray()))
    assert twice.nnz == 2 * made.nnz  # the caller's, which is not changed


def test_dropout_does_not_make_a_sparse_matrix_dense():
    sparse = pytest.importorskip("scipy.sparse")
    X = sparse.csr_matrix(([1.0, 2.0], ([0, 499], [5, 999_999])), (500, 1_000_000))
    tracemalloc.start()
    arrays.row_hashes(arrays.VerySparseRows(X))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 5e7  # of which the factors of the features are 16 MB


def test_errors_about_many_classes_are_one_short_line():
    X, y = np.zeros((600, 2)), np.arange(600) % 300
    warm = ours("multiclass", warm_start=True, max_iter=1).fit(X, y)
    part = ours("multiclass").partial_fit(X, y, classes=range(300))
    for call in (
        lambda: warm.fit(X, y + 1),
        lambda: part.partial_fit(X, y + 1),
        lambda: part.partial_fit(X, y, classes=range(1, 301)),
    ):
        with pytest.raises(ValueError, match=r"\[0, 1, 2, 3, 4, \.\.\., 298, 299\]") as refused:
            call()
        assert "[1, 2, 3, 4, 5, ..., 299, 300]" in str(refused.value)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_a_very_sparse_matrix_needs_no_buffer_of_its_features(solver):
    """Some systems refuse one of more than their memory, although nothing would be written to it."""
    X = pytest.importorskip("scipy.sparse").eye(4000, 100_000, format="csr")
    y = np.arange(4000) % 2
    tracemalloc.start()
    ours("binary", hidden_layer_sizes=(2,), solver=solver, max_iter=1, threads=2).fit(X, y).predict(X)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    vector = 8 * 200_000  # bytes of the first layer's weights
    assert most < 100 * vector  # 2,000 with a tile of dense samples
