"""history.jsonl: one line per epoch; each line is written once, completely or not at all."""

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from fcgpu.errors import CheckpointError, DivergenceError
from fcgpu.formats.atomic import append, cannot_write, regular
from fcgpu.model import Score
from fcgpu.train.events import EpochEnded

FLUSH_SECONDS = 0.25  # between writes of all pending epochs: on a GPU reading a loss waits for the device
LOOKS = 25  # scores of the test samples, spread over the epochs; of 100 epochs on MNIST they take some 2 % of the time
LINE = 4096  # bytes, more than any line of a history has


class History:
    """Writes the lines of the epochs after `self.last`; those up to it are written or pending already."""

    def __init__(self, path: Path) -> None:
        self.path, self.last = path, 0
        self._pending: list[tuple[EpochEnded, Score | None]] = []
        self._due = time.monotonic() + FLUSH_SECONDS
        self.follow: Callable[[list[dict[str, Any]]], None] | None = None  # called with the lines that were written

    def add(self, event: EpochEnded) -> None:
        """Add an epoch's line. If it cannot be written, it stays pending until `flush`; it does not end the run."""
        if event.epoch <= self.last:  # the run was resumed from an epoch before the history's end
            return
        self._pending.append((event, _test(event)))
        self.last = event.epoch
        if time.monotonic() >= self._due:
            try:
                self.flush()
                self._due = time.monotonic() + FLUSH_SECONDS
            except CheckpointError:
                self._due = math.inf

    def flush(self, *, durable: bool = False) -> None:
        """Write all pending lines, or none of them if that fails: then it raises CheckpointError.

        durable : return only when the disk has the file.
        """
        if self._pending or durable:
            lines = [_line(*pending) for pending in self._pending]
            append(self.path, "".join(json.dumps(line) + "\n" for line in lines).encode(), durable=durable)
            self._pending.clear()
            if self.follow:
                self.follow(lines)

    def resume(self, epochs: int) -> None:
        """Continue after the file's last complete line; a partial line that a killed process left is cut off.

        Raises CheckpointError as `check` does, and if the file cannot be written.
        """
        self.last, size = self.check(epochs)
        self._cut(size)

    def check(self, epochs: int) -> tuple[int, int]:
        """(epoch of the file's last complete line, offset of its end in bytes). Changes nothing.

        Raises CheckpointError if the file is not a history, or ends before epoch `epochs`.
        """
        last = size = 0
        if os.path.lexists(self.path):
            for number, (epoch, end) in enumerate(_lines(self.path), 1):
                if epoch != number:
                    raise CheckpointError(f"{self.path}, line {number}: epoch {epoch}, expected {number}: put it back")
                last, size = epoch, end
        if last < epochs:
            raise CheckpointError(
                f"{self.path}: ends at epoch {last}, and the checkpoint is of epoch {epochs}; put the history back"
            )
        return last, size

    def cut(self, epochs: int) -> None:
        """Remove the lines after epoch `epochs`, because these epochs will be run again. Raises CheckpointError."""
        self._pending.clear()
        if self.path.exists():
            self._cut(max((end for epoch, end in _lines(self.path) if epoch <= epochs), default=0))
        self.last = epochs

    def _cut(self, size: int) -> None:
        try:
            if os.path.lexists(self.path) and os.path.getsize(self.path) > size:  # noqa: PTH202
                os.truncate(self.path, size)
        except OSError as error:
            raise cannot_write(self.path, error) from error


def _lines(path: Path) -> Iterator[tuple[int, int]]:
    """(epoch, offset of its end) of each complete line. Raises CheckpointError for a line that is not a history's."""
    try:
        with open(path, "rb", opener=regular) as file:
            yield from _parsed(path, file)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error}); expected a history") from error


def _parsed(path: Path, file: BinaryIO) -> Iterator[tuple[int, int]]:
    end = number = 0
    while line := file.readline(LINE):
        number += 1
        if not line.endswith(b"\n") and len(line) < LINE:  # the last line, which a killed process did not finish
            return
        try:
            epoch = json.loads(line)["epoch"]
        except (ValueError, KeyError, TypeError, RecursionError):
            epoch = None
        if type(epoch) is not int:
            raise CheckpointError(f"{path}, line {number}: expected an epoch as JSON; put the run's own history back")
        end += len(line)
        yield epoch, end


def _test(event: EpochEnded) -> Score | None:
    """The test score, only after the first epoch, the last, and some between: the same for every run of a recipe."""
    if event.epoch not in (1, event.epochs) and event.epoch % -(-event.epochs // LOOKS):
        return None
    try:
        return event.test()
    except DivergenceError:  # the loss will diverge, too; its error says what to try
        return None


def _line(event: EpochEnded, test: Score | None) -> dict[str, Any]:
    line = {
        "epoch": event.epoch,
        "step": event.step,
        "seconds": round(event.seconds, 6),
        "loss": finite(event.loss),
        "penalty": finite(event.penalty),
        "accuracy": event.accuracy,
        "monitored": finite(event.monitored),
        "learning_rate": event.learning_rate,
    }
    return line if test is None else {**line, "test_loss": finite(test.loss), "test_accuracy": test.accuracy}


def finite(value: float | None) -> float | None:
    """The value; None for NaN and infinity, which JSON does not have."""
    return value if value is not None and math.isfinite(value) else None
