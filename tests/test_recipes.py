"""The six recipes, each as a user runs it, and the schema, which refuses unknown keys and values."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

import fcgpu
from fcgpu.cli import main
from fcgpu.optim import OPTIMIZERS
from fcgpu.train.recipe import KEYS
from fcgpu.train.recipe_files import from_toml, recipe_names, to_toml


def train(tmp_path, capfd, *words):
    assert main(["train", *words, "--out", str(tmp_path / "run")]) == 0
    return capfd.readouterr().out


def costs(out):
    return [float(line.split(": ")[1]) for line in out.splitlines() if line.startswith("cost at epoch")]


@pytest.fixture
def pictures(tmp_path):
    """64x64 noisy colour pictures of two classes: "cat" is brighter on the left, "not" on the right."""
    image = pytest.importorskip("PIL.Image")
    random, ramp = np.random.default_rng(0), np.linspace(0, 120, 64)
    for name, light in (("cat", ramp[::-1]), ("not", ramp)):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(20):
            pixels = light[None, :, None] + random.uniform(0, 130, (64, 64, 3))
            image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "pictures" / name / f"{i}.png")
    return tmp_path / "pictures"


def test_the_package_ships_the_seven_recipes():
    assert fcgpu.recipe_names() == ["deep", "logistic", "mnist", "mnist-article", "multiclass", "own", "two-layer"]
    for name in fcgpu.recipe_names():
        assert fcgpu.load_recipe(name).name == name
        assert fcgpu.load_recipe(name).description


def test_logistic_tells_the_two_kinds_of_pictures_apart(pictures, tmp_path, capfd):
    out = train(tmp_path, capfd, str(pictures), "--recipe", "logistic", "--epochs", "300")
    assert "12288-1, sigmoid, 12,289 parameters" in out
    assert "accuracy 100.00%" in out
    assert costs(out) == sorted(costs(out), reverse=True)
    assert costs(out)[0] == pytest.approx(40 * np.log(2))
    one = str(next((pictures / "cat").iterdir()))
    assert main(["predict", str(tmp_path / "run"), one]) == 0
    assert capfd.readouterr().out == "cat\n"
    assert main(["evaluate", str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["accuracy"] == 1.0


def test_two_layer(tmp_path, capfd):
    out = train(tmp_path, capfd, "two-layer")  # the recipe of the data's name
    assert "3-4-1, sigmoid, sigmoid, 21 parameters" in out
    assert "accuracy 100.00%" in out
    assert len(costs(out)) == 20
    assert costs(out) == sorted(costs(out), reverse=True)


def test_the_cost_of_deep_falls_at_every_one_of_its_100_epochs(tmp_path, capfd):
    out = train(tmp_path, capfd, "--recipe", "deep")
    assert "3-4-4-4-4-3-1, sigmoid, sigmoid" in out
    assert "2 samples" in out
    found = costs(out)
    assert len(found) == 100
    assert all(after < before for before, after in pairwise(found))


def test_multiclass_prints_the_articles_data_and_learns_it(tmp_path, capfd):
    out = train(tmp_path, capfd, "--recipe", "multiclass")
    assert out.startswith("X, a column a sample:\n[[0.22880349 0.19068802 0.88635967 ")
    assert "labels: 2 1 3 0 0 3\n" in out
    assert "3-5-5-4, sigmoid, sigmoid" in out
    assert "predicted  2 1 3 0 0 3" in out


@pytest.mark.slow
def test_an_epoch_of_mnist_article_lands_where_the_articles_cost_lies(tmp_path, capfd):
    """The run is chaotic: rounding alone changes this cost by some 2,500 either way, hence the wide band."""
    out = train(tmp_path, capfd, "--recipe", "mnist-article", "--epochs", "1")
    assert len(costs(out)) == 1
    assert 110_000 <= costs(out)[0] <= 130_000
    assert "actual     5 0 4 1 9 2 1 3 1 4\n" in out
    assert "60,000 samples of 784 features" in out


def test_mnist_reaches_97_percent(tmp_path, capfd):
    assert main(["train", "--epochs", "50", "--json", "--quiet", "--out", str(tmp_path / "run")]) == 0
    captured = capfd.readouterr()
    result = json.loads(captured.out)
    assert result["test_accuracy"] >= 0.97
    assert (result["sizes"], result["batch"], result["steps"]) == ([784, 128, 64, 10], 60_000, result["epochs"])
    assert captured.err == ""


def test_a_recipe_reads_back_from_its_toml(tmp_path):
    recipe = fcgpu.Recipe(
        name='x "y" \\ \t é\x7f', hidden=(), image_size=(3, 4), batch=7, learning_rate=1e-8, shuffle=False, epochs=3
    )
    path = tmp_path / "r.toml"
    path.write_text(to_toml(recipe), encoding="utf-8")
    assert "é" in to_toml(recipe)
    assert fcgpu.load_recipe(path) == recipe


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat = 0.1", "'learning_rat' is not a key of a recipe; did you mean 'learning_rate'"),
        ("quux = 1", "'quux' is not a key of a recipe; choose from name, "),
        ("name = 3", "name=3: expected text in UTF-8"),
        ("epochs = 1.5", "epochs=1.5: expected a whole number of 1 or more"),
        ("epochs = true", "epochs=True: expected a whole number"),
        ('epochs = "3"', "epochs='3': expected a whole number"),
        ("learning_rate = nan", "learning_rate=nan: expected a number above 0"),
        ("learning_rate = -inf", "learning_rate=-inf: expected a number above 0"),
        ("hidden = [5, 0]", "expected a list of whole numbers of 1 or more"),
        ("hidden = 5", "hidden=5: expected a list"),
        ("image_size = [64]", r"image_size=\[64\]: expected \[height, width\]"),
        ('activation = "softmax"', "activation='softmax': expected one of identity, sigmoid"),
        ('optimizer = "adm"', "did you mean 'adam'"),
        ('output = "softmax"\nloss = "squared_error"', "use loss='cross_entropy', or output='identity'"),
        ("shuffle = 1", "shuffle=1: expected true or false"),
        ("momentum = 1.5", "momentum=1.5: expected a number from 0 to 1"),
        ("batch = 0", 'batch=0: expected "full" or a whole number'),
        ('init = "article"\nseed = 4294967296', "takes seeds below"),
        ("learning_rate = 1" + "0" * 400, "int too large to convert"),
        (
            "hidden = [5, 6, 7]\ndropout = [0.1, 0.2]",
            r"dropout=\[0.1, 0.2\] for hidden=\[5, 6, 7\]: expected one number",
        ),
        (
            'optimizer = "lbfgs"\nbatch = 7',
            "batch=7 is not for optimizer='lbfgs', .* the same loss.*, or batch=\"full\"$",
        ),
        (
            'optimizer = "rprop"\ndropout = [0.1]',
            r"dropout=\[0.1\] is not for optimizer='rprop'.*, or leave dropout out$",
        ),
        ('precision = "tf32"\ndtype = "float64"', "precision='tf32' is for dtype='float32', not 'float64'"),
        ('precision = "float16"\noptimizer = "lbfgs"', "precision='float16' is not for optimizer='lbfgs'"),
        ('schedule = "adaptive"', "schedule='adaptive' needs n_iter_no_change"),
        ("epochs 3", "not TOML"),
        ("\xff", "not TOML"),
        pytest.param("a = " + "[" * 5000, "not TOML", id="nested"),
        pytest.param("#" * (1 + (1 << 20)), "more than 1048576 bytes", id="large"),
    ],
)
def test_a_wrong_recipe_is_refused_with_its_file_the_value_and_the_remedy(tmp_path, text, message):
    path = tmp_path / "wrong.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(fcgpu.ConfigError, match=r"wrong\.toml: .*" + message):
        fcgpu.load_recipe(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_recipe_that_windows_has_written(tmp_path, encoding, newline):
    (tmp_path / "r").write_text('name = "größe"\nepochs = 3\n', encoding=encoding, newline=newline)
    assert fcgpu.load_recipe(tmp_path / "r").but(name="") == fcgpu.Recipe(name="", epochs=3)
    assert fcgpu.load_recipe(tmp_path / "r").name == "größe"


@pytest.mark.parametrize(
    "keys",
    [
        {"hidden": (5, 6), "dropout": (0.1, 0.2)},
        {"hidden": (5, 6), "dropout": 0.1},
        {"output": "identity", "loss": "squared_error"},
        {"optimizer": "lbfgs", "precision": "tf32"},
        {"precision": "float16"},
        {"schedule": "adaptive", "n_iter_no_change": 3},
        {"init": "article", "seed": 2**32 - 1},
        {"seed": 2**32},
    ],
)
def test_what_goes_together_is_a_recipe(keys):
    recipe = fcgpu.Recipe(**keys)
    assert from_toml("same", to_toml(recipe).encode()) == recipe


def test_every_key_is_documented():
    for key, field in KEYS.items():
        assert field.metadata["help"], key
        assert field.metadata["kind"].words, key
        assert getattr(fcgpu.Recipe(), key) == field.default


@pytest.mark.parametrize("optimizer", ["lbfgs", "rprop"])
@pytest.mark.parametrize("name", ["deep", "logistic", "mnist", "multiclass", "two-layer"])
def test_a_full_batch_recipe_takes_an_optimizer_without_a_schedule(name, optimizer):
    recipe = fcgpu.load_recipe(name).but(optimizer=optimizer)
    with pytest.raises(fcgpu.ConfigError, match="schedule='cosine' is not for optimizer='" + optimizer):
        recipe.but(schedule="cosine")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"optimizer": "lbfgs", "learning_rate": 0.5}, "learning_rate=0.5 changes nothing where optimizer='lbfgs'"),
        ({"optimizer": "adam", "momentum": 0.5}, "momentum=0.5 .* it is for momentum, nesterov"),
        ({"optimizer": "adam", "history_size": 5}, "history_size=5 .* it is for lbfgs"),
        ({"schedule": "cosine", "gamma": 0.1}, "gamma=0.1 changes nothing where schedule='cosine': it is for step"),
        ({"validation_fraction": 0.2}, "validation_fraction=0.2 changes nothing without early_stopping"),
        ({"tol": 0.5}, "tol=0.5 changes nothing without n_iter_no_change"),
        ({"tol": 0.5, "early_stopping": True}, "tol=0.5 changes nothing without n_iter_no_change"),
        ({"optimizer": "rprop", "gradient_clip": 1.0}, "gradient_clip=1.0 is not for optimizer='rprop'"),
    ],
)
def test_a_key_that_would_change_nothing_is_refused(changes, words):
    with pytest.raises(fcgpu.ConfigError, match=words):
        fcgpu.Recipe().but(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        vars(fcgpu.Recipe()),
        vars(fcgpu.Recipe()) | {"optimizer": "lbfgs"},
        {"validation_fraction": 0.2, "early_stopping": True},
        {"tol": 0.5, "n_iter_no_change": 2},
        {"tol": 0.5, "optimizer": "lbfgs"},
        {"hidden": (), "activation": "tanh", "dropout": 0.2},
        {"batch": "full", "shuffle": False},
    ],
)
def test_defaults_and_what_is_vacuous_may_be_spelled_out(changes):
    recipe = fcgpu.Recipe().but(**changes)
    assert all(getattr(recipe, key) == value for key, value in changes.items() if key != "dropout")


OTHERS = {
    "learning_rate": 0.3, "momentum": 0.3, "beta_1": 0.3, "beta_2": 0.3, "rho": 0.3, "epsilon": 0.3,
    "weight_decay": 0.3, "history_size": 1, "max_fun": 2, "step_size": 1, "gamma": 0.3, "power_t": 0.3, "tol": 1e3,
    "validation_fraction": 0.3,
}  # fmt: skip
CHOICES = [
    *({"optimizer": name} for name in OPTIMIZERS),
    {"schedule": "step", "step_size": 2},
    {"schedule": "inverse_scaling"},
    {"early_stopping": True},
    {"n_iter_no_change": 1},
]


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_the_unused_keys_are_those_that_change_nothing(choice):
    X = np.random.default_rng(0).normal(size=(30, 2))
    base = fcgpu.Recipe(hidden=(3,), epochs=8, **choice)

    def trained(recipe):
        *_, done = fcgpu.train((X, (X[:, 0] > 0).astype(int)), recipe, device="cpu")
        return done.model.params.tobytes()

    idle = {key for key, value in OTHERS.items() if trained(replace(base, **{key: value})) == trained(base)}
    assert idle == {why.split("=")[0] for why in base.unused(OTHERS, defaults=True)}


@pytest.mark.parametrize("name", recipe_names())
def test_the_recipes_of_the_package_have_no_unused_keys(name):
    assert not list(fcgpu.load_recipe(name).unused(KEYS))
