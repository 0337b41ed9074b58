"""`test_size`: a run on the samples that remain, scored on those held out, wherever the data are loaded again."""

import json
import re

import numpy as np
import pytest
from command import blobs, call, csv
from device_double import as_cupy

import fcgpu
from fcgpu.report.judged import judged
from fcgpu.train.held_out import Part, with_test_samples

FEW = {"hidden": (5,), "epochs": 3, "batch": 16, "dtype": "float64", "device": "cpu"}


def parts(n, share, seed=0):
    """Indices of the samples that remain, and of those held out."""
    order = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed).spawn(3)[2])).permutation(n)
    held = round(share * n)
    return np.sort(order[held:]), order[:held]


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("seed", [0, 7])
def test_a_run_is_that_on_the_other_samples(seed, early_stopping):
    X, y = blobs(90)
    weights, ids = np.arange(90) % 3 + 1.0, np.arange(90, dtype=np.uint32)[::-1]
    rest, out = parts(90, 0.3, seed)
    ours = FEW | {"seed": seed, "dropout": 0.3, "early_stopping": early_stopping}
    *_, expected = fcgpu.train(
        (X[rest], y[rest], X[out], y[out]), sample_weight=weights[rest], sample_ids=ids[rest], **ours
    )
    started, *_, done = fcgpu.train((X, y), test_size=0.3, sample_weight=weights, sample_ids=ids, **ours)
    np.testing.assert_array_equal(done.model.params, expected.model.params)
    assert (done.train, done.test) == (expected.train, expected.test)
    assert done.test.samples == len(started.data.y_test) == 27
    np.testing.assert_array_equal(started.data.X_test, X[out])


def test_samples_on_a_gpu_stay_there(device, monkeypatch):
    if type(device.xp).__name__ != "module":
        as_cupy(device.xp, monkeypatch)
    X, y = blobs(90)
    data = fcgpu.dataset(device.to_device(X), y)
    split = with_test_samples(Part(data), fcgpu.Recipe(test_size=0.3)).data
    rest, out = parts(90, 0.3)
    for found, rows in ((split.X, rest), (split.X_test, out)):
        assert device.holds(found)
        np.testing.assert_array_equal(device.to_host(found), X[rows])


@pytest.mark.parametrize(
    ("data", "share", "message"),
    [
        ((*blobs(9), *blobs(3)), 0.2, "test_size=0.2: arrays has test samples of its own: leave test_size out"),
        (blobs(9), 0.01, "test_size=0.01 of 9 samples is 0: expected at least one sample on each side"),
        (blobs(9), 0.99, "test_size=0.99 of 9 samples is 9: expected at least one sample on each side"),
        (blobs(9), 1.0, "test_size=1.0: expected a number from 0 up to, not including, 1"),
    ],
)
def test_what_cannot_be_held_out_is_refused(data, share, message):
    with pytest.raises(fcgpu.ConfigError, match=f"^{re.escape(message)}"):
        fcgpu.train(data, test_size=share, **FEW)


@pytest.mark.parametrize(("key", "value"), [("test_size", 0.2), ("early_stopping", True)])
def test_of_samples_that_memory_does_not_hold_none_are(key, value, tmp_path):
    np.save(tmp_path / "a.npy", np.c_[np.arange(900) % 3, np.ones((900, 50))])
    data = fcgpu.load(tmp_path / "a.npy", memory_budget=100_000)
    with pytest.raises(fcgpu.ConfigError, match=rf"^{key}={value} copies the samples, .* or leave {key} out$"):
        fcgpu.train(data, memory_budget=100_000, **FEW, **{key: value})


def test_a_label_column_is_found_by_its_name_wherever_the_table_is_read_again(tmp_path):
    X, y = blobs(90)
    kinds = np.array(["ant", "bee", "cow"])[y]
    lines = [
        f"{','.join(map(str, x[:2]))},{kind},{','.join(map(str, x[2:]))}" for x, kind in zip(X, kinds, strict=True)
    ]
    names = [f"x{i}" for i in range(X.shape[1])]
    (tmp_path / "t.csv").write_text("\n".join([",".join([*names[:2], "kind", *names[2:]]), *lines]) + "\n")
    words = ("--target-column", "kind", "--epochs", 60, "--device", "cpu", "--out", tmp_path / "run")
    assert call("train", tmp_path / "t.csv", *words).code == 0
    said = json.loads((tmp_path / "run" / "result.json").read_text())
    assert said["train_accuracy"] == 1
    for data in ((), (tmp_path / "t.csv",)):
        evaluated = json.loads(call("evaluate", tmp_path / "run", *data, "--json").out.splitlines()[-1])
        assert evaluated["classes"] == ["ant", "bee", "cow"]
        assert evaluated["loss"] == pytest.approx(said["train_loss"], rel=1e-6)
    assert call("predict", tmp_path / "run", tmp_path / "t.csv").out.split() == kinds.tolist()
    made = judged(fcgpu.load_model(said["model"]), fcgpu.load_recipe(tmp_path / "run" / "recipe.toml"))
    assert made.score.loss == pytest.approx(said["train_loss"], rel=1e-6)
    with pytest.raises(
        fcgpu.ConfigError, match="target_column='kind' changes nothing for data that are loaded: give it"
    ):
        fcgpu.train((X, y), target_column="kind", **FEW)


def test_the_command_line_reports_and_evaluates_the_same_samples(tmp_path):
    X, y = blobs(90)
    table, run = csv(tmp_path / "t.csv", y, X), tmp_path / "run"
    words = ("--epochs", 3, "--hidden", 5, "--device", "cpu", "--out", run)
    assert "no test samples; --test-size 0.2 holds a fifth out" in call("train", table, *words).out
    few = call("train", "--recipe", "deep", "--epochs", 1, "--device", "cpu", "--out", tmp_path / "few").out
    assert "no test samples" in few
    assert "--test-size" not in few
    shown = call("train", table, *words[:-1], f"{run}2", "--test-size", 0.3).out
    assert "first 10 test samples" in shown
    said = json.loads((tmp_path / "run2" / "result.json").read_text())
    assert said["samples"] == 63
    for split in ("test", "train"):
        evaluated = json.loads(call("evaluate", f"{run}2", "--split", split, "--json").out.splitlines()[-1])
        assert evaluated["loss"] == pytest.approx(said[f"{split}_loss"], rel=1e-6)
    assert json.loads(call("evaluate", f"{run}2", table, "--json").out.splitlines()[-1])["samples"] == 90
    made = judged(fcgpu.load_model(said["model"]), fcgpu.load_recipe(tmp_path / "run2" / "recipe.toml"))
    assert made.split == "test"
    assert made.score.loss == pytest.approx(said["test_loss"], rel=1e-6)
