"""Bad input on the command line: one line with value, expectation and remedy, exit code 2, nothing written."""

import json
import os
import re
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from command import blobs, call, csv

import fcgpu

X, LABELS = blobs(30)
TRAIN = ("train", "good.csv", "--epochs", "2", "--device", "cpu", "--out", "out")


def no_gpu():
    try:
        fcgpu.choose("cuda")
    except fcgpu.DeviceError:
        return True
    return False


def everything(folder):
    return {str(path): path.stat().st_size for path in folder.rglob("*") if not path.is_fifo()}


def refused(words, pattern, *, folder="."):
    """`fcgpu words...` fails as the first line of this file says; `pattern` matches the error line."""
    folder = Path(folder).absolute()
    before = everything(folder)
    result = call(*words)
    assert result.code == 2, result
    assert result.out == ""
    assert re.fullmatch(r"fcgpu( [a-z]+)?: error: [^\n]+\n", result.err), result.err
    assert re.search(pattern, result.err.replace(os.sep, "/")), result.err
    assert everything(folder) == before


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder of good and bad files, with the runs `model` (three classes) and `values` (a regression)."""
    root = tmp_path_factory.mktemp("files")
    csv(root / "good.csv", LABELS, X)
    csv(root / "real.csv", X[:, 0], X)
    csv(root / "wide.csv", LABELS, np.hstack([X, X]))
    csv(root / "bare.csv", X[:, 0], X[:, 1:])
    csv(root / "last.csv", X[:, 0], np.c_[X[:, 1:], LABELS])
    csv(root / "four.csv", np.arange(30) % 4, X)
    csv(root / "one.csv", np.ones(30, int), X)
    for name, text in {
        "ragged.csv": "0,1,2\n1,2\n0,3,4\n",
        "file": "x",
        "wrong.toml": "epochs 3",
        "huge.toml": "seed = 0x" + "f" * 10_000,
        "digits.toml": "seed = " + "9" * 10_000,
        "nodata.toml": "epochs = 1",
    }.items():
        (root / name).write_text(text)
    for name in ("folder", "folder.toml", "full"):
        (root / name).mkdir()
    (root / "full/thesis.txt").write_text("the only copy")
    np.save(root / "x.npy", X)
    np.save(root / "narrow.npy", X[:, :2])
    np.save(root / "nan.npy", np.where(X > 5, np.nan, X))
    np.save(root / "big.npy", 1e300 * X)
    np.savez(root / "wide.npz", X=np.hstack([X, X]))
    np.savez(root / "half.npz", X=X, y=np.where(LABELS, 2.5, 1))
    np.savez(root / "testlabel.npz", X=X, y=LABELS, X_test=X[:3], y_test=np.array([0, 1, 7]))
    np.savez(root / "testtext.npz", X=X, y=X[:, 0], X_test=X[:2], y_test=np.array(["a", "b"]))
    np.savez(root / "testwide.npz", X=X, y=X[:, 0], X_test=X[:2], y_test=X[:2])
    np.savez(root / "late.npz", X=X, y=X[:, 0], X_test=X, y_test=LABELS)  # whole numbers as test targets only
    np.savez(root / "two.npz", X=X, y=X[:, :2])
    train = ("--epochs", 2, "--hidden", 2, "--device", "cpu", "--quiet", "--out")
    assert call("train", root / "good.csv", *train, root / "model").code == 0
    assert call("train", root / "real.csv", "--output", "identity", *train, root / "values").code == 0
    shutil.copytree(root / "model", root / "nodata")
    (root / "nodata/recipe.toml").write_text("epochs = 1")
    shutil.copy(root / "model/model.safetensors", root / "alone.safetensors")
    return root


@pytest.fixture
def here(files, monkeypatch):
    monkeypatch.chdir(files)
    return files


@pytest.mark.parametrize(
    ("source", "pattern"),
    [
        ("none.csv", r"none\.csv: no such file or folder; check the path"),
        ("~nobody-here/x.csv", "no such file"),
        ("ragged.csv", r"ragged\.csv, line 2: 2 values; expected 3"),
        ("nan.npy", r"nan\.npy: feature \d of sample \d+ is nan; features must be finite"),
        ("one.csv", r"one\.csv: every label is 1; at least two classes"),
        (
            "half.npz",
            r"half\.npz: output='softmax' needs whole-number or text labels.*, not 2\.5 for sample 1; .*identity",
        ),
        ("two.npz", r"columns run from .* to .*; output=.softmax. needs them from 0 to 1; .*identity"),
        ("testlabel.npz", r"testlabel\.npz \(test\): label 7 of sample 2 is out of range; the classes are 0, 1, 2"),
        ("testtext.npz", r"testtext\.npz: y_test has shape \(2,\) and dtype <U1, y \(30,\) and float64; expected"),
        ("testwide.npz", r"testwide\.npz: y_test has shape \(2, 4\) .*; expected numbers in as many columns"),
        (os.devnull, f"{os.devnull}: not a file of a known kind; expected"),
    ],
)
def test_data_that_cannot_be_trained_on_are_refused(here, source, pattern):
    refused(("train", source, *TRAIN[2:]), pattern)


COUNT = "expected a whole number of 1 or more"
OPTIONS = {
    "--batch": {
        "0": 'batch=0: expected "full" or a whole number of 1 or more',
        "-3": "batch=-3: expected",
        "many": "batch='many': expected \"full\" or",
        "1.5": "batch='1.5': expected",
    },
    "--learning-rate": {
        "0": r"learning_rate=0\.0: expected a number above 0",
        "-1e-3": r"learning_rate=-0\.001: expected a number above 0",
        "nan": "learning_rate=nan: expected",
        "inf": "learning_rate=inf: expected",
        "-inf": "learning_rate=-inf: expected",
        "1e400": "learning_rate=inf: expected",
        "fast": "learning_rate='fast': expected a number above 0",
        "": "learning_rate='': expected",
    },
    "--epochs": {"0": f"epochs=0: {COUNT}", "-1": "epochs=-1: e", "x": "epochs='x': e", "9" * 25: "up to 10 million"},
    "--threads": {"0": f"--threads: '0': {COUNT}", "-1": "--threads: '-1': e", "two": COUNT, "9" * 5000: COUNT},
    "--seed": {"-1": "seed=-1: expected a whole number of 0 or more", "9" * 400: "seed=9+: expected"},
    "--hidden": {
        "0": r"hidden=\[0\]: expected a list of whole numbers of 1 or more, as \[128, 64\]",
        "-5,3": r"hidden=\[-5, 3\]: expected",
        "128 64": "hidden='128 64': expected",
        "1e3": r"hidden=\[1000.0\]: expected",
        "5,,3": "hidden='5,,3': expected",
        "1" + "0" * 12: r"memory budget of .* is too small; this network and data need at least [\d,.]+ GiB",
    },
    "--memory": {
        "1KB": r"memory budget of 1000 bytes is too small; .*need at least [\d.]+ KiB on cpu: raise the budget",
        "lots": "--memory: 'lots': expected a size such as 300MB or 2GiB",
        "3XB": "--memory: '3XB': expected a size",
        "-5MB": "--memory: '-5MB': expected a size",
        "0": "--memory: '0': expected a size",
        "0.4": r"--memory: '0\.4': expected a size",
        "9" * 400 + "GB": "--memory: '9+GB': expected a size",
    },
    "--device": {
        "cuda:99": r"device='cuda:99': .*, or use device='cpu'",
        "cuda:": "device='cuda:' is not a device; choose from auto, cpu, cuda, cuda:N",
        "tpu": "device='tpu' is not a device; choose from auto",
    },
    "--activation": {
        "rleu": "activation='rleu': expected one of .*did you mean 'relu'",
        "ReLU": "did you mean 'relu'",
        "x": "one of .*, leaky_relu\n",
    },
    "--output": {"softmx": "output='softmx': expected one of .*did you mean 'softmax'"},
    "--loss": {
        "squared_error": "output='softmax' with loss='squared_error' is not a legal pair; use loss='cross_entropy', or "
        "output='identity'",
        "hinge": "loss='hinge': expected one of binary_cross_entropy, cross_entropy, squared_error, poisson\n",
        "mse": "loss='mse': expected one of .*did you mean 'squared_error'",
    },
    "--momentum": {"0.9": "momentum=0.9 changes nothing where optimizer='adam': it is for momentum, nesterov"},
    "--weight-decay": {
        "0.01": "weight_decay=0.01 changes nothing where optimizer='adam': it is for adamw",
        "0.1": "weight_decay=0.1 changes nothing where",
    },
    "--gamma": {"0.5": "gamma=0.5 changes nothing where schedule='': it is for step"},
    "--validation-fraction": {"0.1": "validation_fraction=0.1 changes nothing without early_stopping.*add it"},
    "--tol": {"1e-4": "tol=0.0001 changes nothing without n_iter_no_change.*add it"},
    "--optimizer": {"adm": "optimizer='adm': expected one of .*did you mean 'adam'"},
    "--init": {"hee": "init='hee': expected one of .*did you mean 'he'"},
    "--schedule": {
        "cosin": "schedule='cosin': expected one of .*did you mean 'cosine'",
        "none": "did you mean 'constant'",
    },
    "--dtype": {"float16": "dtype='float16': expected one of float32, float64"},
    "--image-size": {
        "64": r"image_size=\[64\]: expected \[height, width\]",
        "(64)": r"image_size=\[64\]: expected \[height, width\]",
        "(64, 64)": r"image_size=\(64, 64\) is not for",
        "64,64": r"image_size=\(64, 64\) is not for .*good\.csv: only a folder of images is resized; leave it out",
        "9" * 20 + ",1": "image_size=.*expected at most 67108864 in all",
    },
    "--recipe": {
        "": "recipe='' is not known; choose from deep, logistic",
        "mnits": "recipe='mnits' is not known; did you mean 'mnist'",
        "none.toml": r"none\.toml: the recipe cannot be read \(No such file.*\); give the path .* deep, logistic",
        "./folder": r"\./folder: the recipe cannot be read \((Is a directory|Permission denied)\)",
        "folder.toml": r"folder\.toml: the recipe cannot be read \((Is a directory|Permission denied)\)",
        "wrong.toml": r"wrong\.toml: not TOML \(.*line 1",
        "huge.toml": r"huge\.toml: ",
        "digits.toml": r"digits\.toml: ",
    },
    "--out": {
        "full": "full: the run directory is not empty; give another --out or remove it",
        "file": r"file: cannot be written \(.*exists\); choose a folder",
        "file/below": r"file/below: cannot be written \(.+\); choose a folder",
    }
    | ({"/proc/run": "/proc/run: cannot be written"} if os.name == "posix" else {}),
}


@pytest.mark.parametrize(
    ("option", "value", "pattern"),
    [(option, value, pattern) for option, values in OPTIONS.items() for value, pattern in values.items()],
    ids=lambda text: text[:20],
)
def test_a_wrong_value_of_an_option_is_refused(here, option, value, pattern):
    refused((*TRAIN, option, value), pattern)


@pytest.mark.skipif(os.name == "nt", reason="a link needs a right that few users of Windows have")
def test_a_link_to_nowhere_in_place_of_runs_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").symlink_to("nowhere")
    result = call("train", "--recipe", "deep", "--device", "cpu")
    assert (result.code, result.out) == (2, "")
    assert re.search(r"error: runs/deep-[\d-]+: cannot be written \(.*exists\); choose a folder", result.err)


@pytest.mark.skipif(not no_gpu(), reason="there is a GPU")
def test_cuda_is_refused_where_there_is_none(here):
    pattern = r"device='cuda': .*(driver|CuPy|GPU).*(install|reinstall|update|check).*, or use device='cpu'"
    for words in (TRAIN, ("predict", "model", "x.npy"), ("evaluate", "model"), ("info",)):
        refused((*words, "--device", "cuda"), pattern)


@pytest.mark.parametrize(
    ("words", "pattern"),
    [
        ((), r"no command given; choose from train, .*\(see fcgpu --help\)"),
        (("trian",), "'trian' is not a command; did you mean 'train'"),
        (
            ("zzz",),
            "'zzz' is not a command; choose from train, .*, report, info, bench, recipes",
        ),
        ((*TRAIN, "--epoch", "5"), "fcgpu train: error: --epoch is not an option; did you mean '--epochs'"),
        ((*TRAIN, "--lr", "0.1"), "--lr is not an option; did you mean '--learning-rate'"),
        ((*TRAIN, "--hidden-layer-sizes=9"), "--hidden-layer-sizes is not an option; did you mean '--hidden'"),
        ((*TRAIN, "--momentun=0.5"), "--momentun is not an option; did you mean '--momentum'"),
        ((*TRAIN, "--zzz"), "--zzz is not an option .see fcgpu train --help"),
        ((*TRAIN, "--description=x"), "--description is not an option; it is for the TOML file of a recipe .see"),
        (
            ("train", "--data", "x"),
            "--data is not an option; give the data as an argument",
        ),
        (
            ("evaluate", "model", "--data=x"),
            "fcgpu evaluate: error: --data is not an option; give the data as an argument",
        ),
        ((*TRAIN, "more"), "'more' is more than fcgpu train takes"),
        (("train", "--epochs"), "--epochs: expected one argument"),
        (
            ("train", "--recipe", "logistic"),
            "recipe logistic has no data of its own: fcgpu train DATA --recipe logistic",
        ),
        (("train", "logistic"), "'logistic' is a recipe, not data: fcgpu train --recipe logistic"),
        (("train", "mnist-article"), "'mnist-article' is a recipe, not data: fcgpu train --recipe mnist-article"),
        *(  # all three are the recipe mnist
            (("train", *words, "--on-divergence", "halve"), "halve: optimizer='lbfgs' finds its step sizes by itself")
            for words in (("--recipe", "mnist"), ("mnist",), ())
        ),
        (("train", "--recipe", "deep", "--out", "full"), "full: the run directory is not empty"),
        (("train", "real.csv", "--output", "sigmoid"), "output='sigmoid' needs .*use output='identity'"),
        (("train", "good.csv", "--recipe", "logistic"), r"good\.csv: .* or make it \[\] where a recipe has it"),
        (
            ("train", "last.csv"),
            r"not -?[\d.]+ for sample 0; the label is the first column, unless target_column names another; for",
        ),
        (("recipes", ""), "recipe='' is not known; choose from"),
        (("recipes", "mnist", "--keys"), "argument --keys: not allowed with argument NAME"),
        (("train", "--recipe", "deep", "--out", ""), "out='': expected a folder; omit --out"),
        (("recipes", "mnits"), "recipe='mnits' is not known; did you mean 'mnist'"),
        (("predict",), "required: MODEL, FILE"),
        (("evaluate", "model", "--split", "tset"), "invalid choice: 'tset'"),
    ],
)
def test_words_that_are_no_command_are_refused(here, words, pattern):
    refused(words, pattern)


@pytest.mark.parametrize(
    ("words", "pattern"),
    [
        (("evaluate", "model", "none.csv"), "no such file"),
        (("evaluate", "model", "wide.csv"), r"wide\.csv: 8 features don't match the model: expected 4"),
        (
            ("evaluate", "model", "bare.csv"),
            r"3 features don't .* 4 after the label; .* without labels .* fcgpu predict",
        ),
        (("evaluate", "model", "mnist"), "mnist: 784 features don't match the model: expected 4"),
        (("evaluate", "model", "four.csv"), r"four\.csv: label 3 of sample 3 is out of range; the classes are 0, 1, 2"),
        (
            ("evaluate", "model", "real.csv"),
            r"expected labels among the model's classes 0, 1, 2, found .* for sample 0",
        ),
        (("evaluate", "model", "two.npz"), r"classes 0, 1, 2, found 2 columns of targets"),
        (("evaluate", "values", "two.npz"), r"two\.npz: 2 targets a sample don't match the model: expected 1"),
        (("evaluate", "model", "--split", "test"), "there are no test samples; use --split train"),
        (("evaluate", "model", ""), "'' is no data set"),
        (("evaluate", "model", "--threads", "0"), "fcgpu evaluate: error: argument --threads: '0': expected"),
        (("evaluate", "", "good.csv"), r"MODEL='': expected a run directory or its model\.safetensors"),
        (("evaluate", "model", "late.npz"), r"late\.npz: expected labels among .*, found -?[\d.]+ for sample 0"),
        (("evaluate", "alone.safetensors"), r"no recipe\.toml beside it names the data; give them: fcgpu evaluate"),
        (("evaluate", "nodata"), r"nodata/recipe\.toml: names no data; give them: fcgpu evaluate MODEL DATA"),
        (("predict", "model", "none.csv"), r"none\.csv: no such file"),
        (("predict", "model", "wide.csv"), r"wide\.csv: 9 columns don't match the model: expected 4 features, or 5"),
        (("predict", "model", "narrow.npy"), r"narrow\.npy: 2 features don't match the model: expected 4"),
        (("predict", "model", "wide.npz"), r"wide\.npz: 8 features don't match the model: expected 4"),
        (("predict", "model", "nan.npy"), r"nan\.npy: feature \d of sample \d+ is nan"),
        (("predict", "model", "big.npy"), "outputs for sample 0 are not finite: expected features of the scale"),
        (("predict", "model", "x.npy", "x.npy"), r"x\.npy: a table among several files; expected pictures"),
        (("predict", "values", "x.npy", "--proba"), "--proba: this model predicts values, not classes; leave it out"),
        (("predict", "model", "x.npy", "--batch", "3"), "fcgpu predict: error: --batch is not an option"),
    ],
)
def test_data_that_do_not_match_the_model_are_refused(here, words, pattern):
    refused((*words, "--device", "cpu"), pattern)


def test_pictures_that_do_not_match_are_refused(here, tmp_path):
    image = pytest.importorskip("PIL.Image")
    for name in ("a/0", "b/0", "b/1"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        image.new("RGB", (3, 4 if name == "b/1" else 2)).save(tmp_path / f"{name}.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n")
    refused(("predict", "model", tmp_path / "a/0.png"), "2 x 3 pixels make 6 features, in colour 18, .*expected 4")
    refused(("predict", "model", tmp_path / "broken.png"), r"broken\.png: not a readable picture")
    refused(("train", tmp_path, *TRAIN[2:]), r"b/1\.png: 4 x 3 pixels .*; expected 2 x 3, .*give image_size")
    (tmp_path / "c").mkdir()
    refused(("train", tmp_path, *TRAIN[2:]), "c: no pictures in this folder; expected files ending in .png")


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("none", "none: no such model file; fcgpu train writes one"),
        ("folder", r"folder/model\.safetensors: no such model file"),
        ("file", "file: not a whole safetensors file .*copy it again or train anew"),
        ("float8", "not a whole safetensors file"),
        ("bfloat16", "a safetensors file of another program"),
        ("deep", "do not match their SHA-256"),
    ],
)
def test_files_that_are_no_model_are_refused(here, tmp_path, name, pattern):
    def raw(header, data=b""):
        return struct.pack("<Q", len(header)) + header + data

    path, tensor = tmp_path / name, b'"a":{"dtype":"%s","shape":[1],"data_offsets":[0,%d]}}'
    if content := {
        "bfloat16": raw(b"{" + tensor % (b"BF16", 2), bytes(2)),
        "float8": raw(b'{"__metadata__":{"fcgpu":"{}"},' + tensor % (b"F8_E4M3", 1), bytes(1)),
        "deep": raw(b'{"__metadata__":{"fcgpu":' + json.dumps("[" * 100_000).encode() + b"}}"),
    }.get(name):
        path.write_bytes(content)
    refused(("predict", path if path.exists() else name, "x.npy"), pattern)
    refused(("evaluate", path if path.exists() else name, "good.csv"), pattern)
