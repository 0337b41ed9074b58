"""Reads a run directory: its contents, and a list of what cannot be read. The files are not trusted."""

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fcgpu.errors import CheckpointError, ConfigError
from fcgpu.formats.atomic import regular
from fcgpu.formats.safetensors import load as load_model
from fcgpu.model import Model
from fcgpu.train.recipe import Recipe
from fcgpu.train.recipe_files import load_recipe

MOST_BYTES, MOST_LINES = 4 << 30, 10_000_000  # of a history; the rest is not read. A run has at most so many epochs
MOST_RESULT = 1 << 20  # bytes of a result.json; one that is longer is not a run's
PIECE = 16 << 20  # bytes of a history that are in memory at a time
MOST_POINTS = 2000  # epochs of a history that are kept, evenly spread, besides those with a test score
LARGEST = 1e30  # larger numbers are not drawn
COLUMNS = ("epoch", "seconds", "loss", "penalty", "accuracy", "monitored", "test_loss", "test_accuracy")


@dataclass(frozen=True)
class RunFiles:
    """The contents of a run directory.

    history : {column: float64 (n_epochs,)} for each of COLUMNS, with NaN for missing values.
    result : the contents of result.json, only scalars and flat lists and tables; otherwise not checked.
    missing : sentences about files that are missing or not valid.
    """

    path: Path
    recipe: Recipe
    history: dict[str, Any]
    result: dict[str, Any]
    model: Model | None
    missing: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.path.resolve().name

    def number(self, key: str) -> float | None:
        """The number under `key` of the result; None if there is none."""
        value = number(self.result.get(key))
        return value if math.isfinite(value) else None

    def last(self, column: str) -> float | None:
        """The last finite number of a column of the history; None if there is none."""
        values = self.history[column][np.isfinite(self.history[column])]
        return float(values[-1]) if len(values) else None


def read(path: str) -> RunFiles:
    """Read a run directory. Raises ConfigError if it has no valid recipe."""
    folder = Path(path)
    if not path or not (folder / "recipe.toml").exists():
        raise ConfigError(f"{path!r}: no recipe.toml there; expected a run directory of fcgpu train")
    missing: list[str] = []
    history = _history(folder / "history.jsonl", missing)
    result = _result(folder / "result.json", missing)
    model = None
    try:
        model = load_model(folder / "model.safetensors")
    except CheckpointError as error:
        missing.append(f"No model: {error}.")
    return RunFiles(folder, load_recipe(folder / "recipe.toml"), history, result, model, missing)


def number(value: Any) -> float:
    """`value` as a float if it is a number that can be drawn, else NaN."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not -LARGEST < value < LARGEST:
        return math.nan
    return float(value)


def _history(path: Path, missing: list[str]) -> dict[str, Any]:
    every, looks = _Thinned(), _Thinned()
    for lines in _pieces(path, missing):
        every.add(lines)
        looks.add([line for line in lines if b'"test_loss"' in line])
    kept = dict.fromkeys([*every.kept(), *looks.kept()])
    rows = sorted(_objects(kept), key=lambda row: number(row["epoch"]))
    if len(rows) < len(kept):
        missing.append(f"{path.name}: {len(kept) - len(rows)} of the lines read are not what fcgpu train writes.")
    return {key: np.array([number(row.get(key)) for row in rows], dtype=np.float64) for key in COLUMNS}


class _Thinned:
    """Lines of which at most MOST_POINTS are kept, evenly spread: every first, second, fourth, ...; and the last."""

    def __init__(self) -> None:
        self._kept: list[bytes] = []
        self._step, self._added, self._last = 1, 0, list[bytes]()

    def add(self, lines: list[bytes]) -> None:
        self._kept += lines[-self._added % self._step :: self._step]
        self._added, self._last = self._added + len(lines), lines[-1:] or self._last
        while len(self._kept) > MOST_POINTS:
            self._kept, self._step = self._kept[::2], 2 * self._step

    def kept(self) -> list[bytes]:
        return self._kept + self._last


def _pieces(path: Path, missing: list[str]) -> Iterator[list[bytes]]:
    """The complete lines of a history, some MiB at a time."""
    rest, n = b"", 0
    try:
        with open(path, "rb", opener=regular) as file:
            while n < MOST_LINES and len(rest) <= PIECE and (piece := file.read(min(PIECE, MOST_BYTES - file.tell()))):
                *lines, rest = (rest + piece).split(b"\n", MOST_LINES - n)
                n += len(lines)
                yield lines
            if b"\n" in rest or file.read(1):
                read = f"{n:,} lines" if n == MOST_LINES else f"{file.tell() >> 20} MiB"
                missing.append(f"{path.name}: only its first {read} were read.")
    except OSError as error:
        missing.append(f"No {path.name}: {error.strerror or error}.")


def _objects(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):  # not JSON, not UTF-8, a number of 5000 digits
            continue
        if isinstance(row, dict) and math.isfinite(number(row.get("epoch"))):
            yield row


def _result(path: Path, missing: list[str]) -> dict[str, Any]:
    try:
        with open(path, "rb", opener=regular) as file:
            found = json.loads(file.read(MOST_RESULT))
    except OSError as error:
        missing.append(f"No {path.name}: {error.strerror or error}.")
        return {}
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict):
        return {key: value for key, value in found.items() if _plain(value)}
    missing.append(f"{path.name}: not the result of a run.")
    return {}


def _plain(value: Any) -> bool:
    """Whether value is a scalar, or a list or table of scalars."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return not any(isinstance(each, dict | list) for each in inside)
