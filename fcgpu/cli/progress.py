"""What a person sees of a run: one live line on standard error, and the table at the end on standard output."""

import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from fcgpu.cli.streams import say, show, unheard
from fcgpu.train.events import EpochEnded, Finished, Started
from fcgpu.train.plan import readable
from fcgpu.train.recipe import Recipe

LOOK_SECONDS = 0.1  # between two updates: reading the loss waits for the device
LINES = 10  # about so many lines where standard error is no terminal


class Progress:
    """A context: `add` each epoch; `print` writes a result above the line.

    A stream that fails does not end the run: progress is dropped, and why a result was not printed is `unprinted`.
    """

    unprinted: OSError | UnicodeEncodeError | None = None

    def __init__(self, recipe: Recipe, *, shown: bool) -> None:
        self._console = Console(stderr=True)
        self._shown, self._live = shown, shown and self._console.is_terminal
        self._every, self._looked = max(1, recipe.epochs // LINES), 0.0
        self._bar = Bar(
            TextColumn("epoch {task.completed}/{task.total}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("left"),
            console=self._console,
            transient=True,
            disable=not self._live,
        )
        self._task = self._bar.add_task("train", total=recipe.epochs, numbers="")

    def __enter__(self) -> "Progress":
        with unheard(sys.stderr):
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        with unheard(sys.stderr):
            self._bar.stop()

    def add(self, event: EpochEnded) -> None:
        last, now = event.epoch == event.epochs, time.monotonic()
        if self._live:
            if last or now - self._looked > LOOK_SECONDS:
                self._looked = now
                with unheard(sys.stderr):
                    self._bar.update(self._task, completed=event.epoch, numbers=_numbers(event))
        elif self._shown and (last or event.epoch % self._every == 0):
            left = event.seconds / event.epoch * (event.epochs - event.epoch)
            say(f"epoch {event.epoch}/{event.epochs}  {_numbers(event)}  {left:.0f} s left")

    def print(self, text: str) -> None:
        """A line of results, on standard output."""
        with unheard(sys.stderr):
            self._bar.stop()
        try:
            print(text, flush=True)
        except (OSError, UnicodeEncodeError) as error:
            self.unprinted = error
        with unheard(sys.stderr):
            self._bar.start()


def _numbers(event: EpochEnded) -> str:
    accuracy = "" if event.accuracy is None else f"accuracy {event.accuracy:.2%}  "
    return f"loss {event.loss:.4f}  {accuracy}{event.samples / event.seconds:,.0f} samples/s"


def summary(started: Started, done: Finished, result: dict[str, Any]) -> None:
    """The closing table, on standard output."""
    plan, recipe, spec = started.plan, started.recipe, done.model.spec
    table = Table(show_header=False, title=f"recipe {recipe.name}", title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    cut = f"{plan.batch:,} samples a step in tiles of {plan.tile:,}, {_some(plan.lanes, 'lane')}"
    rows = {
        "data": f"{started.data.name}: {plan.samples:,} samples of {spec.sizes[0]:,} features",
        "network": f"{'-'.join(map(str, spec.sizes))}, {_functions(spec)}, {spec.n_params:,} parameters",
        "device": f"{started.backend.device}, {started.backend.hardware} ({started.backend.reason})",
        "plan": f"{cut}, {_some(plan.threads, 'thread')}",
        "memory planned": f"{readable(plan.bytes)}, {readable(plan.data_bytes)} of it data",
        "training": f"{done.seconds:.2f} s, {_some(done.epochs, 'epoch')}, {_some(done.steps, 'step')}",
        **({"stopped": done.stopped} if done.stopped else {}),
        "throughput": f"{result['samples_per_second']:,.0f} samples/s",
        "train": _score(done.train),
        "test": _score(done.test) if done.test else "no test samples",
        "model": result["model"],
    }
    for name, text in rows.items():
        table.add_row(name, text)
    show(table)


def _functions(spec: Any) -> str:
    return f"{spec.activation}, {spec.output}" if len(spec.sizes) > 2 else str(spec.output)


def _some(n: int, word: str) -> str:
    return f"{n:,} {word}{'s' if n != 1 else ''}"


def _score(score: Any) -> str:
    return f"loss {score.loss:.4f}" + ("" if score.accuracy is None else f", accuracy {score.accuracy:.2%}")
