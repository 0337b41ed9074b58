"""Failures that a run survives: closed output, full disks; a file that cannot be written leaves no partial file."""

import errno
import json
import math
import os
import re
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from command import blobs, call, csv, finish, in_a_terminal, start, wait_until

import fcgpu
from fcgpu.cli import main
from fcgpu.cli.checkpoints import Policy
from fcgpu.cli.run_directory import create
from fcgpu.formats import atomic
from fcgpu.streams import say

X, LABELS = blobs(30)
# It prints its data, and its cost during training.
TALKS = ("train", "--recipe", "multiclass", "--device", "cpu", "--checkpoint-every", "0", "--out")
STOPPED = ["history.jsonl", "model.safetensors", "recipe.toml"]
WHOLE = [*STOPPED, "result.json"]


@pytest.fixture
def good(tmp_path):
    """Arguments that train on good.csv into tmp_path / run."""
    words = ("--hidden", "2", "--device", "cpu", "--quiet", "--out", tmp_path / "run")
    return ("train", csv(tmp_path / "good.csv", LABELS, X), *words)


@pytest.fixture
def model():
    *_, done = fcgpu.train((X, LABELS), hidden=(2,), epochs=1, device="cpu")
    return done.model


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def closed_pipe():
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w")


def wait_for_epochs(history, process):
    """Wait until the file is written or grows: then a run of TALKS has printed costs, too."""
    before = history.stat().st_size if history.exists() else 0
    wait_until(lambda: history.exists() and history.stat().st_size > before, process)


def no_space(*args):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are counted in Linux's /proc")
def test_what_is_said_to_a_stream_that_refuses_it_leaves_no_file_open(monkeypatch, tmp_path):
    (tmp_path / "any").touch()
    with open(tmp_path / "any", "rb") as unwritable:
        monkeypatch.setattr("sys.stderr", SimpleNamespace(write=no_space, flush=no_space, fileno=unwritable.fileno))
        before = len(names(Path("/proc/self/fd")))
        say("unheard")
        assert len(names(Path("/proc/self/fd"))) == before


@pytest.mark.parametrize("words", [("recipes", "--keys"), ("recipes", "mnist"), ("train", "--help"), ("predict",)])
def test_a_reader_that_leaves_early_gets_no_traceback(tmp_path, model, words):
    if words == ("predict",):
        fcgpu.save_model(model, tmp_path / "m.safetensors")
        np.save(tmp_path / "many.npy", np.zeros((50_000, 4)))
        words = ("predict", tmp_path / "m.safetensors", tmp_path / "many.npy")
    with closed_pipe() as gone:
        process = start(*words, stdout=gone)
    assert finish(process).err == ""
    assert process.returncode == 1


@pytest.mark.parametrize("number", [errno.EPIPE, errno.EINVAL])
def test_a_closed_pipe_is_called_what_the_system_calls_it(number, monkeypatch, capsys):
    def write(text):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("sys.stdout", SimpleNamespace(write=write, flush=lambda: None, fileno=no_space))
    assert main(["recipes", "--json"]) == 1
    assert capsys.readouterr().err == ""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The model that TALKS leaves, as bytes."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    assert call(*TALKS, run).code == 0
    return (run / "model.safetensors").read_bytes()


@pytest.mark.parametrize(("gone", "code"), [(("stdout",), 1), (("stderr",), 0), (("stdout", "stderr"), 1)])
def test_a_run_whose_readers_leave_is_trained_and_saved(tmp_path, gone, code, undisturbed):
    with closed_pipe() as pipe:
        process = start(*TALKS, tmp_path / "run", **dict.fromkeys(gone, pipe))
    result = finish(process)
    assert result.code == code
    assert "Traceback" not in (result.err or "")
    assert names(tmp_path / "run") == WHOLE
    assert len((tmp_path / "run/history.jsonl").read_text().splitlines()) == 2000
    assert (tmp_path / "run/model.safetensors").read_bytes() == undisturbed
    if "stderr" not in gone:
        assert "epoch 2000/2000" in result.err.splitlines()[-1]
    if "stdout" not in gone:
        assert "predicted" in result.out.splitlines()[-1]


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("first", ["reader", "run"])
def test_ctrl_c_that_takes_the_reader_along_still_saves(tmp_path, first):
    """As with `fcgpu train 2>&1 | tee log`, where Ctrl-C interrupts both programs, one of them first."""
    reader, writer = os.pipe()
    process = start(*TALKS, tmp_path / "run", "--epochs", 5_000_000, stdout=writer, stderr=writer)
    os.close(writer)
    wait_for_epochs(tmp_path / "run/history.jsonl", process)
    if first == "run":
        process.send_signal(signal.SIGINT)
    os.close(reader)
    if first == "reader":
        wait_for_epochs(tmp_path / "run/history.jsonl", process)
        process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert names(tmp_path / "run") == ["checkpoints", *STOPPED]


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_a_terminal_that_goes_away_does_not_end_the_run(tmp_path):
    master, slave = os.openpty()
    process = start(*TALKS, tmp_path / "run", stdout=slave, stderr=slave, environment={"TERM": "xterm"})
    os.close(slave)
    os.read(master, 1)
    os.close(master)
    assert process.wait(60) == 2  # the output was not printed
    assert names(tmp_path / "run") == WHOLE


def lines_in_a_terminal(*words):
    """Without colours."""
    return re.sub(r"\x1b\[[\d;]*m", "", in_a_terminal(*words, environment={"TERM": "xterm"})).splitlines()


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_tables_are_folded_in_a_terminal_and_nowhere_else():
    rows = [line for line in finish(start("recipes", "--keys")).out.splitlines() if line[0] == "│"]
    assert len(rows) == len(fcgpu.cli.options.KEYS)
    assert max(map(len, rows)) > 80
    lines = lines_in_a_terminal("recipes", "--keys")
    assert len(lines) > len(rows)
    assert max(map(len, lines)) == 80


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_a_confusion_matrix_is_whole_or_not_shown(tmp_path):
    X, y = blobs(240, 12, 12)
    model = tmp_path / "m.safetensors"
    for names, shown in (("c{}", 12), ("class {}", 0)):
        labels = np.array([names.format(i) for i in y])
        *_, done = fcgpu.train((X, labels), hidden=(), epochs=1, device="cpu")
        fcgpu.save_model(done.model, model)
        np.savez(tmp_path / "d.npz", X=X, y=labels)
        lines = lines_in_a_terminal("evaluate", model, tmp_path / "d.npz", "--device", "cpu")
        assert "…" not in "".join(lines)
        assert len([line for line in lines if line[0] == "│"]) == shown
        assert ("12 classes is too wide to show; --json has it" in lines[-1]) is not bool(shown)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")  # noqa: PTH110
@pytest.mark.parametrize("words", [("recipes",), ("info", "--json"), ("recipes", "mnist"), TALKS])
def test_output_that_cannot_be_written_is_an_error_of_one_line(tmp_path, words):
    run = [tmp_path / "run", "--quiet", "--json"] if words == TALKS else []
    with open("/dev/full", "w") as full:
        result = finish(start(*words, *run, stdout=full))
    assert result.code == 2
    assert re.fullmatch(r"fcgpu: error: the system refuses \(.*No space left on device\).*\n", result.err)
    assert not run or names(tmp_path / "run") == WHOLE


def test_what_will_not_fit_is_not_trained(good, tmp_path, monkeypatch):
    """The model's 19 float32 parameters take 76 bytes."""
    disk = SimpleNamespace(total=1 << 30, used=0, free=75)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: disk)
    result = call(*good, "--epochs", 2)
    assert (result.code, result.out) == (2, "")
    assert result.err == (
        f"fcgpu: error: {tmp_path / 'run'}: 75 bytes are free there, the model takes 76 bytes; "
        "free some space or choose another disk\n"
    )
    assert names(tmp_path) == ["good.csv"]
    disk.free = 76
    assert call(*good, "--epochs", 2).code == 0


def test_a_file_system_that_does_not_tell_its_size_is_used(good, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=0, used=0, free=0))
    assert call(*good, "--epochs", 2).code == 0


def test_a_full_disk_at_the_start_leaves_nothing(good, tmp_path, monkeypatch):
    monkeypatch.setattr(atomic.os, "fsync", no_space)
    result = call(*good, "--out", tmp_path / "a/b")
    assert result.code == 2
    assert re.fullmatch(
        r"fcgpu: error: .*b[/\\]recipe\.toml: cannot be written \(No space.*\); free some .*\n", result.err
    )
    assert names(tmp_path) == ["good.csv"]


def test_a_full_disk_at_the_end_does_not_cost_the_model(good, tmp_path, monkeypatch):
    elsewhere, replace = tmp_path / "elsewhere", os.replace
    elsewhere.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(elsewhere))
    refused = tmp_path / "run/model.safetensors"
    monkeypatch.setattr(atomic.os, "replace", lambda a, b: no_space() if b == refused else replace(a, b))
    result = call(*good, "--epochs", 2)
    assert (result.code, result.out) == (2, "")
    said = re.fullmatch(
        r"fcgpu: error: (.*): cannot be written \(No space left on device\); free some space there; "
        r"the model is in (.*) instead: move it before the system cleans up there\n",
        result.err,
    )
    assert said[1] == str(refused)
    assert said[2].startswith(str(elsewhere))
    assert names(tmp_path / "run") == ["history.jsonl", "recipe.toml"]
    assert len((tmp_path / "run/history.jsonl").read_text().splitlines()) == 2
    monkeypatch.undo()
    assert call(*good[:-1], tmp_path / "again", "--epochs", 2).code == 0
    rescued = fcgpu.load_model(said[2])
    assert rescued.params.tobytes() == fcgpu.load_model(tmp_path / "again/model.safetensors").params.tobytes()


def test_a_model_that_no_disk_takes_leaves_no_part_of_itself(good, tmp_path, monkeypatch):
    elsewhere, replace = tmp_path / "elsewhere", os.replace
    elsewhere.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(elsewhere))
    monkeypatch.setattr(
        atomic.os, "replace", lambda a, b: no_space() if b.name == "model.safetensors" else replace(a, b)
    )
    result = call(*good, "--epochs", 2)
    assert result.code == 2
    assert re.fullmatch(r"fcgpu: error: .*; nor does the system's temporary folder .*, which is lost\n", result.err)
    assert names(elsewhere) == []
    assert names(tmp_path / "run") == ["history.jsonl", "recipe.toml"]


def test_a_result_that_is_refused_costs_a_warning(good, tmp_path, monkeypatch):
    replace = os.replace
    monkeypatch.setattr(atomic.os, "replace", lambda a, b: no_space() if b.name == "result.json" else replace(a, b))
    result = call(*good, "--epochs", 2, "--json")
    assert result.code == 0
    assert json.loads(result.out)["epochs"] == 2
    assert re.fullmatch(r"fcgpu: warning: the model is saved, .*result\.json: cannot be written .*\n", result.err)
    assert names(tmp_path / "run") == STOPPED


@pytest.mark.skipif(os.name != "posix", reason="limits need a POSIX shell")
def test_a_history_that_does_not_fit_does_not_cost_the_model(good, tmp_path):
    """A limit on the file size makes the system write a part and refuse the rest, like a full disk."""
    process = start(*good, "--epochs", 3000, before=("sh", "-c", 'ulimit -f 40; exec "$@"', "sh"))
    result = finish(process)
    assert (result.code, result.out) == (2, "")
    assert re.fullmatch(
        r"fcgpu: error: .*history\.jsonl: cannot be written \(File too large\); .*; the model is saved as .*\n",
        result.err,
    )
    fcgpu.load_model(tmp_path / "run/model.safetensors")
    history = tmp_path / "run/history.jsonl"
    assert not history.exists() or history.read_text().endswith("\n")


def test_lines_that_are_refused_for_a_while_are_written_at_the_end(tmp_path, monkeypatch):
    events = fcgpu.train((X, LABELS), hidden=(), epochs=4, device="cpu")
    next(events)
    monkeypatch.setattr("fcgpu.cli.history.FLUSH_SECONDS", 0)
    with create(str(tmp_path / "run"), fcgpu.Recipe(), room=0, policy=Policy(keep=2)) as run:
        run.history.add(next(events))
        with monkeypatch.context() as full:
            full.setattr(atomic.os, "write", no_space)
            run.history.add(next(events))
        run.history.add(next(events))
        assert len((tmp_path / "run/history.jsonl").read_text().splitlines()) == 1
        run.history.add(next(events))
    lines = (tmp_path / "run/history.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3, 4]


def test_a_loss_that_is_not_finite_is_no_number_in_the_history(tmp_path):
    """On a GPU the epochs that end before the next check of the loss are recorded, too."""
    numbers = {"seconds": 1.0, "loss": math.nan, "penalty": 0.0, "monitored": math.nan, "learning_rate": 1.0}
    event = SimpleNamespace(epoch=1, epochs=2, step=1, accuracy=0.5, test=lambda: None, **numbers)
    with create(str(tmp_path / "run"), fcgpu.Recipe(), room=0, policy=Policy(keep=2)) as run:
        run.history.add(event)
    line = json.loads((tmp_path / "run/history.jsonl").read_text())
    assert (line["loss"], line["monitored"], line["accuracy"]) == (None, None, 0.5)


@pytest.mark.parametrize("epochs", [1, 3])
def test_divergence_names_epoch_remedy_and_where_the_history_is(good, tmp_path, epochs):
    """Also if only the last step diverges, so that the loss of every epoch is finite."""
    result = call(*good, "--learning-rate", "1e38", "--epochs", epochs)
    assert (result.code, result.out) == (2, "")
    said = re.fullmatch(
        r"fcgpu: error: the loss is nan in epoch [12] with .*: try .* \(recipe and history kept in (.*)\)\n", result.err
    )
    assert said[1] == str(tmp_path / "run")
    assert names(tmp_path / "run") == ["history.jsonl", "recipe.toml"]
    assert json.loads((tmp_path / "run/history.jsonl").read_text())["epoch"] == 1


def test_divergence_in_the_first_epoch_has_no_history(good, tmp_path):
    result = call(*good, "--learning-rate", "1e38", "--epochs", 2, "--batch", 5)
    assert re.search(rf"in epoch 1 with .* \(recipe kept in {re.escape(str(tmp_path / 'run'))}\)\n$", result.err)
    assert names(tmp_path / "run") == ["recipe.toml"]


def test_ctrl_c_while_writing_leaves_no_part_of_a_file(good, tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    (tmp_path / "run").mkdir()
    monkeypatch.setattr(atomic.os, "fsync", interrupt)
    assert call(*good) == (130, "", "fcgpu: stopped\n")
    assert names(tmp_path / "run") == []


def test_of_runs_that_begin_at_once_each_has_a_folder_of_its_own(tmp_path, monkeypatch):
    """Two runs choose the same new name; one of them creates the folder first."""
    names = iter([tmp_path / "taken", tmp_path / "taken-2"])
    monkeypatch.setattr("fcgpu.cli.run_directory._new_name", lambda recipe: next(names))
    (tmp_path / "taken").mkdir()
    with create(None, fcgpu.Recipe(), room=1, policy=Policy(keep=2)) as run:
        assert run.path == tmp_path / "taken-2"
