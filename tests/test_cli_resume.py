"""`fcgpu train --resume`, the checkpoints of a run directory, its lock, signals and divergence."""

import itertools
import json
import math
import os
import re
import signal
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from command import blobs, call, csv, finish, start, wait_until

import fcgpu
from fcgpu.cli.checkpoints import Checkpoints, Policy
from fcgpu.cli.lock import Lock
from fcgpu.cli.run_directory import quoted
from fcgpu.cli.train import _stop_after_epoch
from fcgpu.formats import atomic
from fcgpu.progress import Progress
from fcgpu.train import checkpoint, plan_c
from fcgpu.train.state import State

X, LABELS = blobs(30)


@pytest.fixture
def here(tmp_path):
    csv(tmp_path / "d.csv", LABELS, X)
    return tmp_path


def words(here, *more, name="run"):
    return ("train", here / "d.csv", "--hidden", "3", "--epochs", 9, "--device", "cpu", "--quiet",
            "--out", here / name, *more)  # fmt: skip


def resume(run, *more):
    return call("train", "--resume", run, "--device", "cpu", "--quiet", *more)


def epochs(run):
    return sorted(int(path.stem.removeprefix("epoch-")) for path in (run / "checkpoints").iterdir())


def refused(result, pattern):
    assert (result.code, result.out) == (2, "")
    assert re.fullmatch(f"fcgpu( train)?: error: .*{pattern}.*\n", result.err), result.err


def test_the_last_few_and_the_best_are_kept(here):
    assert call(*words(here, "--checkpoint-every", 2, "--keep", 2)).code == 0
    assert epochs(here / "run") == [6, 8]


def scored(epoch, score):
    data = dict.fromkeys(("X", "y", "classes", "scale"), "")
    return checkpoint.Checkpoint(State(np.ones(3, np.float32), epochs=epoch), fcgpu.Recipe(), data, {}, score)


def test_a_checkpoint_is_scored_by_what_early_stopping_watches(here):
    assert call(*words(here, "--early-stopping", "--checkpoint-every", 1, "--keep", 99)).code == 0
    history = [json.loads(line) for line in (here / "run/history.jsonl").read_text().splitlines()]
    found = [
        checkpoint.load(here / f"run/checkpoints/epoch-{epoch}.safetensors").score for epoch in epochs(here / "run")
    ]
    assert found == [line["monitored"] for line in history[: len(found)]]
    assert len(found) > 1
    assert found[0] != history[0]["loss"]


def test_ctrl_c_in_the_last_epoch_changes_nothing(here, monkeypatch):
    add = Progress.add

    def interrupted(self, event):
        add(self, event)
        if event.epoch == event.epochs:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Progress, "add", interrupted)
    assert call(*words(here)).code == 0
    assert (here / "run/result.json").exists()


def test_which_checkpoints_are_kept(tmp_path):
    kept = Checkpoints(tmp_path, Policy(keep=2))
    found = []
    for epoch, score in enumerate([3, 1, 2, 1, 5, 4], 1):
        kept.save(scored(epoch, score))
        found.append(epochs(tmp_path))
    assert found == [[1], [1, 2], [2, 3], [3, 4], [4, 5], [4, 5, 6]]  # of equal scores, the later's
    resumed = Checkpoints(tmp_path, Policy(keep=1))
    assert resumed.latest()[0].state.epochs == 6
    resumed.save(scored(7, math.inf))
    assert epochs(tmp_path) == [4, 7]
    resumed.remove(7)
    resumed.remove(4)
    resumed.save(scored(3, math.inf))
    assert epochs(tmp_path) == [3]


def test_a_checkpoint_under_another_name_is_not_resumed(tmp_path):
    kept = Checkpoints(tmp_path, Policy(keep=2))
    for epoch in (1, 2):
        kept.save(scored(epoch, 0))
    folder = tmp_path / "checkpoints"
    (folder / "epoch-2.safetensors").rename(folder / "epoch-3.safetensors")
    for name in ("x", "\u00b2", "-1", ""):  # not numbers
        (folder / f"epoch-{name}.safetensors").touch()
    found, wrong = kept.latest()
    assert (found.state.epochs, len(wrong)) == (1, 1)
    assert wrong[0].endswith("epoch-3.safetensors: is of epoch 2; rename it")
    (folder / "epoch-1.safetensors").unlink()
    with pytest.raises(fcgpu.CheckpointError, match="is of epoch 2"):
        kept.latest()


def test_checkpoints_by_the_clock(here, monkeypatch):
    now = iter(range(0, 1000, 20))  # 20 s for an epoch, 20 s for a save
    monkeypatch.setattr("fcgpu.cli.checkpoints.time", SimpleNamespace(monotonic=lambda: next(now)))
    assert call(*words(here, "--checkpoint-every", "1min", "--keep", 9)).code == 0
    assert epochs(here / "run") == [3, 6, 9]


def test_a_short_run_has_no_checkpoint_unless_it_asks(here):
    assert call(*words(here)).code == 0
    assert not (here / "run/checkpoints").exists()


def test_a_damaged_checkpoint_is_passed_over_with_a_warning(here):
    assert call(*words(here, "--checkpoint-every", 1)).code == 0
    model = (here / "run/model.safetensors").read_bytes()
    (here / "run/model.safetensors").unlink()
    (here / "run/recipe.toml").unlink()  # it is in the checkpoints, too
    newest = here / "run/checkpoints/epoch-9.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    result = resume(here / "run")
    assert result.code == 0
    assert "epoch-9.safetensors: not a whole" in result.err
    assert "going on after epoch 8 of 9" in result.err
    assert (here / "run/model.safetensors").read_bytes() == model
    assert len((here / "run/history.jsonl").read_text().splitlines()) == 9


def test_another_recipe_or_other_data_are_refused_with_what_differs(here):
    assert call(*words(here, "--checkpoint-every", 1)).code == 0
    refused(resume(here / "run", "--learning-rate", "0.5"), r"not the recipe of the run: learning_rate=0.5 \(was 0.0")
    refused(resume(here / "run", "--recipe", "deep"), "not the recipe of the run: name='deep'")
    refused(resume(here / "run", "--out", here / "other"), "omit --out")
    refused(call("train", "deep", "--resume", here / "run", "--device", "cpu"), "other data than the run's: X of deep")
    csv(here / "d.csv", LABELS, X + 1)
    refused(resume(here / "run"), "other data than the run's: X of .*d.csv is float64 30x4")
    csv(here / "d.csv", LABELS, X)
    recipe = here / "run/recipe.toml"
    recipe.write_text(recipe.read_text().replace("epochs = 9", "epochs = 12"))
    refused(resume(here / "run"), r"recipe.toml: not the recipe of the run: epochs=12 \(was 9\)")
    recipe.write_text(recipe.read_text().replace("epochs = 12", "epochs = 9"))
    for history, said in (
        ('{"epoch": 1}\n', "history.jsonl: ends at epoch 1, and the checkpoint is of epoch 9; put the history back"),
        ('{"epoch": 1}\n{"epoch": 9}\n', "history.jsonl, line 2: epoch 9, expected 2: put it back"),
        ('{"epoch": 1}\n{"epoch": "9"}\n', "history.jsonl, line 2: expected an epoch as JSON; put the run's own"),
    ):
        (here / "run/history.jsonl").write_text(history)
        refused(resume(here / "run"), said)


def test_the_disk_has_the_history_before_the_checkpoint(here, monkeypatch):
    """Otherwise a power failure could leave a history that ends before the checkpoint, which is then refused."""
    synced = []
    monkeypatch.setattr(atomic.os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    assert call(*words(here, "--checkpoint-every", 9)).code == 0
    history, saved = (here / "run" / name for name in ("history.jsonl", "checkpoints/epoch-9.safetensors"))
    assert synced.index(history.stat().st_ino) < synced.index(saved.stat().st_ino)


def contents(run):
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_a_finished_run_without_a_checkpoint_keeps_its_model(here):
    assert call(*words(here)).code == 0
    before = contents(here / "run")
    refused(resume(here / "run"), "run: the run is finished and .* start a new run: fcgpu train --recipe .* --epochs N")
    refused(call("train", "deep", "--resume", here / "run"), "other data than the run's: deep, was .*d.csv; omit deep")
    refused(resume(here / "run", "--epochs", 18), r"not the recipe of the run: epochs=18 \(was 9\)")
    (here / "run/result.json").unlink()
    refused(resume(here / "run"), "the run ended with a model and has no checkpoint")
    assert contents(here / "run") | {here / "run/result.json": before[here / "run/result.json"]} == before
    again = ("--recipe", here / "run/recipe.toml", "--epochs", 18, "--device", "cpu", "--quiet", "--out", here / "more")
    assert call("train", *again).code == 0


def test_an_unfinished_run_without_a_checkpoint_begins_again_and_says_so(here):
    run = here / "run"
    assert call(*words(here)).code == 0
    model = (run / "model.safetensors").read_bytes()
    for name in ("model.safetensors", "result.json"):
        (run / name).unlink()
    (run / "history.jsonl").write_text('{"epoch": 1}\n{"epoch": 2}\n')
    refused(call("train", "deep", "--resume", run), "other data than the run's: deep, was")
    result = resume(run)
    assert (result.code, result.err) == (0, f"fcgpu: no checkpoint in {run}: beginning again with epoch 1 of 9\n")
    assert (run / "model.safetensors").read_bytes() == model
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines if "loss" in line] == list(range(1, 10))


@pytest.mark.parametrize("every", [0, 1])
def test_a_resume_that_is_refused_changes_nothing(here, every):
    """Not even what a killed process left unfinished: a partial line, a temporary file."""
    run = here / "run"
    assert call(*words(here, "--checkpoint-every", every)).code == 0
    if not every:
        (run / "model.safetensors").unlink()  # otherwise the run is finished
    with (run / "history.jsonl").open("a") as file:
        file.write('{"epo')
    for folder in {run, run / "checkpoints"} & {run, *run.iterdir()}:
        (folder / ".model.safetensors.01234567.tmp").write_text("half")
    before = contents(run)
    for more in (("--learning-rate", 0.5), ("--device", "cuda:99"), ("--memory", "1KB"), ("--threads", 0)):
        assert call("train", "--resume", run, *more).code == 2
    for data in ("deep", here / "none.csv"):
        assert call("train", data, "--resume", run, "--device", "cpu").code == 2
    (here / "d.csv").write_text("0,x\n")
    assert resume(run).code == 2
    assert contents(run) == before


def test_what_is_no_run_directory_is_refused(here):
    refused(resume(here / "none"), "expected the folder of an earlier run")
    refused(resume(here), "neither recipe.toml nor checkpoints")
    assert sorted(path.name for path in here.iterdir()) == ["d.csv"]


def test_a_run_that_another_version_cut_otherwise_is_refused(here, monkeypatch):
    assert call(*words(here, "--checkpoint-every", 1)).code == 0
    monkeypatch.setattr("fcgpu.cli.train.cut_of", lambda plan, on_gpu: {"tile": plan.tile + 1, "lanes": plan.lanes})
    cut = json.loads((here / "run/result.json").read_text())
    there, now = (f"lanes {cut['lanes']}, tile {cut['tile'] + more}" for more in (0, 1))
    refused(resume(here / "run"), f"cut into {there}, and this version of fcgpu makes it {now},")


def test_a_run_goes_on_with_another_number_of_threads(here, monkeypatch):
    monkeypatch.setattr(plan_c, "THREAD_SAMPLES", {"float32": 2, "float64": 2})
    monkeypatch.setattr(plan_c, "THREAD_FLOP", 1)
    given = words(here, "--checkpoint-every", 4, "--threads", 1)
    assert call(*given).code == 0
    whole = (here / "run/model.safetensors").read_bytes()
    (here / "run/model.safetensors").unlink()
    assert resume(here / "run", "--threads", 3).code == 0
    assert (here / "run/model.safetensors").read_bytes() == whole


@pytest.mark.parametrize("text", ["x", "-1", "1.5", "3 s", "nan", "1e3"])
def test_how_often_is_checked(here, text):
    refused(call(*words(here, f"--checkpoint-every={text}")), "--checkpoint-every: .*expected epochs, as 5, or a time")


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGBREAK"])
def test_each_signal_that_stops_a_run_does_so_after_the_epoch(name, monkeypatch, capsys):
    if not hasattr(signal, "SIGBREAK"):  # Windows' Ctrl-Break, by which a program stops another there
        monkeypatch.setattr(signal, "SIGBREAK", signal.SIGUSR1, raising=False)
    number = getattr(signal, name)
    before = signal.getsignal(number)
    with _stop_after_epoch() as stopping:
        assert not stopping
        signal.raise_signal(number)
        assert stopping == [number]
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) is before
    assert "stopping after this epoch" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_sigterm_leaves_a_checkpoint_and_a_running_run_is_locked(here):
    process = start("train", "multiclass", "--recipe", "multiclass", "--epochs", 5_000_000, "--device", "cpu",
                    "--quiet", "--out", here / "run")  # fmt: skip
    wait_until((here / "run/history.jsonl").exists, process)
    refused(resume(here / "run"), f"another run, process {process.pid}, writes there")
    process.send_signal(signal.SIGTERM)
    result = finish(process)
    assert result.code == 128 + signal.SIGTERM
    assert f"fcgpu train --resume {here / 'run'} goes on" in result.err
    said = int(re.search(r"stopped after epoch (\d+) of", result.err)[1])
    assert epochs(here / "run") == [said]
    assert checkpoint.load(here / f"run/checkpoints/epoch-{said}.safetensors").state.epochs == said
    assert len((here / "run/history.jsonl").read_text().splitlines()) == said


@pytest.mark.parametrize(
    ("system", "path", "word"),
    [("posix", "runs/1", "runs/1"), ("posix", "my runs/1", "'my runs/1'"), ("nt", r"my runs\1", r'"my runs\1"')],
)
def test_a_path_in_a_command_is_a_word_of_the_systems_shell(system, path, word, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "name", system)
        said = quoted(path)
    assert said == word


def test_a_lock_that_a_dead_process_left_is_taken_over(here):
    assert call(*words(here, "--checkpoint-every", 1)).code == 0
    (here / "run/lock").write_text("1\n")
    assert resume(here / "run").code == 0
    assert not (here / "run/lock").exists()


def test_a_lock_is_held_once(tmp_path):
    first = Lock(tmp_path)
    with pytest.raises(fcgpu.CheckpointError, match=f"process {os.getpid()}, writes there"):
        Lock(tmp_path)
    first.release()
    second = Lock(tmp_path)
    first.release()  # a second time: the other's lock stays
    with pytest.raises(fcgpu.CheckpointError, match="writes there"):
        Lock(tmp_path)
    second.release()
    assert list(tmp_path.iterdir()) == []


DIVERGES = ("--optimizer", "momentum", "--output", "identity", "--hidden", "", "--learning-rate", "8", "--epochs", 400,
            "--schedule", "constant", "--warmup", 0, "--no-standardize", "--batch", "full", "--alpha", 0)  # fmt: skip


def test_a_rate_that_diverges_is_halved_from_the_last_checkpoint(here):
    stopped = call(*words(here, *DIVERGES, "--checkpoint-every", 1, name="stopped"))
    refused(stopped, r"in epoch \d+ with learning_rate=8: try .* \(recipe, history and checkpoints kept in .*\)")
    run = here / "run"
    result = call(*words(here, *DIVERGES, "--seed", 7, "--checkpoint-every", "0", "--on-divergence", "halve"))
    assert result.code == 0, result.err
    halvings = [int(n) for n in re.findall(r"going on after epoch 0 at 1/(\d+) of the learning rate", result.err)]
    assert halvings == [2 ** (i + 1) for i in range(len(halvings))] != []
    lines = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == list(range(1, 401))
    assert {line["learning_rate"] for line in lines} == {8 / halvings[-1]}
    slower = (*DIVERGES, "--seed", 7, "--learning-rate", 8 / halvings[-1])
    assert call(*words(here, *slower, name="slower")).code == 0
    one, other = (fcgpu.load_model(here / name / "model.safetensors") for name in ("run", "slower"))
    assert one.params.tobytes() == other.params.tobytes()


def test_a_resumed_run_goes_on_counting_its_halvings(here):
    assert call(*words(here, *DIVERGES, "--checkpoint-every", 1)).code == 2
    path = here / f"run/checkpoints/epoch-{epochs(here / 'run')[-1]}.safetensors"
    there = checkpoint.load(path)
    checkpoint.save(replace(there, state=replace(there.state, halvings=3)), path)
    result = resume(here / "run", "--on-divergence", "halve")
    assert re.findall(r"at 1/(\d+) of the learning rate", result.err)[0] == "16"


def test_a_resumed_run_that_diverges_says_once_what_is_kept(here):
    assert call(*words(here, *DIVERGES, "--checkpoint-every", 1)).code == 2
    again = resume(here / "run")
    assert again.code == 2
    assert re.search(r"with learning_rate=8: try .* \(recipe, history and checkpoints kept in [^()]*\)\n$", again.err)
    assert again.err.count("kept in") == 1


def test_a_rate_by_which_only_the_last_step_diverges_is_halved_too(here):
    """The loss of the only epoch is finite: it is that before its update."""
    result = call(*words(here, *DIVERGES, "--learning-rate", "1e38", "--epochs", 1, "--on-divergence", "halve"))
    assert result.code == 0, result.err
    assert "going on after epoch 0 at 1/2 of the learning rate" in result.err
    assert json.loads((here / "run/result.json").read_text())["train_loss"] > 1e30


def test_a_rate_that_diverges_at_its_1024th_part_is_given_up(here):
    result = call(*words(here, *DIVERGES, "--learning-rate", "1e30", "--on-divergence", "halve"))
    assert result.code == 2
    rates = [f"1/{2**i} of the learning rate" for i in range(1, 11)]
    assert re.findall(r"going on after epoch 0 at (.*)", result.err) == rates


def test_a_checkpoint_that_leads_to_divergence_again_gives_way_to_the_one_before(here):
    """At a learning rate of 4, the parameters of epoch 2 diverge at any lower rate; those of epoch 1 do not."""
    diverges = ("--optimizer", "gradient_descent", "--output", "identity", "--hidden", "", "--learning-rate", 4,
                "--epochs", 4, "--batch", 7, "--no-standardize", "--alpha", 0)  # fmt: skip
    result = call(*words(here, *diverges, "--checkpoint-every", 1, "--on-divergence", "halve"))
    assert result.code == 0, result.err
    at = [int(n) for n in re.findall(r"going on after epoch (\d+) at", result.err)]
    assert any(b < a for a, b in itertools.pairwise(at)), at
    lines = [json.loads(line) for line in (here / "run/history.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    assert epochs(here / "run")[-1] == 4
