"""What a training run leaves: recipe.toml, history.jsonl and model.safetensors."""

import json
import os
import time
from pathlib import Path
from typing import Any

from fcgpu.errors import ConfigError
from fcgpu.formats.atomic import cannot_write, write_atomically
from fcgpu.formats.safetensors import save
from fcgpu.model import Model
from fcgpu.train.events import EpochEnded
from fcgpu.train.recipe import Recipe, to_toml

FLUSH_SECONDS = 0.25  # epochs are written together this often: on a GPU each loss that is read waits for the device


class RunDirectory:
    """A folder of one run. Opening it makes it and writes the recipe: a folder that cannot be written fails early.

    Raises ConfigError for a folder that has something in it; CheckpointError where the system refuses.
    """

    def __init__(self, path: str | None, recipe: Recipe) -> None:
        self.path = Path(path) if path else _new_name(recipe.name)
        self.model = self.path / "model.safetensors"
        self._pending: list[EpochEnded] = []
        self._flushed = time.monotonic()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if any(self.path.iterdir()):
                raise ConfigError(f"{self.path}: the run directory is not empty; give another --out or remove it")
            write_atomically(self.path / "recipe.toml", to_toml(recipe).encode())
            self._history = open(self.path / "history.jsonl", "w", encoding="utf-8")  # noqa: SIM115 (close() closes)
        except OSError as error:
            raise cannot_write(self.path, error) from error

    def add(self, event: EpochEnded) -> None:
        """Keep an epoch's line for history.jsonl."""
        self._pending.append(event)
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._flush()

    def save(self, model: Model) -> str:
        """Write the model; returns the SHA-256 of its file."""
        return save(model, self.model)

    def close(self) -> None:
        self._flush()
        self._history.close()

    def _flush(self) -> None:
        try:
            for event in self._pending:
                self._history.write(json.dumps(_line(event)) + "\n")
            self._history.flush()
        except OSError as error:
            raise cannot_write(self._history.name, error) from error
        finally:
            self._pending.clear()
            self._flushed = time.monotonic()


def model_file(path: str) -> Path:
    """The model that `path` names: the file itself, or the one in a run directory."""
    return Path(path) / "model.safetensors" if os.path.isdir(path) else Path(path)  # noqa: PTH112


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
