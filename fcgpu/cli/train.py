"""`fcgpu train`: turns the events of a run into a progress line, a run directory and a closing table."""

import json
import math
import os
import signal
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fcgpu.backend import choose
from fcgpu.cli.checkpoints import Policy
from fcgpu.cli.options import recipe_changes
from fcgpu.cli.report import write as write_report
from fcgpu.cli.run_directory import RunDirectory, create, quoted, reopen
from fcgpu.cli.samples import show_samples
from fcgpu.cli.summary import overfitting, result_of, summary
from fcgpu.cli.tensorboard import TensorBoard
from fcgpu.data import NAMED, load
from fcgpu.data.dataset import Dataset
from fcgpu.data.doubts import doubts
from fcgpu.data.labels import array_of
from fcgpu.errors import CheckpointError, ConfigError, DivergenceError
from fcgpu.host import readable
from fcgpu.optim import FULL_BATCH
from fcgpu.params import initial
from fcgpu.progress import Progress
from fcgpu.report import check_extra
from fcgpu.streams import plain, say
from fcgpu.train import train as events_of
from fcgpu.train.checkpoint import Checkpoint, check_cut, check_data, cut_of, differing, fingerprint
from fcgpu.train.events import EpochEnded, Event, Finished, Started
from fcgpu.train.recipe import KEYS, Recipe
from fcgpu.train.recipe_files import load_recipe, recipe_names
from fcgpu.train.standardized import unused
from fcgpu.train.state import State

HALVINGS = 10  # most halvings of the learning rate before a run that diverges again is given up
GROWTH = 10  # from the first epoch's loss to the last one's; a run that grew so much diverged, though it stayed finite
SMALL = 10  # data of at most this many samples and features are printed


def train(args: Namespace) -> int:
    if args.report:
        check_extra()
    policy = Policy(args.keep, *args.checkpoint_every)
    if args.resume is None:
        data = "mnist" if args.data is None else args.data
        name = args.recipe
        if name is None:
            name = data if data in NAMED else "own"  # the package's data sets have recipes of their names
        base = load_recipe(name)
        changes = recipe_changes(args)
        recipe = base.but(**changes)
        for why in recipe.unused(changes, defaults=True):  # whoever gives a default as an option expects it to be used
            raise ConfigError(why)
        of_the_file = [key for key in KEYS if any(base.unused([key]))]
        for why in recipe.unused(of_the_file):
            say(f"fcgpu: warning: {name}: {why}")
        recipe = recipe.but(data=_source(recipe.data if args.data is None else args.data))
        if not recipe.data and args.data is None:
            raise ConfigError(f"recipe {recipe.name} has no data of its own: fcgpu train DATA --recipe {name}")
        return Job(args, recipe).run(lambda room: create(args.out, recipe, room, policy))
    if args.out is not None:
        raise ConfigError(f"out={args.out!r} with --resume: the run stays in its folder; omit --out")
    with closing(reopen(args.resume, policy)) as directory:  # its own context is that of the training
        checkpoint, recipe, wrong = directory.latest()
        for line in wrong:
            say(f"fcgpu: warning: {line}; going on from the checkpoint before it")
        _check_same_recipe(args, recipe)
        if checkpoint is None:
            _check_same_source(args, recipe)
            directory.check_begins_anew()
        done = 0 if checkpoint is None else checkpoint.state.epochs
        return Job(args, recipe, checkpoint).run(lambda room: directory.go_on(done))


class Job:
    """One run of the command: loads the data, starts the training, and consumes its events."""

    def __init__(self, args: Namespace, recipe: Recipe, checkpoint: Checkpoint | None = None) -> None:
        self.args, self.recipe = args, recipe
        if args.on_divergence == "halve" and recipe.optimizer in FULL_BATCH:
            raise ConfigError(
                f"--on-divergence halve: optimizer={recipe.optimizer!r} finds its step sizes by itself, "
                "whatever the learning rate: omit it, or choose another optimizer"
            )
        self.board = TensorBoard(recipe) if args.tensorboard else None
        self.device = args.device if args.device == "auto" else choose(args.device)  # train decides "auto"
        source = recipe.data if args.data is None else _source(args.data)
        self.data = load(
            source, image_size=recipe.image_size or None, memory_budget=args.memory, target_column=recipe.target_column
        )
        for why in unused(recipe_changes(args), recipe, self.data):
            raise ConfigError(why)
        for why in unused(["scale"], recipe, self.data):
            say(f"fcgpu: warning: {why}")
        if checkpoint is not None:
            check_data(args.resume, checkpoint, self.data)
        self.events = self._events(None if checkpoint is None else checkpoint.state)
        self.halvings = 0 if checkpoint is None else checkpoint.state.halvings
        started = next(self.events)
        assert isinstance(started, Started)
        self.started, self.cut = started, cut_of(started.plan, started.backend.on_gpu)
        self.device = started.backend
        data = started.data
        notes = doubts(data, recipe.scale or data.scale, recipe.output, standardized=recipe.standardize)
        for note in (started.plan.note, *notes):
            if note:
                say(f"fcgpu: warning: {note}")
        if checkpoint is not None:
            check_cut(args.resume, checkpoint, self.cut)
            say(f"fcgpu: going on after epoch {checkpoint.state.epochs} of {recipe.epochs}")
        elif args.resume is not None:
            say(f"fcgpu: no checkpoint in {args.resume}: beginning again with epoch 1 of {recipe.epochs}")

    def run(self, directory: Callable[[int], RunDirectory]) -> int:
        """Train, and write everything into the directory made for a model of so many bytes; return the exit code."""
        args, recipe, data = self.args, self.recipe, self.started.data
        speak = not (args.quiet or args.json)
        progress = Progress(recipe.epochs, shown=not args.quiet)
        room = self.started.spec.n_params * np.dtype(recipe.dtype).itemsize
        with self.board or nullcontext(), _stop_after_epoch() as stop, directory(room) as run, progress:
            if self.board:
                self.board.follow(run.history)
            if speak and data.n_samples <= SMALL and data.n_features <= SMALL:
                progress.print(_small(data))
            first = math.nan
            for event in self._halving(run) if args.on_divergence == "halve" else self.events:
                if isinstance(event, EpochEnded):
                    first = event.loss if math.isnan(first) else first
                    if event.note:
                        say(f"fcgpu: warning: {event.note}")
                    run.history.add(event)
                    progress.add(event)
                    if speak and recipe.cost_every and (event.epoch - 1) % recipe.cost_every == 0:
                        progress.print(f"cost at epoch {event.epoch - 1}: {event.cost:.10g}")
                    if stop and event.epoch < event.epochs:
                        return self._stopped(run, event, stop[0])
                    if run.due(event.epoch):
                        self._checkpoint(run, event)
            assert isinstance(event, Finished)
            last = event.train.loss  # raises DivergenceError if the last step diverged
            if last > GROWTH * first:
                clip = "or --gradient-clip 1" if recipe.standardize else "--gradient-clip 1, or data of a smaller scale"
                say(
                    f"fcgpu: warning: the loss has grown from {first:.4g} to {last:.4g}: try a tenth of the "
                    f"learning rate, {clip}"
                )
            if note := overfitting(recipe, event):
                say(f"fcgpu: warning: {note}")
            result = result_of(self.started, event, run, run.save(event.model))
            try:
                run.save_result(result)
            except CheckpointError as error:
                say(f"fcgpu: warning: the model is saved, its result.json is not: {error}")
        if progress.unprinted:
            raise progress.unprinted
        if speak:
            summary(self.started, event, result)
            show_samples(event.model, data, recipe)
        try:
            if args.report:
                path, n_bytes = write_report([str(run.path)])
                result["report"] = str(path)
                if speak:
                    print(f"\n{path}: {readable(n_bytes)}; open it in a browser")
        finally:
            if args.json:
                print(json.dumps(result))
        return 0

    def _events(self, state: State | None) -> Iterator[Event]:
        limits = {"threads": self.args.threads, "memory_budget": self.args.memory}
        return events_of(self.data, self.recipe, device=self.device, start=state, **limits)

    def _halving(self, run: RunDirectory) -> Iterator[Event]:
        """The events; after a divergence the run continues from the last good checkpoint at half the learning rate."""
        events, halvings = self.events, self.halvings
        while True:
            try:
                for event in events:
                    if isinstance(event, Finished):
                        _ = event.train
                    yield event
                return
            except DivergenceError as error:
                if halvings == HALVINGS:
                    raise
                halvings += 1
                there = run.halve(halvings)
                state = there.state if there else State(initial(self.started.spec, self.recipe.seed), halvings=halvings)
                say(f"fcgpu: {error}; going on after epoch {state.epochs} at 1/{2**halvings} of the learning rate")
                events = self._events(state)

    def _checkpoint(self, run: RunDirectory, event: EpochEnded) -> None:
        """Write a checkpoint; if that fails, print a warning and continue the run."""
        try:
            run.checkpoint(self._state_of(event))
        except CheckpointError as error:
            say(f"fcgpu: warning: no checkpoint of epoch {event.epoch}: {error}")

    def _stopped(self, run: RunDirectory, event: EpochEnded, signal_number: int) -> int:
        run.save(event.model())
        say(f"fcgpu: stopped after epoch {event.epoch} of {event.epochs}; the model as it was then is {run.model}")
        run.checkpoint(self._state_of(event))
        say(f"fcgpu: fcgpu train --resume {quoted(run.path)} goes on")
        return 128 + signal_number

    def _state_of(self, event: EpochEnded) -> Checkpoint:
        score = event.loss if event.monitored is None else event.monitored
        return Checkpoint(event.state(), self.recipe, self._fingerprint, self.cut, score)

    @cached_property
    def _fingerprint(self) -> dict[str, str]:
        return fingerprint(self.data)


def _check_same_recipe(args: Namespace, recipe: Recipe) -> None:
    """Raise ConfigError if the options contradict the run's recipe."""
    given = recipe_changes(args)
    if args.recipe is not None:
        given = vars(load_recipe(args.recipe).but(**given)) | {"data": recipe.data}
    if words := differing(recipe, given):
        raise ConfigError(f"{args.resume}: not the recipe of the run: {words}; omit these, or start a new run")


def _check_same_source(args: Namespace, recipe: Recipe) -> None:
    """Raise CheckpointError if DATA is not the run's. Without a checkpoint only the names can be compared."""
    if args.data is not None and (given := _source(args.data)) != recipe.data:
        raise CheckpointError(
            f"{args.resume}: other data than the run's: {given}, was {recipe.data}; omit {args.data}, or start a new "
            "run"
        )


def _source(text: str) -> str:
    """A data set's name, or an absolute path, so that the recipe in the run directory is valid in any folder."""
    path = os.path.expanduser(text)  # noqa: PTH111 - Path's own raises for a user that does not exist
    if text in NAMED or not text:
        return text
    if os.path.exists(path):  # noqa: PTH110
        return str(Path(path).absolute())
    if text in recipe_names():
        raise ConfigError(f"{text!r} is a recipe, not data: fcgpu train --recipe {text}")
    return text


@contextmanager
def _stop_after_epoch() -> Iterator[list[int]]:
    """Inside, Ctrl-C, SIGTERM and Windows' Ctrl-Break do not interrupt the epoch; a second signal stops at once.

    Yields a list to which the number of the first signal is added.
    """
    stopping: list[int] = []

    def handler(number: int, frame: Any) -> None:
        if stopping:
            raise KeyboardInterrupt
        stopping.append(number)
        say("\nfcgpu: stopping after this epoch; Ctrl-C again to stop at once")

    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)]
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield stopping
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _small(data: Dataset) -> str:
    """The data as text, with a sample per column, as the article prints them."""
    labels = " ".join(plain(v) for v in (data.y if data.classes is None else array_of(data.classes)[data.y]))
    return f"X, a column a sample:\n{np.array2string(data.X.T)}\nlabels: {labels}\n"
