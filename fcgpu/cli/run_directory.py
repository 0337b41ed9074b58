"""What a training run leaves: recipe.toml, history.jsonl and model.safetensors."""

import json
import os
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from fcgpu.errors import CheckpointError, ConfigError
from fcgpu.formats.atomic import append, cannot_write, write_atomically
from fcgpu.formats.safetensors import save
from fcgpu.model import Model
from fcgpu.train.events import EpochEnded
from fcgpu.train.recipe import Recipe, to_toml

FLUSH_SECONDS = 0.25  # epochs are written together this often: on a GPU each loss that is read waits for the device


class RunDirectory:
    """A folder of one run. Opening it makes it and writes the recipe: a folder that cannot be written fails early.

    A context: what `add` keeps back is written at its end, also where that is an error.
    Raises ConfigError for a folder that has something in it; CheckpointError where the system refuses, and then
    leaves no folder and no part of a line.
    """

    def __init__(self, path: str | None, recipe: Recipe) -> None:
        self.path = Path(os.path.expanduser(path)) if path else _new_name(recipe.name)  # noqa: PTH111
        self.model = self.path / "model.safetensors"
        self._history = self.path / "history.jsonl"
        self._pending: list[EpochEnded] = []
        self._flushed = time.monotonic()
        made: list[Path] = []
        try:
            made += [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
            self.path.mkdir(parents=True, exist_ok=True)
            if any(self.path.iterdir()):
                raise ConfigError(f"{self.path}: the run directory is not empty; give another --out or remove it")
            write_atomically(self.path / "recipe.toml", to_toml(recipe).encode())
        except OSError as error:
            _remove_empty(made)
            raise cannot_write(self.path, error) from error
        except CheckpointError:
            _remove_empty(made)
            raise

    def __enter__(self) -> "RunDirectory":
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        with suppress(CheckpointError) if kind else nullcontext():
            self._flush()

    def add(self, event: EpochEnded) -> None:
        """Keep an epoch's line for history.jsonl."""
        self._pending.append(event)
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._flush()

    def save(self, model: Model) -> str:
        """Write the model; returns the SHA-256 of its file."""
        return save(model, self.model)

    def _flush(self) -> None:
        lines = "".join(json.dumps(_line(event)) + "\n" for event in self._pending)
        self._pending.clear()
        self._flushed = time.monotonic()
        if lines:
            append(self._history, lines.encode())


def model_file(path: str) -> Path:
    """The model that `path` names: the file itself, or the one in a run directory."""
    return Path(path) / "model.safetensors" if os.path.isdir(path) else Path(path)  # noqa: PTH112


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def _line(event: EpochEnded) -> dict[str, Any]:
    return {
        "epoch": event.epoch,
        "step": event.step,
        "seconds": round(event.seconds, 6),
        "loss": event.loss,
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
