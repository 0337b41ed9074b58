"""The checkpoints of a run directory: when one is due, which are kept, and which to resume from."""

import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from fcgpu.errors import CheckpointError
from fcgpu.formats.atomic import cannot_write
from fcgpu.train.checkpoint import Checkpoint, load, save

FOLDER = "checkpoints"


class Policy(NamedTuple):
    """How many checkpoints are kept beside the best one; and the interval between two, in epochs or in seconds: the
    other is 0, both are 0 for never.
    """

    keep: int
    epochs: int = 0
    seconds: float = 0.0


class Checkpoints:
    """The files `checkpoints/epoch-N.safetensors`: the last `policy.keep`, and the one with the least score."""

    def __init__(self, run: Path, policy: Policy) -> None:
        self.folder, self._policy = run / FOLDER, policy
        self._scores: dict[int, float] = {}  # scores of the existing files, by epoch
        self._due = time.monotonic() + policy.seconds

    def due(self, epoch: int) -> bool:
        """Whether a checkpoint is to be saved after this epoch."""
        if self._policy.seconds:
            return time.monotonic() >= self._due
        return bool(self._policy.epochs) and epoch % self._policy.epochs == 0

    def save(self, checkpoint: Checkpoint) -> None:
        """Write a checkpoint, then remove those that are no longer kept. If writing fails, it raises CheckpointError
        and the others are unchanged.
        """
        epoch = checkpoint.state.epochs
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise cannot_write(self.folder, error) from error
        save(checkpoint, self._path(epoch))
        self._due = time.monotonic() + self._policy.seconds
        self._scores[epoch] = checkpoint.score
        best = min(self._scores, key=lambda epoch: (self._scores[epoch], -epoch))
        for old in sorted(self._scores)[: -self._policy.keep]:
            if old != best:
                with suppress(OSError):  # an extra file does no harm
                    self._path(old).unlink()
                del self._scores[old]

    def remove(self, epoch: int) -> None:
        """Remove the checkpoint of an epoch. Raises CheckpointError if that fails."""
        try:
            self._path(epoch).unlink()
        except OSError as error:
            raise cannot_write(self._path(epoch), error) from error
        del self._scores[epoch]

    def latest(self) -> tuple[Checkpoint | None, list[str]]:
        """(newest checkpoint that loads or None, errors of the others).

        Raises CheckpointError if there are checkpoints and none loads.
        """
        found: Checkpoint | None = None
        wrong: list[CheckpointError] = []
        for epoch in sorted(self._epochs(), reverse=True):
            try:
                checkpoint = load(self._path(epoch))
                if checkpoint.state.epochs != epoch:
                    raise CheckpointError(f"{self._path(epoch)}: is of epoch {checkpoint.state.epochs}; rename it")
            except CheckpointError as error:
                wrong.append(error)
                continue
            self._scores[epoch] = checkpoint.score
            found = found or checkpoint
        if wrong and found is None:
            raise wrong[0]
        return found, [str(error) for error in wrong]

    def _epochs(self) -> list[int]:
        numbers = [path.stem.removeprefix("epoch-") for path in self.folder.glob("epoch-*.safetensors")]
        return [int(number) for number in numbers if number.isascii() and number.isdigit()]

    def _path(self, epoch: int) -> Path:
        return self.folder / f"epoch-{epoch}.safetensors"
