"""The package against the oracle: every recipe's first steps, and all rules, schedules, activations and outputs.

Agreement is to 1e-9 of max(1, |value|), in float64, of every parameter after, and of the loss over, each epoch. It is
usually 1e-15: the margin is for the recipes that multiply rounding errors, raw pixels through saturated sigmoids.
"""

import dataclasses
import math
from functools import cache
from itertools import islice, pairwise
from operator import add

import numpy as np
import oracle
import pytest

import fcgpu
from fcgpu.train.recipe import KEYS

TOLERANCE = 1e-9
OPTIMIZERS = ["gradient_descent", "momentum", "nesterov", "rmsprop", "adam", "adamw"]
SCHEDULES = ["constant", "step", "cosine", "inverse_scaling"]
ACTIVATIONS = ["identity", "sigmoid", "tanh", "relu", "leaky_relu"]
OUTPUTS = ["sigmoid", "softmax", "identity"]
INITS = ["zeros", "uniform", "normal", "glorot", "he", "lecun", "article"]
WRONG = 1.001  # a derivative wrong by 0.1 %


def package(data, recipe, epochs, **where):
    """[(loss over the epoch, parameters after it)] of the first epochs of a run."""
    found = []
    for event in fcgpu.train(data, recipe, device="cpu", **{"threads": 1, **where}):
        if isinstance(event, fcgpu.EpochEnded):
            found.append((event.loss, np.array(event.model().params)))
            if len(found) == epochs:
                break
    return found


def expected(data, recipe, epochs, ways=oracle.Loops, **wrong):
    """The same from the oracle."""
    steps = oracle.train(data.X.tolist(), targets(data, recipe), settings(recipe), ways, scale=data.scale, **wrong)
    return list(islice(oracle.epochs(steps, data.n_samples), epochs))


def settings(recipe):
    return dataclasses.asdict(recipe)


def targets(data, recipe):
    """One column for each class; one in all for two classes and a sigmoid; what is no class stays as it is."""
    if data.classes is None:
        return np.reshape(data.y, (data.n_samples, -1)).tolist()
    if recipe.output == "sigmoid" and len(data.classes) == 2:
        return [[label] for label in data.y.tolist()]
    return oracle.one_hot(data.y.tolist(), len(data.classes))


def discrepancy(ours, theirs):
    """The worst over all parameters and over all losses, relative to max(1, |value|)."""

    def worst(a, b):
        a, b = np.asarray(a), np.asarray(b)
        assert a.shape == b.shape
        assert a.dtype == b.dtype == np.float64
        return float(np.max(np.abs(a - b) / np.maximum(1, np.abs(b))))

    assert len(ours) == len(theirs) > 0
    params = max(worst(a, b) for (_, a), (_, b) in zip(ours, theirs, strict=True))
    return params, worst([loss for loss, _ in ours], [loss for loss, _ in theirs])


def assert_agrees(ours, theirs):
    params, loss = discrepancy(ours, theirs)
    assert params <= TOLERANCE
    assert loss <= TOLERANCE


def first(data, n):
    return dataclasses.replace(data, X=data.X[:n], y=data.y[:n], X_test=None, y_test=None)


@pytest.fixture(scope="module")
def digits():
    return fcgpu.load("mnist")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of 64x64 colour pictures in two classes, and the pixels of each class."""
    image = pytest.importorskip("PIL.Image")
    folder, rng, pixels = tmp_path_factory.mktemp("pictures"), np.random.default_rng(3), {}
    for name, bright, count in (("cat", 150, 4), ("other", 256, 3)):
        (folder / name).mkdir()
        pixels[name] = rng.integers(0, bright, (count, 64, 64, 3), dtype=np.uint8)
        for k, picture in enumerate(pixels[name]):
            image.fromarray(picture).save(folder / name / f"{k}.png")
    return folder, pixels


@pytest.fixture(scope="module")
def cases(digits, pictures):
    """For a recipe's name: its data (a part of MNIST), the recipe in float64, epochs to run, how the oracle sums."""

    def case(name):
        recipe = fcgpu.load_recipe(name).but(dtype="float64")
        if name == "logistic":
            return fcgpu.load(pictures[0], image_size=recipe.image_size), recipe, 10, oracle.Loops
        if name == "mnist":
            return first(digits, 300), recipe, 10, oracle.Rows
        if name == "mnist-article":
            return first(digits, 1000), recipe, 1, oracle.Rows
        return fcgpu.load(recipe.data), recipe, 10, oracle.Loops

    return case


@pytest.fixture(scope="module")
def theirs(cases):
    """The oracle's run of a case, made once."""
    return cache(lambda name: expected(*cases(name)))


# Recipes


def test_every_recipe_is_here():
    known = ["deep", "logistic", "mnist", "mnist-article", "multiclass", "two-layer"]
    assert fcgpu.recipe_names() == known


@pytest.mark.parametrize("name", ["two-layer", "deep", "multiclass", "logistic", "mnist"])
def test_the_first_ten_steps(name, cases, theirs):
    data, recipe, epochs, _ = cases(name)
    assert recipe.batch == "full"
    assert_agrees(package(data, recipe, epochs), theirs(name))


@pytest.mark.parametrize(("memory_budget", "tile"), [(6_400_000, 3), (6_600_000, 19), (7_500_000, 75), (2**23, 150)])
def test_mnist_in_tiles(memory_budget, tile, cases, theirs):
    data, recipe, epochs, _ = cases("mnist")
    where = {"memory_budget": memory_budget, "threads": 2}
    plan = next(fcgpu.train(data, recipe, device="cpu", **where)).plan
    assert 1 < plan.tile <= 2 * tile
    assert_agrees(package(data, recipe, epochs, **where), theirs("mnist"))
