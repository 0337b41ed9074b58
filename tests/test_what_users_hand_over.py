"""Labels, features and arguments in all the forms that users pass: accepted, or refused with a clear message."""

import pickle
from collections.abc import Generator
from copy import copy, deepcopy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
import pytest

import fcgpu
from fcgpu.cli import main
from fcgpu.data.labels import as_classes
from fcgpu.data.names import names_of

OPTIONS = {"hidden": (6,), "epochs": 60, "learning_rate": 0.05, "device": "cpu"}
X = np.random.default_rng(0).normal(0, 1, (120, 4))
SIDE = X[:, 0] + X[:, 1] > 0


def learned(y, X=X, **options):
    *_, finished = fcgpu.train((X, y), **{**OPTIONS, **options})
    return finished.model


LABELS = {
    "-1 and 1": (np.where(SIDE, 1, -1), (-1, 1)),
    "3 and 7": (np.where(SIDE, 7, 3), (3, 7)),
    "text": (np.where(SIDE, "yes", "no"), ("no", "yes")),
    "objects": (np.where(SIDE, "yes", "no").astype(object), ("no", "yes")),
    "objects of numbers": (np.where(SIDE, 1, 0).astype(object), (0, 1)),
    "whole floats": (np.where(SIDE, 2.0, 1.0), (1, 2)),
    "bool": (SIDE, (0, 1)),
    "a list": (np.where(SIDE, 1, 0).tolist(), (0, 1)),
    "text of any length": (np.where(SIDE, "yes", "no").astype(np.dtypes.StringDType()), ("no", "yes")),
    "a column": (np.where(SIDE, 1, 0)[:, None], (0, 1)),
    "63 bits and more": (np.where(SIDE, np.uint64(2**63 + 5), np.uint64(7)), (7, 2**63 + 5)),
}


@pytest.mark.parametrize("kind", LABELS)
def test_a_model_answers_with_the_labels_that_it_was_given_and_is_judged_by_them(kind, tmp_path):
    y, classes = LABELS[kind]
    model = learned(y)
    assert model.classes == classes
    fcgpu.save_model(model, tmp_path / "m.safetensors")
    for one in (model, fcgpu.load_model(tmp_path / "m.safetensors")):
        right = one.predict(X) == np.ravel(y)
        assert right.mean() > 0.95
        score = one.score(X, y)
        assert (score.accuracy, score.samples) == (right.mean(), 120)


def test_a_regression_is_judged_by_its_targets():
    y = X @ [1.0, 2.0, 3.0, 4.0]
    model = learned(y, output="identity")
    score = model.score(X, y)
    assert score.accuracy is None
    assert score.loss == pytest.approx(0.5 * np.mean((model.predict(X) - y) ** 2), rel=1e-5)


@pytest.mark.parametrize("y", [X[:, 0] * 1e20, np.where(SIDE, 2.0**53, 1)])
def test_floats_too_great_to_be_exact_are_targets_and_no_labels(y):
    learned(y / 1e20, output="identity")
    assert learned(y, output="identity", epochs=1, dtype="float64").classes is None
    with pytest.raises(fcgpu.DataError, match=r"labels in one column, not .*e\+\d\d for sample"):
        learned(y)


PRICES = np.arange(300_000, 300_120)


@pytest.mark.parametrize(
    ("y", "y_test"), [(PRICES, PRICES + 60), (PRICES.astype(float), PRICES + 60), (PRICES, PRICES + 0.5)]
)
def test_whole_numbers_that_the_test_samples_do_not_share_are_targets(y, y_test, tmp_path):
    *_, finished = fcgpu.train((X, y, X, y_test), output="identity", **OPTIONS)
    values = finished.model.predict(X).astype(float)
    assert finished.test.loss == pytest.approx(0.5 * np.mean((values - y_test) ** 2), rel=1e-5)
    np.savez(tmp_path / "prices.npz", X=X, y=y, X_test=X, y_test=y_test)
    np.testing.assert_array_equal(fcgpu.load(tmp_path / "prices.npz").y_test, y_test)
    with pytest.raises(fcgpu.DataError, match=r"\(test\): label 300\d+(.5)? of sample \d+ is out of range; .*identity"):
        fcgpu.train((X, y, X, y_test), **OPTIONS)


def test_a_model_of_labels_is_judged_by_those_of_the_test_samples_alone():
    model = learned(np.where(SIDE, 7, 3))
    data = fcgpu.dataset(X, np.full(120, 3), X, np.where(SIDE, 7, 3))
    assert data.classes is None
    np.testing.assert_array_equal(model.targets(data, data.y_test), SIDE)


def test_targets_that_could_be_labels_are_refused_where_they_are_not():
    with pytest.raises(fcgpu.DataError, match=r"needs .* labels in one column, not targets, though whole numbers"):
        fcgpu.train(fcgpu.Dataset(X, np.arange(120.0)), **OPTIONS)
    with pytest.raises(fcgpu.DataError, match=r"y_test has shape \(120, 2\) .*; expected numbers in as many columns"):
        fcgpu.dataset(X, SIDE, X, np.column_stack([SIDE, SIDE]))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_short_floats_are_labels_where_they_are_whole(dtype):
    assert fcgpu.dataset(X, np.where(SIDE, 2, 1).astype(dtype)).classes == (1, 2)
    assert fcgpu.dataset(X, np.where(SIDE, 2.5, 1).astype(dtype)).classes is None


def test_targets_too_great_are_named():
    message = r"targets run from -\S+ to \S+e\+\d\d, beyond the range of float32: divide .*, or use dtype='float64'"
    with pytest.raises(fcgpu.DataError, match=message):
        learned(X[:, 0] * 1e60, output="identity")
    with pytest.raises(fcgpu.DivergenceError, match="features and targets of a smaller scale"):
        learned(X[:, 0] * 1e30, output="identity")  # whose squares are beyond it


def test_text_for_a_model_of_values_is_refused_whatever_its_output():
    model = learned(np.abs(X[:, 0]), output="exp")
    with pytest.raises(fcgpu.DataError, match=r"labels are text \(a\); expected numbers as targets"):
        model.score(X, ["a"] * len(X))


def test_labels_that_are_none_of_the_classes_are_named():
    model = learned(np.where(SIDE, 7, 3))
    for y, message in (
        (np.where(SIDE, 7, 4), "label 4 of sample"), (SIDE[:7], "for 120 samples"),
        (np.where(SIDE, "7", "3"), "label [37] is text, the classes 3, 7 are numbers"),
    ):  # fmt: skip
        with pytest.raises(fcgpu.DataError, match=message):
            model.score(X, y)


def test_classes_in_any_order_are_found_again():
    model = learned(np.where(SIDE, 1, 0))
    turned = fcgpu.Model(model.spec, model.params, (5, 2))
    np.testing.assert_array_equal(turned.targets(fcgpu.dataset(X, np.where(SIDE, 2, 5)), SIDE[:4] * 1), 1 - SIDE[:4])


@pytest.mark.parametrize("y", [[1, "a"] * 60, [None, 1] * 60])
def test_labels_of_no_one_kind_are_refused(y):
    with pytest.raises(fcgpu.DataError, match=r"must (all )?be whole numbers"):
        fcgpu.dataset(X, np.array(y, dtype=object))


def test_a_list_is_no_text_because_some_of_it_is():
    with pytest.raises(fcgpu.DataError, match=r"y has float \(nan for sample 1\) and str \('a' for sample 0\); labels"):
        fcgpu.dataset(X, ["a", np.nan] * 60)
    assert fcgpu.dataset(X, ["a", np.str_("b")] * 60).classes == ("a", "b")


def test_pictures_and_missing_labels_are_told_what_to_do():
    with pytest.raises(fcgpu.DataError, match=r"X has shape \(120, 2, 2\); expected .*: of pictures X.reshape"):
        fcgpu.dataset(X.reshape(120, 2, 2), SIDE)
    with pytest.raises(fcgpu.DataError, match=r"X has shape \(120,\); .* of one feature X.reshape\(-1, 1\)"):
        fcgpu.dataset(X[:, 0], SIDE)
    with pytest.raises(fcgpu.DataError, match=r"X has shape \(4,\); .*: of one sample X.reshape\(1, -1\)"):
        learned(SIDE, epochs=1).predict(X[0])
    with pytest.raises(fcgpu.DataError, match=r"label of sample 0 is nan; labels must be finite: drop such samples"):
        fcgpu.dataset(X, [np.nan] * 120)


def test_rows_of_several_lengths_and_masked_values_are_refused():
    with pytest.raises(fcgpu.DataError, match=r"X is no array .*; expected rows of equal length"):
        fcgpu.dataset([[1, 2], [3]], [0, 1])
    assert fcgpu.dataset(np.ma.masked_array(X), SIDE).n_samples == 120
    with pytest.raises(fcgpu.DataError, match=r"X has masked values; drop such samples, or fill them: X.filled"):
        fcgpu.dataset(np.ma.masked_less(X, 0), SIDE)


class Tensor:
    """As PyTorch's, whose conversion to NumPy fails."""

    def __init__(self, error):
        self.error = error

    def __array__(self, dtype=None, copy=None):
        raise self.error


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Tensor(RuntimeError("it requires grad. Use tensor.detach()")), r"Tensor that NumPy .*Use tensor.detach\(\)"),
        (Tensor(TypeError("unsupported ScalarType BFloat16")), r"Tensor that NumPy .*BFloat16\); expected its types"),
        ({"a": [1.0], "b": [2.0]}, "dict; expected an array, a list of rows or a table"),
        (None, "NoneType; expected an array"),
    ],
    ids=["gradient", "bfloat16", "dict", "None"],
)
def test_what_is_no_array_is_named(given, message):
    with pytest.raises(fcgpu.DataError, match=f"arrays: X is a {message}"):
        learned(SIDE, X=given)
    with pytest.raises(fcgpu.DataError, match=f"arrays: y is a {message}"):
        learned(given)


def test_tables_of_several_types_are_numbers():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(X, columns=list("abcd"))
    mixed = table.assign(flag=SIDE, count=pandas.array([1] * 120, dtype="Int64"))
    data = fcgpu.dataset(mixed, pandas.Series(np.where(SIDE, "yes", "no")))
    assert (data.X.dtype, data.X.shape, data.classes) == (np.float64, (120, 6), ("no", "yes"))
    for wrong, message in (
        (table.assign(word="a"), "feature 4 of sample 0 is 'a'; features must be real numbers: encode"),
        (table.assign(big=[1] * 119 + [10**400]), "feature 4 of sample 119 is 10*; features"),
        (table.assign(lists=[[1, 2]] * 120), r"feature 4 of sample 0 is \[1, 2\]; features"),
        (mixed.assign(count=pandas.array([1, None, *[1] * 118], dtype="Int64")), "feature 5 of sample 1 is <NA>; .*"),
    ):
        with pytest.raises(fcgpu.DataError, match=message):
            fcgpu.dataset(wrong, SIDE)


def test_sparse_matrices_are_sent_where_they_are_taken():
    sparse = pytest.importorskip("scipy.sparse")
    with pytest.raises(fcgpu.DataError, match=r"give X.toarray\(\), or use MLPClassifier"):
        fcgpu.dataset(sparse.csr_matrix(X), SIDE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": np.nan}, "scale=nan; expected a finite number above 0"),
        ({"scale": 0}, "scale=0; expected"),
        ({"scale": "1/255"}, "scale='1/255'; expected"),
        ({"image_shape": (7, 7)}, r"image_shape=\(7, 7\) with 4 features"),
        ({"image_shape": (4,)}, r"expected \(height, width\)"),
        ({"image_shape": "x"}, "image_shape='x'"),
        ({"image_shape": (-2, -2)}, r"image_shape=\(-2, -2\) with 4 features"),
        ({"y_test": SIDE}, "y_test without X_test"),
    ],
)
def test_a_dataset_is_checked(options, message):
    with pytest.raises(fcgpu.DataError, match=message):
        fcgpu.dataset(X, SIDE, **options)


def test_a_scale_of_numpys_is_a_number(tmp_path):
    *_, finished = fcgpu.train(fcgpu.dataset(X, SIDE, scale=np.float32(0.5), image_shape=[2, 2]), **OPTIONS)
    fcgpu.save_model(finished.model, tmp_path / "m.safetensors")
    loaded = fcgpu.load_model(tmp_path / "m.safetensors")
    assert (loaded.scale, loaded.image_shape) == (0.5, (2, 2))


def test_models_and_datasets_are_compared_by_identity():
    model, data = learned(SIDE), fcgpu.dataset(X, SIDE)
    assert model == model
    assert model != fcgpu.Model(model.spec, model.params)
    assert data != fcgpu.dataset(X, SIDE)
    assert len({model, data}) == 2


@pytest.mark.parametrize(
    ("data", "options", "error", "message"),
    [
        ("nope.csv", {}, fcgpu.DataError, r"data='nope.csv': expected \(X, y\).* fcgpu.load\(path\)"),
        (X, {}, fcgpu.DataError, r"data=a ndarray: expected \(X, y\)"),
        ((X, SIDE), {"recipe": "mnist"}, fcgpu.ConfigError, r"recipe='mnist': expected a Recipe; fcgpu.load_recipe"),
        ((X, SIDE), {"recipe": {"epochs": 3}}, fcgpu.ConfigError, r"recipe=\{'epochs': 3\}: expected a Recipe"),
        ((X, SIDE), {"recipe": np.eye(2)}, fcgpu.ConfigError, "recipe=a ndarray: "),  # two short lines
        ((X, SIDE), {"recipe": list(range(40))}, fcgpu.ConfigError, "recipe=a list: "),  # a long one
        (X, {"recipe": SIDE}, fcgpu.ConfigError, r"recipe=a ndarray: .* one argument: train\(\(X, y\), \.\.\.\)"),
        ((X, SIDE), {"threads": "2"}, fcgpu.ConfigError, "threads='2': expected a whole number of 1 or more"),
        ((X, SIDE), {"threads": 0}, fcgpu.ConfigError, "threads=0: expected a whole number of 1 or more"),
        ((X, SIDE), {"memory_budget": "300MB"}, fcgpu.ConfigError, "memory_budget='300MB': .* of bytes"),
        ((X, SIDE), {"device": 0}, fcgpu.ConfigError, "device=0 is not a device; choose from auto, cpu, cuda, cuda:N"),
        ((X, SIDE), {"device": None}, fcgpu.ConfigError, "device=None is not a device"),
        ((X, SIDE), {"start": 3}, fcgpu.ConfigError, "start=3: expected a State"),
        ((X, SIDE), {"start": fcgpu.State([0.0] * 9)}, fcgpu.ConfigError, "start has params=.*: expected an array of"),
        (
            (X, SIDE),
            {"start": fcgpu.State(np.zeros(9))},
            fcgpu.ConfigError,
            "start has 9 parameters: expected .* 9026 par",
        ),
        (
            (X, SIDE),
            {"start": fcgpu.State(np.zeros(10), epochs=9), "hidden": (), "epochs": 5},
            fcgpu.ConfigError,
            r"epochs=5 is less than the 9 epochs of start, which it counts, too: State\(start.params\) begins",
        ),
        ((X, SIDE), {"order": [1, 0]}, fcgpu.ConfigError, r"order=\[1, 0\]: expected an object with permutation"),
        ((X, SIDE), {"monitor": "loss"}, fcgpu.ConfigError, "monitor='loss': expected a function of EpochEnded"),
        ((X, [["a", "b"]] * 120), {}, fcgpu.DataError, r"y has shape \(120, 2\) for 120 samples; expected \(120,\)"),
        ((X, np.zeros((120, 0))), {}, fcgpu.DataError, r"y has shape \(120, 0\) for 120 samples"),
        ((X, SIDE), {"dropout": 0.5, "sample_ids": [1, 2]}, fcgpu.DataError, r"sample_ids has shape \(2,\); expected"),
        ((X, SIDE), {"sample_weight": np.full(120, 1e37)}, fcgpu.DataError, r"add up to 1.2e\+39; .* by their mean"),
        ((X, SIDE), {"sample_weight": np.full(120, np.inf)}, fcgpu.DataError, "run from inf to inf; expected finite"),
        ((X, SIDE), {"sample_weight": np.zeros(120)}, fcgpu.DataError, "run from 0 to 0; expected .*, not all 0"),
        ((X, SIDE), {"sample_weight": np.full(120, 1e-50)}, fcgpu.DataError, "add up to 1.2e-48; .* by their mean"),
    ],
)
def test_arguments_of_train_that_mean_nothing_are_refused(data, options, error, message):
    with pytest.raises(error, match=message):
        fcgpu.train(data, **options)


def test_what_is_printed_of_a_training_holds_no_arrays():
    """A first look at the events is print(event); Started was 500 labels, Finished all parameters."""
    events = list(fcgpu.train((X, SIDE, X, SIDE), **{**OPTIONS, "epochs": 1}))
    state = fcgpu.State(np.zeros(9), {"m": np.zeros(9)}, best=np.zeros(9))
    for one in (*events, events[-1].model, fcgpu.dataset(X, SIDE), state):
        assert "array(" not in repr(one)
    assert "classes=(0, 1)" in repr(events[-1])


def test_an_event_for_another_process_says_what_can_go_there_instead():
    for event in fcgpu.train((X, SIDE, X, SIDE), **{**OPTIONS, "epochs": 1}):
        with pytest.raises(TypeError, match=f"{type(event).__name__} refers to its run .* keep .* its model, its"):
            pickle.dumps(event)
        assert copy(event) is deepcopy(event) is event
    sent = pickle.loads(pickle.dumps((event.model, event.train, event.test)))
    np.testing.assert_array_equal(sent[0].params, event.model.params)
    assert sent[1:] == (event.train, event.test)


@pytest.mark.parametrize(
    "error", [fcgpu.DataError("a"), fcgpu.DeviceError("a"), fcgpu.MissingExtraError("a report", "matplotlib", "report")]
)
def test_an_error_comes_from_another_process_as_it_is(error):
    """One that does not would end multiprocessing's thread that waits for results."""
    sent = pickle.loads(pickle.dumps(error))
    assert (type(sent), str(sent)) == (type(error), str(error))


def test_a_backend_goes_to_another_process_by_its_device():
    backend = fcgpu.choose("cpu")
    for copied in (pickle.loads(pickle.dumps(backend)), deepcopy(backend)):
        assert copied == backend


@pytest.mark.parametrize("answer", [None, "0.5", [0.5], np.array([0.5, 0.6])])
def test_a_monitor_that_returns_no_number_is_named(answer):
    events = fcgpu.train((X, SIDE), monitor=lambda event: answer, early_stopping=True, **OPTIONS)
    with pytest.raises(fcgpu.ConfigError, match=r"monitor returned .* after epoch 1: expected a number"):
        list(events)


def test_the_types_of_train_are_what_it_takes_and_gives():
    types = get_type_hints(fcgpu.train)
    assert tuple[Any, Any, Any, Any] in get_args(types["data"])
    assert get_origin(types["return"]) is Generator
    assert isinstance(fcgpu.train((X, SIDE, X, SIDE), **OPTIONS), Generator)


@pytest.mark.parametrize("random", [np.random.RandomState(0), np.random.Generator(np.random.MT19937(0))])
def test_an_order_that_cannot_go_on_from_the_state_of_the_start_is_refused(random):
    events = fcgpu.train((X, SIDE), batch=30, device="cpu")
    next(events)
    state = next(events).state()
    with pytest.raises(fcgpu.ConfigError, match=f"order={type(random).__name__}: expected a Generator of PCG64"):
        fcgpu.train((X, SIDE), batch=30, device="cpu", start=state, order=random)
    next(fcgpu.train((X, SIDE), batch=30, device="cpu", start=replace(state, order=None), order=random))


@pytest.mark.parametrize("made", [np.arange(119), np.arange(121) % 120, np.zeros((120, 1), int)])
def test_an_order_of_another_shape_is_refused(made):
    events = fcgpu.train((X, SIDE), batch=30, device="cpu", order=SimpleNamespace(permutation=lambda n: made))
    with pytest.raises(
        fcgpu.ConfigError, match=r"order=SimpleNamespace: permutation\(120\) has shape .*; expected \(120,\)"
    ):
        list(events)


def test_numpys_numbers_are_numbers():
    mine = fcgpu.Recipe(
        batch=np.int64(5), hidden=np.array([5, 6]), seed=np.int32(3), learning_rate=np.float64(0.1),
        shuffle=np.True_, dtype=np.float64,
    )  # fmt: skip
    assert mine == fcgpu.Recipe(batch=5, hidden=(5, 6), seed=3, learning_rate=0.1, shuffle=True, dtype="float64")
    assert {type(v) for v in (mine.batch, mine.seed, *mine.hidden)} == {int}
    assert learned(SIDE, threads=np.int64(2)).classes == (0, 1)


def test_classes_of_more_than_64_bits_are_refused():
    assert as_classes([np.float64(3)], "y") == (3,)
    with pytest.raises(fcgpu.DataError, match="at most 64 bits"):
        as_classes([2**64], "y")


class TestEstimator:
    @pytest.fixture(autouse=True)
    def sklearn(self):
        pytest.importorskip("sklearn")

    @pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
    @pytest.mark.parametrize("kind", ["-1 and 1", "text", "objects", "whole floats", "bool"])
    def test_its_model_answers_as_it_does(self, kind, tmp_path):
        y, _ = LABELS[kind]
        fitted = fcgpu.MLPClassifier((6,), max_iter=60, random_state=0).fit(X, y)
        fcgpu.save_model(fitted.model_, tmp_path / "m.safetensors")
        found = fcgpu.load_model(tmp_path / "m.safetensors").predict(X.astype(fitted.coefs_[0].dtype))
        np.testing.assert_array_equal(found, fitted.predict(X))

    @pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
    def test_text_has_scikit_learns_dtype_in_whatever_it_comes(self):
        text = np.where(SIDE, "yes", "no").astype(object)
        for fitted in (
            fcgpu.MLPClassifier((6,), max_iter=2).fit(X, text),
            fcgpu.MLPClassifier((6,)).partial_fit(X, text, classes=np.array(["yes", "no"], object)),
            fcgpu.MLPClassifier((6,), max_iter=2).fit(X, text.astype("U9")),
        ):
            assert fitted.classes_.dtype == fitted.predict(X).dtype == np.dtype("<U3")

    @pytest.mark.parametrize(
        ("name", "X", "y", "message"),
        [
            ("MLPClassifier", X, SIDE.astype(object), r"Unknown label type: unknown; .* y.astype\(int\), or"),
            ("MLPClassifier", X, np.array([None, "a"] * 60), r"y has NoneType \(None for sample 0\) .*: drop sam"),
            ("MLPClassifier", X, np.array(["a", None] * 60), "y has NoneType .* and str .*: drop samples without one"),
            ("MLPClassifier", X, X[:, 0], "Unknown label type: continuous; .* are for MLPRegressor"),
            ("MLPClassifier", X, np.c_[SIDE, [0, 1, 2] * 40], r"multioutput; .*\.MultiOutputClassifier fits"),
            ("MLPRegressor", X, np.where(SIDE, "1", "0"), "y has dtype <U1: expected real numbers; text .* MLPClass"),
            ("MLPRegressor", X, np.full(120, "2026-01-01", "M8[D]"), "y has dtype datetime64.*: expected real"),
            ("MLPRegressor", X.astype("M8[s]"), X[:, 0], "X has dtype datetime64.*; encode text, categories and dates"),
        ],
    )
    def test_what_an_estimator_cannot_learn_has_a_remedy(self, name, X, y, message):
        with pytest.raises(fcgpu.DataError, match=message):
            getattr(fcgpu, name)(hidden_layer_sizes=(6,)).fit(X, y)

    @pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
    def test_whole_numbers_below_zero_are_features_like_others(self):
        whole = np.random.default_rng(0).integers(-5, 6, (600, 8))
        y = (whole[:, 0] < -2).astype(int) + (whole[:, 1] < 0)
        fits = [
            fcgpu.MLPClassifier((16,), random_state=0, max_iter=20, dtype="float64").fit(whole.astype(dtype), y)
            for dtype in (np.int64, np.int8, np.float64)
        ]
        for other in fits[1:]:
            np.testing.assert_allclose(other.loss_curve_, fits[0].loss_curve_, rtol=1e-9)

    @pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
    def test_a_type_of_numpys_is_a_type(self):
        fitted = fcgpu.MLPClassifier((6,), max_iter=2, dtype=np.float32).fit(X, SIDE)
        assert fitted.coefs_[0].dtype == np.float32
        with pytest.raises(ValueError, match="dtype"):
            fcgpu.MLPClassifier((6,), dtype=np.int32).fit(X, SIDE)

    @pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
    def test_numpys_true_stops_a_training_and_other_answers_do_not(self):
        for answer, epochs in ((np.True_, 1), (True, 1), (np.False_, 3), (1.0, 3), (None, 3)):
            fitted = fcgpu.MLPClassifier(
                (6,), max_iter=3, callbacks=[lambda e, a=answer: a if isinstance(e, fcgpu.EpochEnded) else None]
            )
            assert fitted.fit(X, SIDE).n_iter_ == epochs


@pytest.mark.parametrize(
    ("X", "y", "classes", "message"),
    [
        ([[1.0], [2.0]], [0, 1], (0, 1), "a list and a list; expected arrays as Dataset describes them; fcgpu.dataset"),
        (np.ones((2, 1)), np.array([0, 1, 0]), (0, 1), r"an array of shape \(2, 1\) and an array of shape \(3,\)"),
        (np.ones((2, 1)), np.array(["a", "b"]), None, "y of dtype <U1; expected"),
        (np.ones((2, 1)), np.array([0, 2]), (0, 1), "y is no index into 2 classes"),
        (np.ones((2, 1)), np.array([0.0, 1.0]), (0, 1), "y is no index into 2 classes"),
    ],
)
def test_a_dataset_that_is_none_is_refused_where_it_is_made(X, y, classes, message):
    with pytest.raises(fcgpu.DataError, match=message):
        fcgpu.Dataset(X, y, classes=classes)


ORDER = "feature 0 is 'c', the model was trained with 'a': give the same features in the same order"


def test_a_frame_with_its_columns_in_another_order_is_refused(tmp_path):
    pd = pytest.importorskip("pandas")
    frame, y = pd.DataFrame(X, columns=list("abcd")), SIDE.astype(int)
    trained = learned(y, frame)
    fcgpu.save_model(trained, tmp_path / "model.safetensors")
    for model in (trained, fcgpu.load_model(tmp_path / "model.safetensors")):
        np.testing.assert_array_equal(model.predict(frame), model.predict(X))
        np.testing.assert_array_equal(model.predict(frame.rename(columns=str.upper).to_numpy()), model.predict(X))
        with pytest.raises(fcgpu.DataError, match=f"^X: {ORDER}$"):
            model.predict(frame[list("cbad")])
        with pytest.raises(fcgpu.DataError, match=f"^X and y: {ORDER}$"):
            model.score(frame[list("cbad")], y)
        with pytest.raises(fcgpu.DataError, match=r"feature 3 is 'x', .* with 'd': give the features of the tr"):
            model.predict(frame.rename(columns={"d": "x"}))
        with pytest.raises(fcgpu.DataError, match="X has 3 features, the model was trained with 4"):
            model.predict(frame[list("abc")])
    with pytest.raises(fcgpu.DataError, match=r"^arrays \(test\): feature 0 is 'c'"):
        fcgpu.dataset(frame, y, frame[list("cbad")], y)
    with pytest.raises(fcgpu.DataError, match="X_test has 3 features, X has 4"):
        fcgpu.dataset(frame, y, frame[list("abc")], y)
    assert learned(y, frame.rename(columns={"a": 0})).feature_names is None  # not all are text


def test_the_columns_of_a_pyarrow_table_have_names():
    assert names_of(SimpleNamespace(columns=[X[:, 0], X[:, 1]], column_names=["a", "b"])) == ("a", "b")
    pyarrow = pytest.importorskip("pyarrow")
    trained = learned(SIDE, pyarrow.table({name: X[:, i] for i, name in enumerate("abcd")}))
    assert trained.feature_names == tuple("abcd")
    with pytest.raises(fcgpu.DataError, match=f"^X: {ORDER}$"):
        trained.predict(pyarrow.table({name: X[:, i] for i, name in enumerate("cbad")}))


@pytest.mark.filterwarnings("ignore:.*converge")
def test_the_estimators_models_know_the_names_of_a_frame():
    pd, _ = pytest.importorskip("pandas"), pytest.importorskip("sklearn")
    from sklearn.neural_network import MLPClassifier

    frame, y = pd.DataFrame(X, columns=list("abcd")), SIDE.astype(int)
    ours = fcgpu.MLPClassifier(max_iter=2, tol=0).fit(frame, y).model_
    theirs = fcgpu.from_sklearn(MLPClassifier(max_iter=300).fit(frame, y))
    for model in (ours, theirs):
        assert model.feature_names == tuple("abcd")
        with pytest.raises(fcgpu.DataError, match=ORDER):
            model.predict(frame[list("cbad")])


def test_names_in_a_table_must_be_those_of_the_training(tmp_path, capsys):
    def table(name, header, columns):
        np.savetxt(tmp_path / name, columns, "%.17g", ",", header=header, comments="")
        return str(tmp_path / name)

    y, out = SIDE.astype(int)[:, None], str(tmp_path / "run")
    train = table("train.csv", "label,a, 'b',c,\"d\"", np.hstack([y, X]))
    assert main(["train", train, "--epochs", "2", "--quiet", "--out", out]) == 0
    assert fcgpu.load_model(tmp_path / "run" / "model.safetensors").feature_names == tuple("abcd")
    for name, header, columns, message in (
        ("same.csv", "a,b,c,d", X, ""),
        ("labelled.csv", "y,a,b,c,d", np.hstack([y, X]), ""),
        ("bare.csv", "", X, ""),
        ("turned.csv", "c,b,a,d", X[:, [2, 1, 0, 3]], ORDER),
        ("labelled_turned.csv", "y,c,b,a,d", np.hstack([y, X]), ORDER),
        ("other.csv", "a,b,c,x", X, "feature 3 is 'x', the model was trained with 'd'"),
    ):
        capsys.readouterr()
        assert main(["predict", out, table(name, header, columns)]) == (2 if message else 0)
        assert message in capsys.readouterr().err
    assert main(["evaluate", out, table("turned.csv", "label,c,b,a,d", np.hstack([y, X]))]) == 2
    assert ORDER in capsys.readouterr().err
    assert main(["evaluate", out]) == 0
