"""The command line as a user sees it: what it prints where, what it leaves on disk, and that they agree."""

import io
import itertools
import json
import math
import os
import re
import shutil
import signal
import time
from datetime import datetime
from types import SimpleNamespace

import numpy as np
import pytest
from command import blobs, call, csv, finish, start, wait_until

import fcgpu
from fcgpu.cli import main
from fcgpu.cli.options import every, parser, recipe_changes, size
from fcgpu.host import readable
from fcgpu.progress import Progress, digits
from fcgpu.train.recipe import KEYS
from fcgpu.train.recipe_files import to_toml

COMMANDS = ("train", "evaluate", "predict", "bench", "info", "recipes")
LEARN = ("--epochs", "20", "--hidden", "8", "--learning-rate", "0.05", "--device", "cpu")


def ran(*words):
    result = call(*words)
    assert result.code == 0, result.err
    return result


def as_json(result):
    """The last line of standard output, a JSON object."""
    found = json.loads(result.out.splitlines()[-1])
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
def data(folder):
    """Three classes, labelled 1, 2 and 4, with test samples."""
    X, y = blobs(90)
    labels = np.array([1, 2, 4])[y]
    np.savez(folder / "data.npz", X=X[:60], y=labels[:60], X_test=X[60:], y_test=labels[60:])
    return folder / "data.npz"


@pytest.fixture(scope="module")
def run(folder, data):
    """A run with mini-batches and a schedule, and its --json result."""
    words = (*LEARN, "--batch", 16, "--schedule", "cosine", "--seed", 3, "--out", folder / "run", "--json")
    return folder / "run", as_json(ran("train", data, *words))


@pytest.fixture(scope="module")
def pictures(folder):
    """5x4 colour pictures of two classes, dark and bright, one with a non-ASCII name."""
    image = pytest.importorskip("PIL.Image")
    random = np.random.default_rng(0)
    for name, low in (("dark", 0), ("hellgrün", 128)):
        (folder / "pictures" / name).mkdir(parents=True)
        for i in range(6):
            pixels = random.integers(low, low + 128, (5, 4, 3)).astype(np.uint8)
            image.fromarray(pixels).save(folder / "pictures" / name / f"{i}.png")
    return folder / "pictures"


def test_evaluate_converts_pictures_to_what_the_model_was_trained_on(pictures, folder):
    """A grey model on colour pictures, and the reverse; also in another size."""
    image = pytest.importorskip("PIL.Image")
    for path in pictures.rglob("*.png"):
        grey = folder / "grey" / path.parent.name / path.name
        grey.parent.mkdir(parents=True, exist_ok=True)
        image.open(path).convert("L").resize((8, 10)).save(grey)
    for trained_on, other in (("grey", "pictures"), ("pictures", "grey")):
        run = folder / f"on {trained_on}"
        ran("train", folder / trained_on, "--hidden", 4, "--epochs", 60, "--out", run, "--quiet", "--device", "cpu")
        assert as_json(ran("evaluate", run, folder / other, "--json"))["accuracy"] > 0.9


def test_train_says_in_json_what_it_did(run, data):
    path, said = run
    assert said["fcgpu_version"] == fcgpu.__version__
    assert (said["device"], said["backend"], said["recipe"]) == ("cpu", "numpy", "own")
    assert (said["epochs"], said["steps"], said["batch"]) == (20, 20 * 4, 16)
    assert (said["sizes"], said["parameters"], said["samples"]) == ([4, 8, 3], 4 * 8 + 8 + 8 * 3 + 3, 60)
    assert (said["dtype"], said["precision"], said["seed"]) == ("float32", "float32", 3)
    assert (said["stopped"], said["capture"]) == ("", None)  # that is of a GPU
    assert datetime.fromisoformat(said["ended"]).utcoffset().total_seconds() == 0
    assert said["data"] == str(data)
    assert said["samples_per_second"] == pytest.approx(60 * 20 / said["seconds"])
    assert said["run_directory"] == str(path)
    assert said["model"] == str(path / "model.safetensors")
    assert said["train_loss"] < 0.1
    assert said["train_accuracy"] > 0.95
    assert said["test_accuracy"] > 0.9


def test_a_long_run_is_tested_after_its_first_epoch_its_last_and_at_most_25_between(tmp_path, data):
    ran("train", data, "--epochs", 77, "--hidden", 2, "--device", "cpu", "--out", tmp_path / "run", "--quiet")
    lines = map(json.loads, (tmp_path / "run/history.jsonl").read_text().splitlines())
    assert [line["epoch"] for line in lines if "test_loss" in line] == [1, *range(4, 77, 4), 77]


def test_the_run_directory_holds_recipe_history_and_model(run, data):
    path, said = run
    assert {p.name for p in path.iterdir()} == {"history.jsonl", "model.safetensors", "recipe.toml", "result.json"}
    assert json.loads((path / "result.json").read_text()) == said
    changes = {"epochs": 20, "hidden": (8,), "learning_rate": 0.05, "batch": 16, "schedule": "cosine", "seed": 3}
    recipe = fcgpu.load_recipe("own").but(data=str(data), **changes)
    assert fcgpu.load_recipe(path / "recipe.toml") == recipe
    epochs, tests = [], []
    for finished in fcgpu.train(fcgpu.load(data), recipe, device="cpu"):
        if isinstance(finished, fcgpu.EpochEnded):
            epochs.append(finished)
            tests.append(finished.test())
    lines = [json.loads(line) for line in (path / "history.jsonl").read_text().splitlines()]
    for line, event, test in zip(lines, epochs, tests, strict=True):
        assert line.pop("seconds") > 0
        assert line == {
            "epoch": event.epoch,
            "step": event.step,
            "loss": event.loss,
            "penalty": event.penalty,
            "accuracy": event.accuracy,
            "monitored": event.monitored,
            "learning_rate": event.learning_rate,
            "test_loss": test.loss,
            "test_accuracy": test.accuracy,
        }
    model = fcgpu.load_model(path / "model.safetensors")
    assert model.params.tobytes() == finished.model.params.tobytes()
    assert model.classes == (1, 2, 4)
    assert (said["train_loss"], said["test_accuracy"]) == (finished.train.loss, finished.test.accuracy)
    for key in ("tile", "lanes", "threads", "chunk"):
        assert said[key] == getattr(finished.plan, key)
    assert said["memory_planned"] == finished.plan.bytes


def test_training_again_from_the_recipe_gives_the_same_model(run, tmp_path):
    path, said = run
    again = as_json(ran("train", "--recipe", path / "recipe.toml", "--device", "cpu", "--out", tmp_path, "--json"))
    assert again["model_sha256"] == said["model_sha256"]
    assert (tmp_path / "model.safetensors").read_bytes() == (path / "model.safetensors").read_bytes()
    assert (tmp_path / "recipe.toml").read_bytes() == (path / "recipe.toml").read_bytes()


def test_a_key_of_a_recipe_file_that_changes_nothing_is_said(data, tmp_path):
    """Unless an option makes use of it. A recipe that the package writes has every key; defaults are not said."""
    text = to_toml(fcgpu.Recipe(hidden=(2,), epochs=2, momentum=0.5, weight_decay=0.1, optimizer="rmsprop"))
    (tmp_path / "own.toml").write_text(text)
    said = "fcgpu: warning: {0}: {1} changes nothing where optimizer={2!r}: it is for {3}\n".format
    momentum, decay = ("momentum=0.5", "momentum, nesterov"), ("weight_decay=0.1", "adamw")
    for optimizer, idle in (("rmsprop", [momentum, decay]), ("adamw", [momentum])):
        words = ("train", data, "--recipe", tmp_path / "own.toml", "--optimizer", optimizer, "--device", "cpu")
        result = call(*words, "--quiet", "--out", tmp_path / optimizer)
        assert result == (0, "", "".join(said(tmp_path / "own.toml", key, optimizer, its) for key, its in idle))


@pytest.mark.parametrize("optimizer", ["lbfgs", "rprop"])
def test_data_of_ones_own_take_an_optimizer_without_a_schedule(data, tmp_path, optimizer):
    ran("train", data, "--optimizer", optimizer, "--epochs", 2, "--device", "cpu", "--quiet", "--out", tmp_path)
    assert fcgpu.load_recipe(tmp_path / "recipe.toml").schedule == ""


@pytest.mark.parametrize("split", ["test", "train"])
def test_evaluate_agrees_with_train(run, data, split):
    path, said = run
    words = ((path, data), (path / "model.safetensors",), (path, "--split", split))
    for found in [as_json(ran("evaluate", *w, "--split", split, "--device", "cpu", "--json")) for w in words]:
        confusion = np.array(found["confusion_matrix"])
        assert (found["split"], found["samples"], found["classes"]) == (
            split,
            {"test": 30, "train": 60}[split],
            [1, 2, 4],
        )
        assert confusion.sum() == found["samples"]
        assert confusion.trace() / found["samples"] == found["accuracy"] == said[f"{split}_accuracy"]
        assert found["loss"] == pytest.approx(said[f"{split}_loss"], rel=1e-6)
    shown = ran("evaluate", path, "--split", split, "--device", "cpu").out
    assert f"{found['samples']} {split} samples: loss {found['loss']:.4f}, accuracy {found['accuracy']:.2%}" in shown


def test_samples_of_a_given_file_are_of_no_known_split(run, folder):
    X, y = blobs(25, seed=8)
    csv(folder / "others.csv", np.array([1, 2, 4])[y], X)
    assert as_json(ran("evaluate", run[0], folder / "others.csv", "--device", "cpu", "--json"))["split"] is None
    assert "others.csv, 25 samples: loss" in ran("evaluate", run[0], folder / "others.csv", "--device", "cpu").out


def test_predict_reads_csv_npy_and_npz(run, folder):
    model = fcgpu.load_model(run[0] / "model.safetensors")
    X, y = blobs(25, seed=8)
    expected = "".join(f"{label}\n" for label in model.predict(X))
    np.save(folder / "x.npy", X)
    np.save(folder / "labelled.npy", np.column_stack([y, X]))
    np.savez(folder / "x.npz", X=X)
    csv(folder / "x.csv", X[:, 0].tolist(), X[:, 1:])
    csv(folder / "labelled.csv", y, X, header="label,a,b,c,d")
    for name in ("x.npy", "labelled.npy", "x.npz", "x.csv", "labelled.csv"):
        result = ran("predict", run[0], folder / name, "--device", "cpu")
        assert (result.out, result.err) == (expected, "")
    said = as_json(ran("predict", run[0], folder / "x.npy", "--device", "cpu", "--json"))
    assert said == {"labels": model.predict(X).tolist(), "classes": [1, 2, 4], "probabilities": None, "files": None}


def test_probabilities_sum_to_one_and_speak_for_the_label(run, folder):
    X, _ = blobs(25, seed=9)
    np.save(folder / "p.npy", X)
    rows = [line.split("\t") for line in ran("predict", run[0], folder / "p.npy", "--proba").out.splitlines()]
    shown = np.array([row[1:] for row in rows], dtype=float)
    assert shown.shape == (25, 3)
    np.testing.assert_allclose(shown.sum(axis=1), 1, atol=2e-6)  # each probability is rounded to 6 digits
    assert [row[0] for row in rows] == [str((1, 2, 4)[i]) for i in shown.argmax(axis=1)]
    said = as_json(ran("predict", run[0], folder / "p.npy", "--proba", "--json"))
    np.testing.assert_allclose(said["probabilities"], shown, atol=1e-6)


def test_sigmoids_judge_each_class_by_itself(data, folder, tmp_path):
    ran("train", data, *LEARN, "--output", "sigmoid", "--out", tmp_path / "run")
    np.save(folder / "q.npy", 3 * blobs(25, seed=9)[0])
    said = as_json(ran("predict", tmp_path / "run", folder / "q.npy", "--proba", "--json"))
    assert np.abs(np.sum(said["probabilities"], axis=1) - 1).max() > 0.01
    assert "they need not sum to 1" in " ".join(ran("predict", "--help").out.split())


def test_pictures_are_told_by_the_names_of_their_folders(pictures, tmp_path):
    said = as_json(ran("train", pictures, *LEARN, "--epochs", 60, "--out", tmp_path / "run", "--json"))
    assert said["train_accuracy"] == 1
    one, other = pictures / "dark" / "0.png", pictures / "hellgrün" / "1.png"
    assert ran("predict", tmp_path / "run", other).out == "hellgrün\n"
    assert ran("predict", tmp_path / "run", one, other, one).out == f"dark\t{one}\nhellgrün\t{other}\ndark\t{one}\n"
    files = [str(pictures / "dark" / f"{i}.png") for i in range(6)]
    assert ran("predict", tmp_path / "run", pictures / "dark").out == "".join(f"dark\t{file}\n" for file in files)
    assert as_json(ran("predict", tmp_path / "run", pictures / "dark", "--json"))["files"] == files
    label, *probabilities = ran("predict", tmp_path / "run", one, "--proba").out.split()
    assert label == "dark"
    assert float(probabilities[0]) > 0.5
    found = as_json(ran("evaluate", tmp_path / "run", "--json"))
    assert (found["classes"], found["confusion_matrix"]) == (["dark", "hellgrün"], [[6, 0], [0, 6]])
    assert "hellgrün" in ran("evaluate", tmp_path / "run").out


@pytest.mark.parametrize(("n_classes", "has"), [(20, True), (21, True), (1000, True), (1001, False)])
def test_of_many_classes_there_is_no_confusion_matrix(tmp_path, n_classes, has):
    spec = fcgpu.Spec((1, n_classes))
    fcgpu.save_model(fcgpu.Model(spec, np.zeros(spec.n_params, "f"), tuple(range(n_classes))), tmp_path / "m")
    words = ("evaluate", tmp_path / "m", csv(tmp_path / "d.csv", np.array([0, 7]), np.ones((2, 1))), "--device", "cpu")
    found = as_json(ran(*words, "--json"))
    assert found["accuracy"] == 0.5
    if has:
        matrix = np.array(found["confusion_matrix"])
        assert matrix[0, 0] == matrix[7, 0] == 1
        assert (matrix.sum(), matrix.shape) == (2, (n_classes, n_classes))
    else:
        assert found["confusion_matrix"] is None
    shown = ran(*words).out
    assert ("too wide to show" in shown) is (n_classes > 20)
    assert ("--json has it" in shown) is (has and n_classes > 20)


@pytest.mark.parametrize("columns", [1, 2])
def test_regression_trains_evaluates_and_predicts(tmp_path, columns):
    X, _ = blobs(60)
    Y = X[:, :columns] / 3 + 0.5
    source = csv(tmp_path / "d.csv", Y[:, 0], X) if columns == 1 else tmp_path / "d.npz"
    if columns == 2:
        np.savez(source, X=X, y=Y)
    words = ("--output", "identity", "--hidden", "", "--epochs", 400, "--learning-rate", 0.05, "--device", "cpu")
    said = as_json(ran("train", source, *words, "--out", tmp_path / "run", "--json"))
    assert said["train_accuracy"] is None
    assert said["train_loss"] < 1e-3
    assert 0.99 < said["train_r2"] < 1
    found = as_json(ran("evaluate", tmp_path / "run", source, "--device", "cpu", "--json"))
    assert found["loss"] == pytest.approx(said["train_loss"], rel=1e-6)
    assert found["r2"] == pytest.approx(said["train_r2"], rel=1e-6)
    assert "confusion_matrix" not in found
    np.save(tmp_path / "x.npy", X)
    predicted = ran("predict", tmp_path / "run", tmp_path / "x.npy").out.splitlines()
    np.testing.assert_allclose([[float(v) for v in line.split()] for line in predicted], Y, atol=0.2)
    told = ran("evaluate", tmp_path / "run").out
    assert f" 60 train samples: loss {digits(found['loss'])}, R2 {found['r2']:.4f}\n" in told
    assert told.isascii()
    assert " 60 samples: loss" in ran("evaluate", tmp_path / "run", source).out  # of a file it may not know


def test_samples_learned_by_heart_are_warned_of(tmp_path):
    X = np.random.default_rng(0).normal(size=(200, 20))
    noise, rule = csv(tmp_path / "n.csv", np.arange(200) // 7 % 2, X), csv(tmp_path / "r.csv", (X[:, 0] > 0) + 1, X)
    words = ("--test-size", 0.3, "--device", "cpu", "--quiet", "--out")
    said = ran("train", noise, *words, tmp_path / "a").err
    assert re.fullmatch(
        r"fcgpu: warning: the training samples are learned by heart \(accuracy 1\.00, of the test samples 0\.\d\d\): "
        r"try --alpha 1 or --dropout 0\.2 or --early-stopping\n",
        said,
    )
    regularised = ("--output", "identity", "--alpha", 0, "--dropout", 0.1, *words)
    assert ": try --alpha 1 or --early-stopping\n" in ran("train", noise, *regularised, tmp_path / "b").err
    assert "by heart" not in ran("train", rule, "--alpha", 10, *words, tmp_path / "c").err
    assert "by heart" not in ran("train", noise, *words[2:], tmp_path / "d").err


def test_a_loss_that_has_grown_is_warned_of_though_it_is_finite(tmp_path):
    X, y = blobs(60)
    source = csv(tmp_path / "d.csv", 100 * y, X)
    given = ("--output=identity", "--optimizer=gradient_descent", "--hidden=", "--epochs=20", "--quiet")
    given += ("--no-standardize", "--batch=full", "--alpha=0", "--out")
    grow = ("--learning-rate", 0.5, "--schedule", "constant")
    grown = ran("train", source, *given, tmp_path / "a", *grow).err
    assert "warning: the loss has grown from " in grown
    assert grown.endswith("--gradient-clip 1, or data of a smaller scale\n")
    grown = ran("train", source, *given, tmp_path / "c", *grow, "--standardize", "--learning-rate", 3).err
    assert grown.endswith("try a tenth of the learning rate, or --gradient-clip 1\n")
    assert "grown" not in ran("train", source, *given, tmp_path / "b", "--learning-rate", 0.05).err


def test_a_small_or_large_loss_is_shown_with_four_digits():
    shown = [digits(loss) for loss in (2855502268723.985, 1e6, 999999.5, 0.5, 0.001, 4.30512e-05, 0.0, math.inf)]
    assert shown == ["2.856e+12", "1e+06", "999999.5000", "0.5000", "0.0010", "4.305e-05", "0", "inf"]


def test_targets_that_are_one_hot_are_warned_of(tmp_path):
    X, y = blobs(60)
    np.savez(tmp_path / "hot.npz", X=X, y=np.eye(y.max() + 1)[y])
    np.savez(tmp_path / "soft.npz", X=X, y=0.1 + 0.8 * np.eye(2)[y % 2])
    few = ("--epochs", 1, "--device", "cpu", "--quiet", "--out")
    warned = ran("train", tmp_path / "hot.npz", *few, tmp_path / "a").err
    assert "warning: y is one-hot: with y.argmax(axis=1) " in warned
    for name, output, out in (("hot", "sigmoid", "b"), ("hot", "identity", "c"), ("soft", "softmax", "d")):
        given = (tmp_path / f"{name}.npz", "--output", output, *few, tmp_path / out)
        assert "one-hot" not in ran("train", *given).err


def test_features_and_targets_that_are_not_scaled_are_warned_of(tmp_path):
    X, y = blobs(60)
    small, large = csv(tmp_path / "s.csv", y, X), csv(tmp_path / "l.csv", 1000 * y, X * [1, 1000, 1, 1])
    few = ("--no-standardize", "--epochs", 1, "--device", "cpu", "--quiet", "--out")
    assert "warning" not in ran("train", small, *few, tmp_path / "a").err
    assert "warning" not in ran("train", large, "--output", "identity", *few[1:], tmp_path / "h").err
    assert "warning" not in ran("train", large, "--scale", 0.001, *few, tmp_path / "b").err
    assert "warning: feature 1 has a root mean square of " in ran("train", large, *few, tmp_path / "c").err
    words = ("--output", "identity", "--scale", 0.001)
    assert "warning: target 0 has a root mean square of " in ran("train", large, *words, *few, tmp_path / "d").err
    counts = ("train", csv(tmp_path / "p.csv", 1000 * y, X), "--output", "exp")
    assert "warning: counts have a mean of 1" in ran(*counts, *few, tmp_path / "i").err
    assert "counts" not in ran(*counts, *few[1:], tmp_path / "j").err
    tiny = csv(tmp_path / "t.csv", 1e-3 * y, X)
    warned = ran("train", tiny, "--output", "identity", "--scale", 1e-6, *few, tmp_path / "g").err
    assert "warning: no feature has a root mean square above " in warned
    assert "warning: no target has a root mean square above 0.00" in warned
    numbers = csv(tmp_path / "n.csv", np.arange(len(X)), X)
    warned = ran("train", numbers, *few, tmp_path / "e").err
    assert f"warning: {len(X)} classes for {len(X)} samples: " in warned
    assert "if they only number the samples, leave them out\n" in warned
    named = csv(tmp_path / "o.csv", np.arange(len(X)), X, "id,a,b,c,d")
    warned = ran("train", named, *few, tmp_path / "k").err
    assert "leave them out, and name the label's column: --target-column\n" in warned
    assert "warning" not in ran("train", numbers, "--output", "identity", *few, tmp_path / "f").err


def test_what_standardize_leaves_as_it_is_is_warned_of(tmp_path):
    X, y = blobs(60)
    few = ("--hidden=", "--epochs", 1, "--device", "cpu", "--quiet", "--out")
    for units, warned in (([1e6, 1e-3, 0], True), ([1, 0.02, 0], False)):
        np.savez(tmp_path / "d.npz", X=X, y=X[:, :3] * units + 7)
        told = ran("train", tmp_path / "d.npz", "--output", "identity", *few, tmp_path / f"{warned}").err
        assert ("warning: target 1 has a standard deviation of 0.00" in told) == warned
    (tmp_path / "r.toml").write_text("standardize = true\nscale = 0.5\n")
    told = ran("train", csv(tmp_path / "d.csv", y, X), "--recipe", tmp_path / "r.toml", *few, tmp_path / "r").err
    assert "warning: scale=0.5 changes nothing with standardize=True: leave it out" in told
    np.savez(tmp_path / "p.npz", X=200 + X.reshape(60, 2, 2), y=y)
    assert "warning" not in ran("train", tmp_path / "p.npz", *few, tmp_path / "a").err
    np.savez(tmp_path / "f.npz", X=X.reshape(60, 2, 2) / 1e4, y=y)
    for name, asked, scale in (("p", "--no-standardize", "0.005"), ("f", "--epochs=1", "3e+03")):
        told = ran("train", tmp_path / f"{name}.npz", asked, *few, tmp_path / f"{name}1").err
        assert told.endswith(f"a network learns better where it is about 1: use --scale {scale}\n")


def test_a_loss_beyond_all_measure_is_null_in_json(tmp_path):
    """The mean, exp(X W), overflows float64 at the test sample; NumPy must not warn."""
    X = np.linspace(0, 1, 20)[:, None]
    y = np.rint(np.exp(2 * X[:, 0]))
    np.savez(tmp_path / "d.npz", X=X, y=y, X_test=[[1e4]], y_test=y[:1])
    words = ("--hidden", "", "--output", "exp", "--epochs", 100, "--learning-rate", 0.1, "--device", "cpu")
    ran("train", tmp_path / "d.npz", *words, "--quiet", "--out", tmp_path / "run")
    evaluated = ran("evaluate", tmp_path / "run", "--device", "cpu", "--json")
    for said, key in (((tmp_path / "run/result.json").read_text(), "test_loss"), (evaluated.out, "loss")):
        assert json.loads(said, parse_constant=pytest.fail)[key] is None
    assert evaluated.err == ""


@pytest.mark.skipif(os.name != "posix", reason="names of POSIX")
def test_classes_and_paths_are_shown_as_they_are_called(tmp_path):
    """rich would turn :x: into an emoji and [red] into a colour."""
    X, y = blobs(60, 2)
    np.savez(tmp_path / "d:x:[red].npz", X=X, y=np.array(["chr:x:1", "[red]"])[y])
    out = ran("train", tmp_path / "d:x:[red].npz", *LEARN, "--out", tmp_path / "run").out
    assert "d:x:[red].npz" in out
    evaluated = ran("evaluate", tmp_path / "run", "--device", "cpu").out
    assert evaluated.count("chr:x:1") == evaluated.count("[red] ") == 2


def test_two_classes_need_one_sigmoid(tmp_path):
    X, y = blobs(40, n_classes=2)
    source = csv(tmp_path / "d.csv", y, X)
    said = as_json(
        ran("train", source, *LEARN, "--epochs", 200, "--output", "sigmoid", "--out", tmp_path / "run", "--json")
    )
    assert said["sizes"] == [4, 8, 1]
    assert said["train_accuracy"] == 1
    rows = [line.split("\t") for line in ran("predict", tmp_path / "run", source, "--proba").out.splitlines()]
    assert [row[0] for row in rows] == [str(label) for label in y]
    for label, no, yes in rows:
        assert float(no) + float(yes) == pytest.approx(1, abs=2e-6)
        assert label == str(int(float(yes) > 0.5))
    assert as_json(ran("evaluate", tmp_path / "run", "--json"))["confusion_matrix"] == [[20, 0], [0, 20]]


def test_results_go_to_standard_output_and_progress_to_standard_error(data, tmp_path):
    plain = ran("train", data, *LEARN, "--out", tmp_path / "plain", "--cost-every", 8)
    assert re.findall("^cost at epoch (.*): ", plain.out, re.MULTILINE) == ["0", "8", "16"]
    assert "epoch" in plain.err
    assert "epoch 20/20  loss 0." in plain.err.splitlines()[-1]
    assert "epoch 20/20" not in plain.out
    assert "a column a sample" not in plain.out  # that is for data of at most ten samples
    quiet = ran("train", data, *LEARN, "--out", tmp_path / "quiet", "--quiet", "--cost-every", 5)
    assert (quiet.out, quiet.err) == ("", "")
    both = ran("train", data, *LEARN, "--out", tmp_path / "both", "--quiet", "--json", "--cost-every", 5)
    assert both.err == ""
    assert len(both.out.splitlines()) == 1
    loud = ran("train", data, *LEARN, "--out", tmp_path / "loud", "--json")
    assert "epoch 20/20" in loud.err
    assert as_json(loud)["model_sha256"] == as_json(both)["model_sha256"]


class Epoch:
    """An EpochEnded for Progress, which notes whose loss was read."""

    seconds, samples, accuracy = property(lambda self: 2.0 * self.epoch), property(lambda self: 100 * self.epoch), 0.75

    def __init__(self, epoch, epochs, looked):
        self.epoch, self.epochs, self.looked = epoch, epochs, looked

    @property
    def loss(self):
        self.looked.append(self.epoch)
        return 0.5


@pytest.mark.parametrize(("epochs", "told"), [(3, [1, 2, 3]), (25, [*range(2, 25, 2), 25])])
def test_some_ten_epochs_are_told_where_no_terminal_is(epochs, told, capsys):
    progress, looked = Progress(epochs, shown=True), []
    for epoch in range(1, epochs + 1):
        progress.add(Epoch(epoch, epochs, looked))
    lines = capsys.readouterr().err.splitlines()
    assert looked == told
    assert len(lines) == len(told)
    at = told[0]
    assert lines[0] == f"epoch {at}/{epochs}  loss 0.5000  accuracy 75.00%  50 samples/s  {2 * (epochs - at)} s left"


def terminal(stream, columns, monkeypatch):
    """What is written to sys.<stream>, which is a terminal of so many columns."""
    screen = io.StringIO()
    screen.isatty = lambda: True
    monkeypatch.setattr(f"sys.{stream}", screen)
    for name, value in {"TERM": "xterm", "COLUMNS": str(columns)}.items():
        monkeypatch.setenv(name, value)
    return screen


@pytest.mark.parametrize("shown", [True, False])
def test_the_line_in_a_terminal_looks_ten_times_a_second_and_is_erased(shown, monkeypatch, capsys):
    screen, now, looked = terminal("stderr", 80, monkeypatch), itertools.count(100, 0.06), []
    monkeypatch.setattr("fcgpu.progress.time", SimpleNamespace(monotonic=lambda: next(now)))
    with Progress(8, shown=shown) as progress:
        assert ("epoch 0/8" in plain(screen.getvalue())) is shown
        for epoch in range(1, 9):
            if epoch == 8:
                progress.print("cost at epoch 0: 1")
            progress.add(Epoch(epoch, 8, looked))
    assert capsys.readouterr().out == "cost at epoch 0: 1\n"
    assert looked == ([1, 3, 5, 7, 8] if shown else [])
    assert not shown or re.search(r"epoch 8/8 .*loss 0\.5000  accuracy 75\.00%  50 samples/s", plain(screen.getvalue()))
    assert not shown or screen.getvalue().endswith("\x1b[1A\x1b[2K")


def test_a_narrow_terminal_shows_the_whole_number_of_the_epoch(monkeypatch):
    screen, looked = terminal("stderr", 40, monkeypatch), []
    with Progress(500, shown=True) as progress:
        progress.add(Epoch(16, 500, looked))
    assert re.search(r"epoch 16/500 +loss 0\.5000", plain(screen.getvalue()))


@pytest.mark.parametrize(("columns", "speed"), [(68, True), (67, False), (56, False)])
def test_a_narrow_terminal_leaves_out_the_speed_rather_than_the_time_left(columns, speed, monkeypatch):
    screen = terminal("stderr", columns, monkeypatch)
    with Progress(500, shown=True) as progress:
        progress.add(Epoch(16, 500, []))
    numbers = "loss 0.5000  accuracy 75.00%" + "  50 samples/s" * speed
    assert re.search(rf"epoch 16/500 [ ━╸╺]*{numbers} --:-- left", plain(screen.getvalue()))


@pytest.mark.parametrize("columns", [40, 60, 80, 100])
@pytest.mark.parametrize("words", [["recipes"], ["recipes", "--keys"]])
def test_no_word_of_a_table_is_cut_in_a_narrow_terminal(words, columns, monkeypatch):
    """`--loss` takes binary_cross_entropy, which at 80 columns was binary_cross_entro…"""
    screen = terminal("stdout", columns, monkeypatch)
    assert main(words) == 0
    lines = plain(screen.getvalue()).splitlines()
    assert "…" not in "".join(lines)
    assert max(len(line) for line in lines if line[0] in "┏┃│") <= columns


def plain(shown):
    return re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", shown)


def test_the_closing_table_tells_all_that_matters(data, tmp_path):
    out = ran("train", data, *LEARN, "--out", tmp_path / "run").out
    rows = dict(re.findall(r"│ (\w[\w ]*?) +│ (.*?) *│", out))
    assert re.match(r"cpu, \d+ CPU cores? \(asked for\)", rows["device"])
    assert re.match(r"[\d.]+ KiB, [\d.]+ KiB of it data", rows["memory planned"])
    assert re.match(r"[\d.]+ s, 20 epochs, 20 steps", rows["training"])
    assert re.match(r"[\d,]+ samples/s", rows["throughput"])
    for part in ("train", "test"):
        assert re.fullmatch(r"loss \d\.\d{4}, accuracy \d+\.\d\d%", rows[part])
    last = out.splitlines()[-3:]
    assert last[0] == "the first 10 test samples"
    labels = np.load(data)["y_test"][:10]
    assert last[1].split() == ["actual", *map(str, labels)]
    predicted = fcgpu.load_model(tmp_path / "run/model.safetensors").predict(np.load(data)["X_test"][:10])
    assert last[2].split() == ["predicted", *map(str, predicted)]


def test_a_relative_path_is_kept_in_full_and_a_run_directory_is_named(data, tmp_path, monkeypatch):
    (tmp_path / "r.toml").write_text(f'name = "a b/c"\ndata = "{data.name}"\nepochs = 1\n')
    words = ("train", "--recipe", tmp_path / "r.toml", "--device", "cpu", "--json")
    shutil.copy(data, tmp_path)
    monkeypatch.chdir(tmp_path)
    first, second = as_json(ran(*words)), as_json(ran(*words))
    assert first["data"] == str(tmp_path / data.name)
    assert first["run_directory"] != second["run_directory"]
    assert re.fullmatch(r"runs[/\\]a-b-c-\d{8}-\d{6}", first["run_directory"])
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert as_json(ran("evaluate", tmp_path / first["run_directory"], "--json"))["samples"] == 30


@pytest.mark.parametrize("text", ["128, 64", "[128, 64]", "(128,64)"])
def test_a_list_is_taken_with_brackets_as_errors_show_it(text):
    assert recipe_changes(parser().parse_args(["train", "--hidden", text])) == {"hidden": (128, 64)}


def test_recipes_lists_prints_and_explains(tmp_path):
    table = ran("recipes").out
    assert re.search("│ own +│ .* │ given as DATA +│", table)
    assert re.search("│ mnist +│ .* │ mnist +│", table)
    for name in fcgpu.recipe_names():
        assert name in ran("recipes").out
        (tmp_path / "r.toml").write_text(ran("recipes", name).out)
        assert fcgpu.load_recipe(tmp_path / "r.toml") == fcgpu.load_recipe(name)
        assert as_json(ran("recipes", name, "--json"))["name"] == name
    assert list(as_json(ran("recipes", "--json"))) == fcgpu.recipe_names()
    keys = ran("recipes", "--keys").out
    for key in KEYS:
        assert re.search(rf"^│ {key} ", keys, re.MULTILINE), key
    assert list(as_json(ran("recipes", "--keys", "--json"))) == list(KEYS)


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (2**20 - 1, "1.0 MiB"),
        (1.5 * 2**30, "1.5 GiB"),
        (2**40, "1,024.0 GiB"),
    ],
)
def test_sizes_are_written_as_people_do(n, text):
    assert readable(n) == text


@pytest.mark.parametrize(
    ("text", "n"),
    [("7", 7), ("7B", 7), ("2kb", 2000), ("3MB", 3 * 10**6), ("4GB", 4 * 10**9), ("1.5 KiB", 1536), ("2MiB", 2**21),
     ("3GiB", 3 * 2**30)],
)  # fmt: skip
def test_sizes_are_read_as_people_write_them(text, n):
    assert size(text) == n


@pytest.mark.parametrize(
    ("text", "epochs", "seconds"), [("0", 0, 0), ("5", 5, 0), ("1.5s", 0, 1.5), ("10min", 0, 600), ("2h", 0, 7200)]
)
def test_how_often_a_checkpoint_is_written_is_epochs_or_a_time(text, epochs, seconds):
    assert every(text) == (epochs, seconds)


def test_info_names_the_device_and_why():
    said = as_json(ran("info", "--device", "cpu", "--json"))
    assert (said["device"], said["backend"], said["why"]) == ("cpu", "numpy", "asked for")
    assert said["fcgpu_version"] == fcgpu.__version__
    assert said["memory_to_plan_with"] > 0
    assert said["packages"]["numpy"] == np.__version__
    assert as_json(ran("info", "--json"))["why"]
    assert "asked for" in ran("info", "--device", "cpu").out


def test_every_command_explains_itself():
    assert call("--version") == (0, f"fcgpu {fcgpu.__version__}\n", "")
    for command in COMMANDS:
        assert command in ran("--help").out
        text = ran(command, "--help").out
        assert f"usage: fcgpu {command}" in text
        assert "--json" in text
    options = ran("train", "--help").out
    for key in set(KEYS) - {"data", "description"}:
        assert "--" + key.replace("_", "-") in options
    assert (
        "with the label in the first column (of the first two it may be another, and text), a .npz file of arrays X and"
        in " ".join(options.split())
    )


@pytest.mark.parametrize(("system", "found"), [("posix", ["*", "c*", "[a]"]), ("nt", ["a", "b", "c*", "[a]"])])
def test_patterns_are_expanded_where_no_shell_does_it(system, found, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in "ba":
        (tmp_path / name).touch()
    with monkeypatch.context() as patch:
        patch.setattr(os, "name", system)
        args = parser().parse_args(["report", "*", "c*", "[a]"])
    assert args.runs == found


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_ctrl_c_ends_the_epoch_and_leaves_a_model(data, tmp_path):
    process = start("train", data, *LEARN, "--epochs", 5_000_000, "--out", tmp_path / "run")
    wait_until((tmp_path / "run/history.jsonl").exists, process)
    process.send_signal(signal.SIGINT)
    result = finish(process)
    assert result.code == 130
    assert "Traceback" not in result.err
    said = re.search(r"stopped after epoch (\d+) of 5000000; the model as it was then is (.*)", result.err)
    assert said[2] == str(tmp_path / "run/model.safetensors")
    assert len((tmp_path / "run/history.jsonl").read_text().splitlines()) == int(said[1])
    assert as_json(ran("evaluate", tmp_path / "run", "--json"))["accuracy"] > 0.9


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_second_ctrl_c_stops_at_once(tmp_path):
    process = start(
        "train", "--optimizer", "adam", "--batch", 1, "--epochs", 1, "--device", "cpu", "--out", tmp_path / "run"
    )
    wait_until((tmp_path / "run/recipe.toml").exists, process)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == "\n"
    assert process.stderr.readline() == "fcgpu: stopping after this epoch; Ctrl-C again to stop at once\n"
    process.send_signal(signal.SIGINT)
    result = finish(process)
    assert (result.code, result.err) == (130, "fcgpu: stopped\n")
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["recipe.toml"]


def test_output_that_takes_no_umlaut_says_what_would(pictures, tmp_path):
    ran("train", pictures, *LEARN, "--out", tmp_path / "run", "--quiet")
    words = ("predict", tmp_path / "run", pictures / "hellgrün" / "0.png")
    result = finish(start(*words, environment={"PYTHONIOENCODING": "ascii"}))
    assert (result.code, result.out) == (2, "")
    assert (
        result.err == "fcgpu: error: '\\xfc' cannot be written as ascii; set PYTHONIOENCODING=utf-8:surrogateescape\n"
    )
    assert finish(start(*words, environment={"PYTHONUTF8": "1"})).out == "hellgrün\n"
