"""Time to an accuracy: every library trains 784-128-64-10 with its own best recipe to a test accuracy of 98 %.

A recipe is a file in recipes/ with TITLE, PACKAGES, CLOCKS, RECIPE (in words) and `train(data, seed)`, a generator
that yields a function `predict(X) -> labels` after each epoch. Only the generator's own time counts: preparation,
compilation and training; reading the data and the test do not. A round is one seed; all recipes run in turn.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

import fcgpu
from bench.rows import Writer
from bench.run import Opened, Say, entries, label, leave_out
from bench.session import PeerError

TITLE = "time to 97 % and 98 % of the 10,000 test digits"
TARGETS = (0.97, 0.98)
LIMIT = 120.0  # seconds of training
SEEDS = 3

Curve = list[tuple[float, float]]


def run(train: Callable[[Any, int], Iterator[Callable[[Any], Any]]], target: float, limit: float, seed: int) -> Curve:
    """(seconds of training, test accuracy) after each epoch, up to an accuracy of `target` or `limit` seconds."""
    data = fcgpu.load("mnist")
    curve: Curve = []
    spent = 0.0
    epochs = train(data, seed)
    while not curve or (curve[-1][1] < target and spent < limit):
        began = time.perf_counter()
        predict = next(epochs, None)
        spent += time.perf_counter() - began
        if predict is None:
            break
        curve.append((spent, float(np.mean(np.asarray(predict(data.X_test)) == data.y_test))))
    with suppress(AttributeError):
        epochs.close()
    return curve


def reached(curve: Curve, accuracy: float) -> float | None:
    """Seconds to the end of the first epoch with at least `accuracy`; None if no epoch reached it."""
    return next((seconds for seconds, found in curve if found >= accuracy), None)


def measure(modules: Sequence[str], rounds: int | None, open_peer: Opened, out: Writer, say: Say) -> None:
    say(f"race: {TITLE}")
    abouts, curves = {}, {}
    for module, device, about in entries(modules, "train", open_peer):
        name = label(module, device)
        if isinstance(about, str):
            leave_out("race", TITLE, name, "skipped", about, out, say)
        else:
            abouts[name], curves[name] = (module, device, about), []
    for seed in range(rounds or SEEDS):
        for name, (module, device, _) in abouts.items():
            try:
                with open_peer(module, device) as peer:
                    curves[name].append(peer.ask("race", TARGETS[-1], LIMIT, seed))
            except PeerError as error:
                say(f"  {name:24} seed {seed}: {error}")
    for name, found in curves.items():
        module, device, about = abouts[name]
        times = {str(target): [reached(curve, target) for curve in found] for target in TARGETS}
        said = ", ".join(f"{float(t):.0%} in {', '.join(_seconds(s) for s in list_)}" for t, list_ in times.items())
        say(f"  {name:24} {said}")
        out.add(
            case="race",
            title=TITLE,
            peer=name,
            peer_title=about["title"],
            device=device,
            recipe=about["recipe"],
            curves=found,
            seconds_to=times,
            versions=about["versions"],
        )


def _seconds(seconds: float | None) -> str:
    return "never" if seconds is None else f"{seconds:.2f} s"
