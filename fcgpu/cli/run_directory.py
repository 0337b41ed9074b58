"""What a training run leaves: recipe.toml, history.jsonl and model.safetensors."""

import json
import math
import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from fcgpu.errors import CheckpointError, ConfigError, DivergenceError
from fcgpu.formats.atomic import append, cannot_write, write_atomically
from fcgpu.formats.safetensors import save
from fcgpu.model import Model
from fcgpu.train.events import EpochEnded
from fcgpu.train.plan import readable
from fcgpu.train.recipe import Recipe, to_toml

FLUSH_SECONDS = 0.25  # epochs are written together this often: on a GPU each loss that is read waits for the device


class RunDirectory:
    """A folder of one run. Opening it makes it and writes the recipe: a folder that cannot be written fails early.

    A context: what `add` keeps back is written at its end, also where that is an error; of a run that diverged the
    error then says where its history is.
    Raises ConfigError for a folder that has something in it; CheckpointError where the system refuses or has not the
    `room`, in bytes, that the model will take, and then leaves no folder.
    """

    def __init__(self, path: str | None, recipe: Recipe, room: int) -> None:
        if path == "":
            raise ConfigError("out='': expected a folder; leave --out away for one below runs/")
        self.path = Path(os.path.expanduser(path)) if path else _new_name(recipe.name)  # noqa: PTH111
        self.model = self.path / "model.safetensors"
        self._history = self.path / "history.jsonl"
        self._pending: list[EpochEnded] = []
        self._due = time.monotonic() + FLUSH_SECONDS
        made: list[Path] = []
        try:
            made += [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
            self.path.mkdir(parents=True, exist_ok=True)
            if any(self.path.iterdir()):
                raise ConfigError(f"{self.path}: the run directory is not empty; give another --out or remove it")
            _check_room(self.path, room)
            write_atomically(self.path / "recipe.toml", to_toml(recipe).encode())
        except OSError as error:
            _remove_empty(made)
            raise cannot_write(self.path, error) from error
        except CheckpointError:
            _remove_empty(made)
            raise

    def __enter__(self) -> "RunDirectory":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self._flush()
        except CheckpointError as refused:
            if error is None:
                raise CheckpointError(f"{refused}; the model is saved as {self.model}") from refused
        if isinstance(error, DivergenceError):
            kept = "recipe and history" if self._history.exists() else "recipe"
            raise DivergenceError(f"{error} ({kept} kept in {self.path})") from error

    def add(self, event: EpochEnded) -> None:
        """Keep an epoch's line for history.jsonl. A line that is refused waits for the end: it never ends a run."""
        self._pending.append(event)
        if time.monotonic() >= self._due:
            try:
                self._flush()
                self._due = time.monotonic() + FLUSH_SECONDS
            except CheckpointError:
                self._due = math.inf

    def save(self, model: Model) -> str:
        """Write the model; returns the SHA-256 of its file.

        Raises CheckpointError where the system refuses. The model is then in a temporary folder, if one takes it, and
        the message says where.
        """
        try:
            return save(model, self.model)
        except CheckpointError as error:
            raise CheckpointError(f"{error}; {_rescue(model)}") from error

    def _flush(self) -> None:
        """Write what is pending, all of it or nothing."""
        if self._pending:
            append(self._history, "".join(json.dumps(_line(event)) + "\n" for event in self._pending).encode())
            self._pending.clear()


def model_file(path: str) -> Path:
    """The model that `path` names: the file itself, or the one in a run directory. Raises ConfigError for no name."""
    if not path:
        raise ConfigError("MODEL='': expected a run directory or its model.safetensors")
    return Path(path) / "model.safetensors" if os.path.isdir(path) else Path(path)  # noqa: PTH112


def _check_room(folder: Path, needed: int) -> None:
    disk = shutil.disk_usage(folder)
    if disk.total and disk.free < needed:  # a total of 0: a file system that does not tell
        raise CheckpointError(
            f"{folder}: {readable(disk.free)} are free there, the model takes {readable(needed)}; "
            "free some space or choose another disk"
        )


def _rescue(model: Model) -> str:
    """Save a trained model where the run directory does not take it, and say where."""
    made: list[Path] = []
    try:
        made.append(Path(tempfile.mkdtemp(prefix="fcgpu-")))
        path = made[0] / "model.safetensors"
        save(model, path)
    except (CheckpointError, OSError):
        _remove_empty(made)
        return "nor does the system's temporary folder take the model, which is lost"
    return f"the model is in {path} instead: move it before the system cleans up there"


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _line(event: EpochEnded) -> dict[str, Any]:
    return {
        "epoch": event.epoch,
        "step": event.step,
        "seconds": round(event.seconds, 6),
        "loss": event.loss if math.isfinite(event.loss) else None,  # JSON has no NaN
        "accuracy": event.accuracy,
        "learning_rate": event.learning_rate,
    }


def _new_name(recipe: str) -> Path:
    """runs/RECIPE-DATE-TIME, with a number behind it where two runs start in one second."""
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in recipe)
    stamp = Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    path, number = stamp, 2
    while path.exists():
        path, number = stamp.with_name(f"{stamp.name}-{number}"), number + 1
    return path
