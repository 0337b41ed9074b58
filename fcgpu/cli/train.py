"""`fcgpu train`: the events of a run as a progress line, a run directory and a closing table."""

import json
import os
import signal
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from fcgpu.backend import choose
from fcgpu.cli.options import count, recipe_changes, size
from fcgpu.cli.run_directory import RunDirectory
from fcgpu.cli.summary import summary
from fcgpu.data import NAMED, load
from fcgpu.data.dataset import Dataset, targets
from fcgpu.errors import ConfigError
from fcgpu.progress import Progress
from fcgpu.streams import say
from fcgpu.train import train as events_of
from fcgpu.train.events import EpochEnded, Finished, Started
from fcgpu.train.recipe import Recipe, load_recipe
from fcgpu.version import __version__

FOR_OWN_DATA = Recipe(learning_rate=0.01, schedule="cosine")  # where no recipe is named
SMALL = 10  # samples and features up to which the data themselves are shown


def train(args: Namespace) -> int:
    own_data = args.recipe is None and args.data not in (None, "mnist")
    recipe = (FOR_OWN_DATA if own_data else load_recipe(args.recipe or "mnist")).but(**recipe_changes(args))
    recipe = recipe.but(data=_source(recipe.data if args.data is None else args.data))
    if not recipe.data and args.data is None:
        raise ConfigError(f"recipe {recipe.name} has no data of its own: fcgpu train DATA --recipe {args.recipe}")
    threads, budget = count("threads", args.threads), size("memory", args.memory)
    backend = choose(args.device)
    data = load(recipe.data, image_size=recipe.image_size or None)
    events = events_of(data, recipe, device=backend, threads=threads, memory_budget=budget)
    speak = not (args.quiet or args.json)
    started = next(events)
    assert isinstance(started, Started)
    room = started.spec.n_params * np.dtype(recipe.dtype).itemsize
    progress = Progress(recipe.epochs, shown=not args.quiet)
    with RunDirectory(args.out, recipe, room) as run, _stop_after_epoch() as stop, progress:
        if speak and data.n_samples <= SMALL and data.n_features <= SMALL:
            progress.print(_small(data))
        for event in events:
            if isinstance(event, EpochEnded):
                run.add(event)
                progress.add(event)
                if speak and recipe.cost_every and (event.epoch - 1) % recipe.cost_every == 0:
                    progress.print(f"cost at epoch {event.epoch - 1}: {event.cost:.10g}")
                if stop and event.epoch < event.epochs:
                    return _stopped(run, event)
        assert isinstance(event, Finished)
        _ = event.train  # which finds a model that diverged in its very last step
        digest = run.save(event.model)
    if progress.unprinted:
        raise progress.unprinted
    result = _result(started, event, run, digest)
    if speak:
        summary(started, event, result)
        print(_check(event, data, recipe))
    if args.json:
        print(json.dumps(result))
    return 0


def _source(text: str) -> str:
    """A data set's name, or a path in full, so that the recipe in the run directory finds it from any folder."""
    path = os.path.expanduser(text)  # noqa: PTH111 - Path's own raises for a user that does not exist
    return str(Path(path).absolute()) if text and text not in NAMED and os.path.exists(path) else text  # noqa: PTH110


def _result(started: Started, done: Finished, run: RunDirectory, digest: str) -> dict[str, Any]:
    backend, plan, recipe = started.backend, started.plan, started.recipe
    return {
        "fcgpu_version": __version__,
        "recipe": recipe.name,
        "data": recipe.data,
        "sizes": list(done.model.spec.sizes),
        "parameters": done.model.spec.n_params,
        "device": backend.device,
        "backend": backend.name,
        "hardware": backend.hardware,
        "why": backend.reason,
        "dtype": recipe.dtype,
        "seed": recipe.seed,
        "batch": plan.batch,
        "tile": plan.tile,
        "lanes": plan.lanes,
        "threads": plan.threads,
        "memory_planned": plan.bytes,
        "epochs": done.epochs,
        "stopped": done.stopped,
        "steps": done.steps,
        "seconds": done.seconds,
        "samples_per_second": done.samples / done.seconds,
        "train_loss": done.train.loss,
        "train_accuracy": done.train.accuracy,
        "test_loss": done.test and done.test.loss,
        "test_accuracy": done.test and done.test.accuracy,
        "run_directory": str(run.path),
        "model": str(run.model),
        "model_sha256": digest,
    }


def _stopped(run: RunDirectory, event: EpochEnded) -> int:
    run.save(event.model())
    say(f"fcgpu: stopped after epoch {event.epoch} of {event.epochs}; the model as it was then is {run.model}")
    return 130


@contextmanager
def _stop_after_epoch() -> Iterator[list[int]]:
    """Ctrl-C lets the epoch end, so that what is saved is whole; a second Ctrl-C stops at once."""
    stopping: list[int] = []

    def handler(number: int, frame: Any) -> None:
        if stopping:
            raise KeyboardInterrupt
        stopping.append(number)
        say("\nfcgpu: stopping after this epoch; Ctrl-C again to stop at once")

    before = signal.signal(signal.SIGINT, handler)
    try:
        yield stopping
    finally:
        signal.signal(signal.SIGINT, before)


def _small(data: Dataset) -> str:
    """The data themselves, in the article's layout."""
    labels = " ".join(str(v) for v in _labels(data, data.y))
    return f"X, a column a sample:\n{np.array2string(np.asarray(data.X).T)}\nlabels: {labels}\n"


def _check(done: Finished, data: Dataset, recipe: Recipe) -> str:
    """The article's last step: ten samples, what they are and what the network says."""
    test = recipe.check == "test" and data.X_test is not None
    X, y = (data.X_test, data.y_test) if test else (data.X, data.y)
    actual, predicted = _labels(data, y[:10]), done.model.predict(X[:10])
    if done.model.classes is None:
        actual = targets(data, y[:10])
        actual, predicted = ([f"{v:.4g}" for v in np.ravel(values)] for values in (actual, predicted))
    words = [(str(a), str(p)) for a, p in zip(actual, predicted, strict=False)]
    width = max(len(word) for pair in words for word in pair)
    rows = (" ".join(pair[i].rjust(width) for pair in words) for i in (0, 1))
    lines = [f"{title:<11}{row}" for title, row in zip(("actual", "predicted"), rows, strict=True)]
    return f"\nthe first {len(words)} {'test' if test else 'training'} samples\n" + "\n".join(lines)


def _labels(data: Dataset, y: Any) -> Any:
    return y if data.classes is None else np.asarray(data.classes)[y]
