"""Many trainings in one process: `python tests/soak.py FOLDER N` prints its resources at the start and the end as JSON.

The trainings vary: optimizers, batches and threads; runs that are abandoned, that diverge and that are resumed; the
command line with its checkpoints; the estimators. After a tenth of them, and 36, nothing may grow any more.
"""

import gc
import json
import os
import sys
import threading
from itertools import islice
from pathlib import Path

from command import blobs, call, csv

import fcgpu

FOLDER = Path(sys.argv[1])
X, Y = blobs(4000, n_features=40)
PIXELS = (20 * X + 100).clip(0, 255).astype("uint8")
WIDE = {"hidden": (150,), "epochs": 2}  # with so many pixels there are several lanes, for which threads are started


def threads(number):
    started, *_, done = fcgpu.train(
        (PIXELS, Y), optimizer=("lbfgs", "adam")[number % 2], device="cpu", threads=2, **WIDE
    )
    assert started.plan.at_once == 2
    done.model.predict(X[:100], threads=2)


def batches(number):
    optimizer = ("momentum", "rmsprop", "adamw", "gradient_descent")[number % 4]
    recipe = fcgpu.Recipe(optimizer=optimizer, hidden=(8,), epochs=2, batch=500, dropout=(0.2,), early_stopping=True)
    states = [e.state() for e in fcgpu.train((X, Y), recipe, device="cpu") if isinstance(e, fcgpu.EpochEnded)]
    list(fcgpu.train((X, Y), recipe, device="cpu", start=states[0]))


def left_early(number):
    events = fcgpu.train((PIXELS, Y), device="cpu", threads=2, **(WIDE | {"epochs": 50}))
    list(islice(events, 2 + number % 2))
    if number % 3:
        events.close()  # in the other case the garbage collector does so


def diverging(number):
    try:
        list(fcgpu.train((1e9 * X, Y), optimizer="gradient_descent", learning_rate=1e30, device="cpu", **WIDE))
    except fcgpu.DivergenceError:
        return
    raise AssertionError("it did not diverge")


def command(number):
    run, quiet = FOLDER / f"run-{number}", ("--quiet", "--device", "cpu")
    words = ("train", FOLDER / "d.csv", "--hidden", 5, "--epochs", 3, "--checkpoint-every", 1, "--out", run)
    assert call(*words, *quiet).code == 0
    assert call("train", "--resume", run, *quiet).code == 0
    assert call("predict", run, FOLDER / "d.csv").code == 0
    assert call("train", "--resume", run, "--seed", 5, *quiet).code == 2
    for path in sorted(run.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()


def estimator(number):
    fcgpu.MLPClassifier((8,), max_iter=20, n_iter_no_change=1, tol=1).fit(X[:500], Y[:500]).score(X, Y)


KINDS = (threads, batches, left_early, diverging, command, estimator)


def held():
    """Resident bytes, threads and file handles of this process."""
    gc.collect()
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resident, threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))


def soak(n):
    warm = max(6 * len(KINDS), n // 10)
    for number in range(warm):
        KINDS[number % len(KINDS)](number)
    first, *open_then = held()
    most = first
    for number in range(warm, n):
        KINDS[number % len(KINDS)](number)
        if number % 50 == 0:
            most = max(most, held()[0])
    last, *open_now = held()
    return {
        "trainings": n,
        "resident bytes after a tenth": first,
        "most": max(most, last),
        "at the end": last,
        "threads and handles after a tenth": open_then,
        "threads and handles at the end": open_now,
    }


if __name__ == "__main__":
    csv(FOLDER / "d.csv", Y[:50], X[:50, :4])
    print(json.dumps(soak(int(sys.argv[2]))))
