"""Exchange with PyTorch and scikit-learn: a converted model predicts the same, and the same again converted back."""

import subprocess
import sys

import numpy as np
import pytest
from command import ROOT
from given import model

import fcgpu
from fcgpu.kernels.activations import HIDDEN_ACTIVATIONS
from fcgpu.kernels.losses import OUTPUTS

X = np.random.default_rng(1).integers(0, 256, (200, 20)).astype(np.float64)


WITHOUT = """
import sys
class Finder:
    def find_spec(name, path=None, target=None):
        if name == "{package}":
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Finder)
"""


def assert_equal(mine, theirs):
    assert theirs.shape == mine.shape
    assert np.ptp(mine) > 0.01
    np.testing.assert_allclose(theirs, mine, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("activation", HIDDEN_ACTIVATIONS)
def test_torch_there_and_back(activation, output, dtype):
    torch = pytest.importorskip("torch")
    m = model(activation, output, dtype=dtype)
    network = fcgpu.to_torch(m)
    expected = m.predict_proba(X)
    with torch.no_grad():
        assert_equal(expected, network(torch.from_numpy(X.astype(dtype))).numpy())
        assert_equal(m.decision_function(X), network[:-1](torch.from_numpy(X.astype(dtype))).numpy())
    back = fcgpu.from_torch(network, m.classes)
    assert (back.spec.sizes, back.spec.activation, back.spec.output) == (m.spec.sizes, activation, output)
    assert back.params.dtype == dtype
    assert_equal(expected, back.predict_proba(X))
    if m.classes:
        np.testing.assert_array_equal(back.predict(X), m.predict(X))
    with torch.no_grad():
        network[0].weight.zero_()
    assert_equal(expected, m.predict_proba(X))
    assert_equal(expected, back.predict_proba(X))


def test_torchs_own_networks_come_in():
    torch = pytest.importorskip("torch")
    nn = torch.nn
    torch.manual_seed(0)
    hidden = (nn.Linear(20, 8), nn.ReLU(inplace=True), nn.Dropout(0.5))
    network = nn.Sequential(*hidden, nn.Linear(8, 3), nn.Softmax(dim=-1)).eval()
    m = fcgpu.from_torch(network, classes=[4, 5, 6])
    with torch.no_grad():
        assert_equal(m.predict_proba(X / 255), network(torch.from_numpy(X / 255).float()).numpy())
    assert set(m.predict(X / 255)) <= {4, 5, 6}
    one = fcgpu.from_torch(nn.Sequential(nn.Linear(20, 1), nn.Sigmoid()), classes=["no", "yes"])
    assert set(one.predict(X)) <= {"no", "yes"}


def test_what_is_no_such_network_is_refused():
    torch = pytest.importorskip("torch")
    nn = torch.nn
    wide = nn.Linear(4, 4)
    for parts, classes, message in (
        ([wide, nn.ReLU(), wide], None, "in turn"),
        ([nn.Linear(4, 4, bias=False), nn.Identity()], None, "with a bias"),
        ([wide, nn.GELU(), wide, nn.Identity()], None, "GELU"),
        ([wide, nn.LeakyReLU(0.2), wide, nn.Identity()], None, "negative_slope=0.2"),
        ([wide, nn.ReLU(), wide, nn.Tanh(), wide, nn.Identity()], None, "same activation"),
        ([wide, nn.Softmax(dim=0)], None, "dim=0"),
        ([nn.Linear(4, 4).half(), nn.Identity()], None, "float16"),
        ([wide, nn.Softmax(dim=1)], [1, 2], r"classes=\[1, 2\] for 4 outputs"),
        ([wide, nn.Softmax(dim=1)], [1, 2, 2, 3], "a different whole number or text for each"),
        ([wide, nn.Identity()], [1, 2, 3, 4], "none for values"),
        ([nn.Linear(4, 3), nn.ReLU(), wide, nn.Identity()], None, "as many inputs as the one before"),
        ([], None, "expected Linear layers"),
    ):
        with pytest.raises(fcgpu.ConfigError, match=message):
            fcgpu.from_torch(nn.Sequential(*parts), classes)
    for other in (nn.Linear(5, 4), nn.ModuleList([wide]), None):
        with pytest.raises(fcgpu.ConfigError, match=r"expected a torch.nn.Sequential"):
            fcgpu.from_torch(other)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("output", "k"), [("softmax", 3), ("sigmoid", 1), ("identity", 1), ("identity", 2), ("exp", 1)]
)
@pytest.mark.parametrize("activation", ["identity", "sigmoid", "tanh", "relu"])
def test_to_sklearn_and_back(activation, output, k, dtype):
    sklearn = pytest.importorskip("sklearn")
    m = model(activation, output, (20, 16, 8, k), dtype)
    theirs, given = fcgpu.to_sklearn(m), X.astype(dtype)
    assert sklearn.base.is_classifier(theirs) == OUTPUTS[output].classifies
    mine = m.predict_proba(X)
    if m.classes:
        assert_equal(mine, theirs.predict_proba(given))
        np.testing.assert_array_equal(theirs.predict(given), m.predict(X))
    else:
        assert_equal(m.predict(X), theirs.predict(given))
    assert theirs.loss == {"identity": "squared_error", "exp": "poisson"}.get(output, "log_loss")
    back = fcgpu.from_sklearn(theirs)
    assert (back.spec.sizes, back.spec.activation, back.spec.output) == (m.spec.sizes, activation, output)
    assert back.classes == m.classes
    assert_equal(mine, back.predict_proba(X))
    theirs.coefs_[0][...] = theirs.intercepts_[0][...] = 0
    assert_equal(mine, m.predict_proba(X))
    assert_equal(mine, back.predict_proba(X))


def test_labels_of_64_bits_are_sklearns_too():
    pytest.importorskip("sklearn")
    m = model("tanh", "sigmoid", (20, 8, 1), classes=(7, 2**63 + 5))
    theirs = fcgpu.to_sklearn(m)
    np.testing.assert_array_equal(theirs.predict(X), m.predict(X))
    assert fcgpu.from_sklearn(theirs).classes == m.classes


def test_without_hidden_layers_any_activation_is_sklearns_too():
    pytest.importorskip("sklearn")
    m = model("leaky_relu", sizes=(20, 3))
    assert_equal(m.predict_proba(X), fcgpu.to_sklearn(m).predict_proba(X))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel", "regression", "regressions", "poisson"])
def test_what_sklearn_fitted_comes_in_and_goes_back(kind):
    pytest.importorskip("sklearn")
    from peers import problem
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    data, y = problem("regression" if kind == "poisson" else kind)
    given = {"hidden_layer_sizes": (12,), "solver": "lbfgs", "max_iter": 20, "random_state": 0}
    if kind == "poisson":
        estimator = MLPRegressor(loss="poisson", **given).fit(data, abs(y))
    else:
        estimator = (MLPRegressor if kind.startswith("regr") else MLPClassifier)(**given).fit(data, y)
    regression = isinstance(estimator, MLPRegressor)
    m = fcgpu.from_sklearn(estimator)
    again = fcgpu.to_sklearn(m)
    np.testing.assert_array_equal(again.predict(data), estimator.predict(data))
    if not regression:
        np.testing.assert_array_equal(again.predict_proba(data), estimator.predict_proba(data))
    if regression:
        np.testing.assert_allclose(m.predict(data), estimator.predict(data), atol=1e-6)
    elif kind == "multilabel":
        np.testing.assert_allclose(m.predict_proba(data), estimator.predict_proba(data), atol=1e-6)
    else:
        np.testing.assert_array_equal(m.predict(data), estimator.predict(data))


@pytest.mark.parametrize("output", ["softmax", "identity"])
def test_sklearn_trains_it_further(output):
    pytest.importorskip("sklearn")
    m = model("relu", output)
    theirs, y = fcgpu.to_sklearn(m), m.predict(X)
    before = theirs.coefs_[0].copy()
    theirs.set_params(random_state=0)
    theirs.partial_fit(X / 255, y)
    assert len(theirs.loss_curve_) == 1
    assert 0 < np.abs(theirs.coefs_[0] - before).max() < 0.1


def test_what_sklearn_cannot_express_is_refused():
    pytest.importorskip("sklearn")
    from sklearn.exceptions import NotFittedError
    from sklearn.linear_model import Ridge
    from sklearn.neural_network import MLPClassifier

    for m, message in (
        (model("leaky_relu"), "leaky_relu"),
        (model(output="sigmoid"), "each of 3 classes"),
        (model(sizes=(20, 4, 2)), "softmax of two"),
        (model(classes=("b", "a", "c")), "ascending"),
        (model(output="sigmoid", sizes=(20, 4, 1), classes=None), "without classes"),
    ):
        with pytest.raises(fcgpu.ConfigError, match=message):
            fcgpu.to_sklearn(m)
    with pytest.raises(fcgpu.ConfigError, match="Ridge"):
        fcgpu.from_sklearn(Ridge())
    with pytest.raises(NotFittedError):
        fcgpu.from_sklearn(MLPClassifier())
    floats = MLPClassifier((3,), max_iter=1, solver="lbfgs")
    floats.n_features_in_, floats.out_activation_, floats.classes_ = 2, "logistic", np.array([0.5, 1.5])
    floats.coefs_, floats.intercepts_ = [np.zeros((2, 1))], [np.zeros(1)]
    floats._label_binarizer = type("Binarizer", (), {"y_type_": "binary"})
    with pytest.raises(fcgpu.DataError, match=r"label 0\.5"):
        fcgpu.from_sklearn(floats)


@pytest.mark.parametrize("name", ["to_torch", "to_sklearn", "save_onnx", "save_model"])
def test_an_estimator_is_told_from_its_model(name, tmp_path):
    pytest.importorskip({"to_torch": "torch", "save_onnx": "onnx"}.get(name, "sklearn"))
    estimator = pytest.importorskip("sklearn.linear_model").Ridge()
    with pytest.raises(fcgpu.ConfigError, match="Ridge: expected a Model, which a fitted estimator has as model_"):
        getattr(fcgpu, name)(estimator, *[tmp_path / "file"] * name.startswith("save"))


@pytest.mark.parametrize(
    ("name", "package"),
    [("to_torch", "torch"), ("from_torch", "torch"), ("to_sklearn", "sklearn"), ("from_sklearn", "sklearn")],
)
def test_without_the_other_library_the_error_says_what_to_install(name, package):
    program = WITHOUT.format(package=package) + f"import fcgpu; fcgpu.{name}"
    told = subprocess.run([sys.executable, "-B", "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    assert told.returncode == 1
    assert f"fcgpu.{name} needs" in told.stderr
    assert f"fcgpu[{package}]" in told.stderr
