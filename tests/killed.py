"""Kill trainings, or let their system calls fail, and resume them: `python tests/killed.py FOLDER SEED A B N`.

Every point has a fresh run directory. The points are before and after every system call of a save and in the middle of
every write; the process is killed at one of every A points, drawn from SEED. Then one of every B calls fails with each
of three errors, or writes only a part. Then runs are killed at N random times. A = B = 1 tries all points. The files
left must be complete, and a resumed run must end with the bits of an undisturbed run. Prints the counts as JSON.
"""

# ruff: noqa: E402
import errno
import io
import json
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"  # a process with threads must not be forked

from command import blobs, csv
from faults import ERRORS, REAL, faults, in_child, points

import fcgpu
import fcgpu.cli
from fcgpu.cli import history, main
from fcgpu.formats import atomic
from fcgpu.train import checkpoint

EPOCHS = 4
atomic.CHUNK = 512  # so that a small file takes several writes
history.FLUSH_SECONDS = 0
fcgpu.cli.parser = cache(fcgpu.cli.parser)  # it takes a third of the time of such a small run
os.fsync = REAL["fsync"]


def train(folder, *words):
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(["train", *map(str, words), "--device", "cpu", "--threads", "1", "--quiet", "--json"])
    (folder / "said").write_text(err.getvalue())
    return code


def loss_lines(run):
    lines = (run / "history.jsonl").read_bytes()
    found = [json.loads(line) for line in lines.splitlines()]
    for line in found:
        del line["seconds"]
    return found


def check_whole(run):
    """Every file under its final name is complete; the history reaches the newest checkpoint."""
    newest = 0
    for path in sorted((run / "checkpoints").glob("epoch-*.safetensors")):
        newest = max(newest, checkpoint.load(path).state.epochs)
    if (run / "model.safetensors").exists():
        fcgpu.load_model(run / "model.safetensors")
    if newest:
        whole = (run / "history.jsonl").read_bytes().count(b"\n")
        assert whole >= newest, (whole, newest)


def recover(root, run, started):
    """Resume, or start again if even the recipe was not written; returns the model and history."""
    if (run / "recipe.toml").exists():
        code = train(root, "--resume", run, *EVERY)
    else:
        assert not (run / "checkpoints").exists()
        code = train(root, *started)
    assert code == 0, (root / "said").read_text()
    left = sorted(str(path.relative_to(run)) for path in run.rglob("*") if not path.name.startswith("epoch-"))
    assert left == ["checkpoints", "history.jsonl", "model.safetensors", "recipe.toml", "result.json"], left
    return (run / "model.safetensors").read_bytes(), loss_lines(run)


def root_words(root):
    recipe = ("--hidden", "3", "--epochs", EPOCHS, "--batch", "7", "--dropout", "0.2", "--schedule", "cosine")
    return (root / "d.csv", *recipe, "--out", root / "run")


def diverging_words(root):
    recipe = ("--hidden", "", "--output", "identity", "--optimizer", "gradient_descent", "--learning-rate", "4")
    recipe += ("--no-standardize", "--alpha", "0")
    return (root / "d.csv", *recipe, "--epochs", EPOCHS, "--batch", "7", "--out", root / "run")


EVERY = ("--checkpoint-every", "1", "--keep", "1", "--on-divergence", "halve")


class Case(NamedTuple):
    """A kind of save: `before` makes the run directory that exists beforehand, `words` are the command's arguments,
    `started` the arguments that start such a run, `expected` the model and history at its end.
    """

    before: Callable[[], Any]
    words: tuple[Any, ...]
    started: tuple[Any, ...]
    expected: Any


def cases(root):
    """The kinds of saves by name."""
    new, resume = (*root_words(root), *EVERY), ("--resume", root / "run", *EVERY)
    diverging = (*diverging_words(root), *EVERY)
    calls, expected = undisturbed(root, new)
    _, halved = undisturbed(root, diverging)
    assert "going on after" in (root / "said").read_text()
    middle = [i for i, name in enumerate(calls) if name == "replace"][2]
    torn = next(i for i, name in enumerate(calls) if i > middle and name == "write")

    def killed(at, how):
        def act():
            with faults(at, how):
                return train(root, *new)

        return lambda: in_child(act)

    return {
        "a new run": Case(lambda: None, new, new, expected),
        "a resumed run": Case(killed(middle, "after"), resume, new, expected),
        "a resumed run with a torn history": Case(killed(torn, "torn"), resume, new, expected),
        "a finished run that is resumed": Case(lambda: train(root, *new), resume, new, expected),
        "a run that diverges": Case(lambda: None, diverging, diverging, halved),
    }


def undisturbed(root, words):
    """The system calls of a run, and its model and history."""
    shutil.rmtree(root / "run", ignore_errors=True)
    with faults() as calls:
        assert train(root, *words) == 0, (root / "said").read_text()
    return list(calls), ((root / "run/model.safetensors").read_bytes(), loss_lines(root / "run"))


def disturbed(root, case, at, how):
    """The exit code of the command with a fault, in its own process."""
    shutil.rmtree(root / "run", ignore_errors=True)
    case.before()

    def act():
        with faults(at, how):
            return train(root, *case.words)

    return in_child(act)


def calls_of(root, case):
    shutil.rmtree(root / "run", ignore_errors=True)
    case.before()
    with faults() as calls:
        assert train(root, *case.words) == 0, (root / "said").read_text()
    return list(calls)


def killed_everywhere(root, seed, share):
    counts, draw = Counter(), random.Random(seed)
    for name, case in cases(root).items():
        for at, how in points(calls_of(root, case)):
            if draw.random() * share >= 1:
                continue
            assert disturbed(root, case, at, how) == -signal.SIGKILL, (name, at, how)
            check_whole(root / "run")
            assert recover(root, root / "run", case.started) == case.expected, (name, at, how)
            counts[f"killed in {name}"] += 1
    return {"kills": counts.total()} | counts


def refused(root, seed, share):
    """Let each call fail, or write only a part: the run goes on or ends with one line; no file is partial or lost."""
    counts, draw = Counter(), random.Random(seed)
    for name, case in cases(root).items():
        for at, call in enumerate(calls_of(root, case)):
            if draw.random() * share >= 1:
                continue
            for how in (*ERRORS, "short") if call == "write" else ERRORS:
                code, said = disturbed(root, case, at, how), (root / "said").read_text()
                assert code in (0, 2), (name, at, call, how, said)
                assert code == 0 or said.splitlines()[-1].startswith("fcgpu: error: "), said
                assert how != "short" or code == 0, (name, at, said)
                assert not list(root.rglob("*.tmp")), (name, at, call, how)
                check_whole(root / "run")
                left = recover(root, root / "run", case.started)
                elsewhere = "no checkpoint of" in said and "going on after" in said  # halved from another checkpoint
                assert left == case.expected or elsewhere, (name, at, call, how)
                counts["cut short" if how == "short" else errno.errorcode[how]] += 1
                counts["told as an error" if code else "outlived"] += 1
    return counts


def at_random(root, seed, times, expected):
    """Kill a run, and each time it is resumed, at random times until it finishes; repeat up to `times` kills."""
    draw, kills, runs = random.Random(seed), 0, 0
    began = time.perf_counter()
    shutil.rmtree(root / "run", ignore_errors=True)
    train(root, *root_words(root), *EVERY)
    whole = time.perf_counter() - began
    while kills < times:
        runs += 1
        shutil.rmtree(root / "run", ignore_errors=True)
        words = (*root_words(root), *EVERY)
        while True:
            child = os.fork()
            if child == 0:
                code = 70
                try:
                    code = train(root, *words)
                finally:
                    os._exit(code)
            time.sleep(draw.random() * whole * 1.2)
            os.kill(child, signal.SIGKILL)
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            if (root / "run").exists():
                check_whole(root / "run")
            if code != -signal.SIGKILL:
                assert code == 0, (root / "said").read_text()
                break
            kills += 1
            if (root / "run/recipe.toml").exists():
                words = ("--resume", root / "run", *EVERY)
        assert ((root / "run/model.safetensors").read_bytes(), loss_lines(root / "run")) == expected
    return {"random kills": kills, "random runs": runs}


if __name__ == "__main__":
    root, (seed, kills, refusals, times) = Path(sys.argv[1]), map(int, sys.argv[2:6])
    X, y = blobs(30)
    csv(root / "d.csv", y, X)
    counts = killed_everywhere(root, seed, kills) | refused(root, seed, refusals)
    print(json.dumps(counts | at_random(root, seed, times, cases(root)["a new run"].expected)))
