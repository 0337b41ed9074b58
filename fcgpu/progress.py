"""The progress line of a run, on standard error."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Column

from fcgpu.streams import drop, say, unheard
from fcgpu.train.events import EpochEnded

LOOK_SECONDS = 0.1  # between two updates: reading the loss waits for the device
LINES = 10  # about this many lines are printed if standard error is not a terminal


class Progress:
    """A context manager: call `add` with each EpochEnded; `print` writes a result above the progress line.

    A stream that fails does not end the run: progress is dropped, and the error of a failed `print` is kept in
    `unprinted`.
    """

    unprinted: OSError | UnicodeEncodeError | None = None

    def __init__(self, epochs: int, *, shown: bool) -> None:
        self._console = Console(stderr=True)
        self._shown, self._live = shown, shown and self._console.is_terminal
        self._every, self._looked = max(1, epochs // LINES), 0.0
        count = len(f"epoch {epochs}/{epochs}")
        whole = Column(no_wrap=True, min_width=count)  # else rich cuts 16/500 to 16/5…
        self._taken = count + len("  00:00 left ")  # columns, of which the numbers of an epoch get the others
        self._bar = Bar(
            TextColumn("epoch {task.completed}/{task.total}", table_column=whole),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(compact=True, table_column=Column(no_wrap=True)),
            TextColumn("left"),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task("train", total=epochs, numbers="")

    def __enter__(self) -> "Progress":
        self._draw()
        return self

    def __exit__(self, *error: object) -> None:
        self._erase()

    def add(self, event: EpochEnded) -> None:
        last, now = event.epoch == event.epochs, time.monotonic()
        if self._live:
            if last or now - self._looked > LOOK_SECONDS:
                self._looked = now
                numbers = _numbers(event)
                if len(numbers) > self._console.width - self._taken:
                    numbers = numbers.rpartition("  ")[0]  # without the speed, rather than without the time left
                with unheard(sys.stderr):
                    self._bar.update(self._task, completed=event.epoch, numbers=numbers)
        elif self._shown and (last or event.epoch % self._every == 0):
            left = event.seconds / event.epoch * (event.epochs - event.epoch)
            say(f"epoch {event.epoch}/{event.epochs}  {_numbers(event)}  {left:.0f} s left")

    def print(self, text: str) -> None:
        """A line of results, on standard output."""
        self._erase()
        try:
            print(text, flush=True)
        except OSError as error:
            self.unprinted = error
            drop(sys.stdout)  # else what it holds fails again at exit, and hides the exit code of Ctrl-C
        except UnicodeEncodeError as error:
            self.unprinted = error
        self._draw()

    def _draw(self) -> None:
        with unheard(sys.stderr):
            if self._live:
                self._bar.start()

    def _erase(self) -> None:
        with unheard(sys.stderr):
            if self._live:  # else rich before 14.3 prints an empty line
                self._bar.stop()


def _numbers(event: EpochEnded) -> str:
    accuracy = "" if event.accuracy is None else f"accuracy {event.accuracy:.2%}  "
    return f"loss {digits(event.loss)}  {accuracy}{event.samples / event.seconds:,.0f} samples/s"


def digits(loss: float) -> str:
    """Four decimals, or four digits of a loss that has fewer in them or is large, as of targets of 1e-3 or 1e6."""
    return f"{loss:.4f}" if 1e-3 <= loss < 1e6 else f"{loss:.4g}"
