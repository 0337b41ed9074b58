"""Wrong values of every parameter are refused by name and value, in fit and not before; a missing extra is reported."""

import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("sklearn")

from peers import ours, problem
from sklearn.exceptions import ConvergenceWarning

import fcgpu

BAD = {
    "hidden_layer_sizes": [(0,), (4, -1), -3, "wide", (2.5,)],
    "activation": ["swish", None],
    "solver": ["newton", None],
    "alpha": [-1.0, "much"],
    "batch_size": [0, -5, 2.5, "half"],
    "learning_rate": ["linear", 0.1],
    "learning_rate_init": [0, -0.1, "fast"],
    "power_t": [-0.5],
    "max_iter": [0, -1, 2.5],
    "shuffle": ["yes"],
    "random_state": ["seed", -1],
    "tol": [-1e-4],
    "verbose": ["yes", -1],
    "warm_start": ["yes"],
    "momentum": [-0.1, 1.1],
    "nesterovs_momentum": ["yes"],
    "early_stopping": ["yes"],
    "validation_fraction": [-0.1, 1.0],
    "beta_1": [1.0, -0.1],
    "beta_2": [1.0, -0.1],
    "epsilon": [0.0],
    "n_iter_no_change": [0, 2.5],
    "max_fun": [0],
    "dropout": [1.0, -0.1, "some", (0.1, 1.0)],
    "init": ["orthogonal", None],
    "rho": [1.0, -0.1],
    "weight_decay": [-0.1],
    "gradient_clip": [-1.0],
    "warmup": [-1],
    "callbacks": [3, ["not callable"]],
    "progress": ["yes"],
    "device": ["tpu", 0],
    "dtype": ["float16", "int"],
    "threads": [0, -2, 1.5],
}
CLASSIFIER = {"output": ["identity", None], "class_weight": ["even", 3.0, [1, 2], {4: np.inf}, {4: "much"}, {4: -1.0}]}
REGRESSOR = {"loss": ["absolute_error", None]}


def cases(kind, table):
    return [pytest.param(kind, key, value, id=f"{kind}-{key}={value}") for key, bad in table.items() for value in bad]


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [*cases("multiclass", BAD | CLASSIFIER), *cases("regression", BAD | REGRESSOR)],
)
def test_a_wrong_value_is_refused_by_name_and_value(kind, key, value):
    X, y = problem(kind)
    model = ours(kind, **{key: value})
    known = fcgpu.DeviceError if key == "device" else ValueError
    with pytest.raises((ValueError, known)) as refusal:
        model.fit(X, y)
    message = str(refusal.value)
    assert key in message
    assert str(value[-1] if isinstance(value, list | tuple) else value) in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("kind", "given", "words"),
    [
        ("multiclass", {"solver": "adam", "rho": 0.5}, "rho=0.5 with solver='adam': it is for 'rmsprop'"),
        ("regression", {"solver": "rmsprop", "weight_decay": 0.3}, "solver='rmsprop': it is for 'adamw'"),
        ("multiclass", {"solver": "lbfgs", "gradient_clip": 1.0}, "leave gradient_clip out"),
        ("multiclass", {"solver": "rprop", "learning_rate": "cosine"}, "follows no schedule"),
        ("regression", {"early_stopping": True, "validation_fraction": 0}, "validation_fraction=0 with early_stopping"),
        ("multiclass", {"early_stopping": True, "monitor": "f1_makro"}, "did you mean 'f1_macro'"),
        ("multilabel", {"output": "softmax"}, "needs 2 or more classes and one label a sample"),
        ("multiclass", {"dropout": [0.1]}, r"dropout=.0\.1. with hidden_layer_sizes=.7, 5.: .*one a hidden layer"),
    ],
    ids=str,
)
def test_values_that_do_not_go_together_are_refused_with_the_remedy(kind, given, words):
    with pytest.raises(ValueError, match=words):
        ours(kind, **given).fit(*problem(kind))


def test_what_is_changed_after_fit_is_judged_where_it_is_used():
    X, y = problem("multiclass")
    with pytest.warns(ConvergenceWarning):
        model = ours("multiclass", max_iter=1).fit(X, y).set_params(activation="rleu")
    with pytest.raises(ValueError, match="activation='rleu': did you mean 'relu'"):
        model.predict(X)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(
    ("kind", "changed", "output"),
    [("counts", {"loss": "squared_error"}, "identity"), ("multiclass", {"output": "sigmoid"}, "logistic")],
)
def test_another_loss_or_output_is_that_of_the_next_fit(kind, changed, output):
    X, y = problem(kind)
    model = ours(kind, max_iter=2, warm_start=True).fit(X, y)
    before = model.predict(X), model.model_.predict_proba(X), model.out_activation_
    model.set_params(**changed)
    for was, now in zip(before, (model.predict(X), model.model_.predict_proba(X), model.out_activation_), strict=True):
        np.testing.assert_array_equal(now, was)
    assert model.fit(X, y).out_activation_ == output
    assert model.model_.spec.output == output.replace("logistic", "sigmoid")


def test_balanced_classes_are_those_of_all_the_data():
    X, y = problem("multiclass")
    with pytest.raises(ValueError, match=r"class_weight='balanced' with partial_fit: .*compute_class_weight"):
        ours("multiclass", class_weight="balanced").partial_fit(X, y, classes=np.unique(y))
    ours("multiclass", class_weight={4: 2.0}).partial_fit(X, y, classes=np.unique(y))


USERS = {"rho": {"solver": "rmsprop"}, "weight_decay": {"solver": "adamw"}}


def test_the_values_at_the_borders_are_legal():
    X, y = problem("multiclass")
    borders = {
        "alpha": 0, "batch_size": 1, "power_t": 0, "max_iter": 1, "tol": 0, "momentum": 1.0, "beta_1": 0, "beta_2": 0,
        "n_iter_no_change": 1, "max_fun": 1, "dropout": 0, "rho": 0, "weight_decay": 0, "gradient_clip": 0, "warmup": 0,
        "threads": 1,
    }  # fmt: skip
    for key, value in borders.items():
        model = ours("multiclass", **{"max_iter": 1, **USERS.get(key, {}), key: value})
        with pytest.warns(ConvergenceWarning):
            model.fit(X, y)
        assert np.isfinite(model.loss_)
    X, y = problem("regression")
    with pytest.warns(ConvergenceWarning):
        ours("regression", max_iter=np.int64(2), alpha=np.float32(0.1), batch_size=np.int32(9)).fit(X, y)


def test_poisson_wants_counts_of_zero_or_more():
    X, y = problem("counts")
    with pytest.raises(ValueError, match=r"poisson|y >= 0"):
        ours("counts").fit(X, y - 1)


def test_one_class_is_learned_as_scikit_learn_learns_it():
    X, _ = problem("binary")
    with pytest.warns(ConvergenceWarning):
        model = ours("binary", max_iter=3).fit(X, np.full(len(X), "only"))
    assert set(model.predict(X)) == {"only"}
    with pytest.raises(AttributeError, match="every label is only; a Model tells at least two classes apart"):
        model.model_  # noqa: B018


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_notebook_shows_what_has_no_model():
    X, y = problem("binary")
    dates = np.where(y == "yes", np.datetime64("2020-01-01"), np.datetime64("2021-01-01"))
    assert ours("binary", max_iter=1).fit(X, dates)._repr_html_()
    assert ours("binary", max_iter=1).fit(X, y).set_params(activation="rleu")._repr_html_()


@pytest.mark.parametrize(
    ("X", "y", "words"),
    [
        (np.full((4, 2), np.nan), [0, 1, 0, 1], "NaN"),
        (np.zeros((4, 2)), [0, 1, 0], "inconsistent"),
        (np.zeros(4), [0, 1, 0, 1], "2D array"),
        (np.zeros((0, 2)), [], "0 sample"),
        (np.zeros((4, 2)), [0.5, 1.5, 2.5, 3.25], "Unknown label type"),
    ],
)
def test_data_that_cannot_be_learned_from_are_refused_in_scikit_learns_words(X, y, words):
    with pytest.raises(ValueError, match=words):
        ours("multiclass").fit(X, y)


WITHOUT_SKLEARN = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("sklearn", "scipy", "pandas", "joblib"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import fcgpu

*_, finished = fcgpu.train(([[0.0], [1.0]], [0, 1]), hidden=(), epochs=1, device="cpu")
for name in ("MLPClassifier", "MLPRegressor"):
    try:
        getattr(fcgpu, name)
    except fcgpu.MissingExtraError as error:
        assert isinstance(error, ImportError)
        print(error)
    try:
        exec(f"from fcgpu import {name}")
    except ImportError as error:
        assert "fcgpu[sklearn]" in str(error)
        print("from", name)
try:
    fcgpu.MLPClasifier
except AttributeError as error:
    print(error)

import inspect, pydoc
from fcgpu import *
print(train is fcgpu.train, "MLPClassifier" in dir(fcgpu), len(inspect.getmembers(fcgpu)) > 20)
print("load_model = load(" in pydoc.render_doc(fcgpu, renderer=pydoc.plaintext))
"""


def run(code):
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_without_scikit_learn_the_error_says_how_to_install_it():
    lines = run(WITHOUT_SKLEARN).splitlines()
    assert len(lines) == 7
    for name, line in (("MLPClassifier", lines[0]), ("MLPRegressor", lines[2])):
        assert name in line
        assert 'pip install "fcgpu[sklearn]"' in line
    assert lines[1] == "from MLPClassifier"
    assert "MLPClasifier" in lines[4]
    assert lines[5:] == ["True False True", "True"]  # a star import, inspect and help() do without those names


def test_an_estimator_imports_no_cupy_before_it_is_fitted():
    out = run("import sys, fcgpu; fcgpu.MLPClassifier(device='cuda'); print('cupy' in sys.modules)")
    assert out == "False\n"
