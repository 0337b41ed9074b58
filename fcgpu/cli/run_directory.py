"""What a training run leaves: recipe.toml, history.jsonl, model.safetensors, result.json and checkpoints."""

import json
import math
import os
import shlex
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fcgpu.cli.checkpoints import FOLDER as CHECKPOINTS
from fcgpu.cli.checkpoints import Checkpoints, Every
from fcgpu.cli.history import History
from fcgpu.cli.lock import NAME as LOCK
from fcgpu.cli.lock import Lock
from fcgpu.errors import CheckpointError, ConfigError, DivergenceError
from fcgpu.formats.atomic import cannot_write, is_leftover, remove_leftovers, write_atomically
from fcgpu.formats.safetensors import save
from fcgpu.model import Model
from fcgpu.train.checkpoint import Checkpoint, differing
from fcgpu.train.events import EpochEnded
from fcgpu.train.plan import readable
from fcgpu.train.recipe import Recipe, load_recipe, to_toml

RECIPE, RESULT = "recipe.toml", "result.json"
NEVER = Every()
LED_ASTRAY = math.inf  # the score of a checkpoint from which a run diverged


class RunDirectory:
    """A folder of one run, and the only one that writes there: made by `create`, or by `reopen` for a run to resume.

    A context: what `add` keeps back is written at its end, also where that is an error; of a run that diverged the
    error then says what is kept where.
    """

    def __init__(self, path: Path, lock: Lock, every: Every, keep: int) -> None:
        self.path, self.model = path, path / "model.safetensors"
        self.history = History(path / "history.jsonl")
        self._lock, self._checkpoints = lock, Checkpoints(path, every, keep)

    def __enter__(self) -> "RunDirectory":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            self.history.flush()
        except CheckpointError as refused:
            if error is None:
                raise CheckpointError(f"{refused}; the model is saved as {self.model}") from refused
        finally:
            self._lock.release()
        if isinstance(error, DivergenceError):
            raise DivergenceError(f"{error} ({self._kept()} kept in {self.path})") from error

    def add(self, event: EpochEnded) -> None:
        """Keep an epoch's line for history.jsonl."""
        self.history.add(event)

    def due(self, epoch: int) -> bool:
        """Is it time for a checkpoint?"""
        return self._checkpoints.due(epoch)

    def checkpoint(self, checkpoint: Checkpoint) -> None:
        """Write one, behind the history up to it. Parameters that are not finite are none to go on from.

        Raises CheckpointError where the system refuses; the earlier ones are as they were.
        """
        if np.isfinite(checkpoint.state.params).all():
            self.history.flush(durable=True)
            self._checkpoints.save(checkpoint)

    def latest(self) -> tuple[Checkpoint | None, Recipe, list[str]]:
        """The checkpoint to go on from, the run's recipe, and what was wrong with newer checkpoints. Changes nothing.

        Raises CheckpointError where none of several loads, the recipe is not that of the checkpoint, or the history
        does not reach it; ConfigError where there is neither checkpoint nor recipe.
        """
        found, wrong = self._checkpoints.latest()
        if found is None and not (self.path / RECIPE).exists():
            raise ConfigError(f"{self.path}: neither {RECIPE} nor checkpoints; expected a run directory")
        recipe = load_recipe(self.path / RECIPE) if found is None or (self.path / RECIPE).exists() else found.recipe
        if found is not None:
            if recipe != found.recipe:
                words = differing(found.recipe, vars(recipe))
                raise CheckpointError(f"{self.path / RECIPE}: not the recipe of the run: {words}; put it back")
            self.history.whole(found.state.epochs)
        return found, recipe, wrong

    def check_begins_anew(self) -> None:
        """Raises CheckpointError where a run without a checkpoint has a model, which epochs from 1 on would replace."""
        if self.model.exists():
            ended = "is finished" if (self.path / RESULT).exists() else "ended with a model"
            again = f"fcgpu train --recipe {shlex.quote(str(self.path / RECIPE))} --epochs N"
            raise CheckpointError(
                f"{self.path}: the run {ended} and has no checkpoint to go on from; for more epochs start a new run: "
                f"{again}"
            )

    def go_on(self, epochs: int) -> "RunDirectory":
        """Make the folder ready for the epochs after these, all else being checked: until then nothing in it changes.

        Raises CheckpointError where the history does not reach so far, or the system refuses.
        """
        if epochs:
            self.history.resume(epochs)
        else:
            self.history.cut(0)
        for folder in (self.path, self._checkpoints.folder):
            remove_leftovers(folder)
        return self

    def halve(self, halvings: int) -> Checkpoint | None:
        """The last good checkpoint, its learning rate halved so often, also on the disk; and the history up to it.

        One that has been gone on from in this way, and led to the next divergence, is removed: it is no good one.
        None where there is none, and the history is empty. Raises CheckpointError, also where one does not load.
        """
        found, wrong = self._checkpoints.latest()
        if found is not None and found.score == LED_ASTRAY:
            self._checkpoints.remove(found.state.epochs)
            found, wrong = self._checkpoints.latest()
        if wrong:
            raise CheckpointError(wrong[0])
        self.history.cut(found.state.epochs if found else 0)
        if found is None:
            return None
        halved = replace(found, state=replace(found.state, halvings=halvings), score=LED_ASTRAY)
        self._checkpoints.save(halved)
        return halved

    def save(self, model: Model) -> str:
        """Write the model; returns the SHA-256 of its file.

        Raises CheckpointError where the system refuses. The model is then in a temporary folder, if one takes it, and
        the message says where.
        """
        try:
            return save(model, self.model)
        except CheckpointError as error:
            raise CheckpointError(f"{error}; {_rescue(model)}") from error

    def keep(self, result: dict[str, Any]) -> None:
        """Write what the run came to. Raises CheckpointError where the system refuses."""
        write_atomically(self.path / RESULT, json.dumps(result, indent=1).encode())

    def _kept(self) -> str:
        there = [name for name, path in (("history", self.history.path), ("checkpoints", self._checkpoints.folder))
                 if path.exists()]  # fmt: skip
        return " and ".join(filter(None, [", ".join(["recipe", *there[:-1]]), *there[-1:]]))


def create(path: str | None, recipe: Recipe, room: int, every: Every = NEVER, keep: int = 1) -> RunDirectory:
    """A new folder with the recipe: one that cannot be written fails early.

    Raises ConfigError for a folder that has something in it; CheckpointError where another run writes there, or the
    system refuses or has not the `room`, in bytes, that the model will take, and then leaves no folder.
    """
    if path == "":
        raise ConfigError("out='': expected a folder; leave --out away for one below runs/")
    folder = Path(os.path.expanduser(path)) if path else _new_name(recipe.name)  # noqa: PTH111
    made: list[Path] = []
    with _refused(folder, lambda: _remove_empty(made)):
        made += [each for each in (folder, *folder.parents) if not each.exists()]
        try:
            folder.mkdir(parents=True, exist_ok=path is not None)
        except FileExistsError:
            if path is None and folder.exists():  # another run has taken the new name since
                return create(path, recipe, room, every, keep)
            raise
        lock = Lock(folder)
        try:
            if any(entry.name != LOCK and not is_leftover(entry) for entry in folder.iterdir()):
                raise ConfigError(
                    f"{folder}: the run directory is not empty; give another --out or remove it, or --resume it"
                )
            remove_leftovers(folder)
            _check_room(folder, room)
            write_atomically(folder / RECIPE, to_toml(recipe).encode())
        except BaseException:
            lock.release()
            raise
    return RunDirectory(folder, lock, every, keep)


def reopen(path: str, every: Every = NEVER, keep: int = 1) -> RunDirectory:
    """The folder of an earlier run, in which nothing changes before `go_on`.

    Raises ConfigError where it is none; CheckpointError where a run writes there, or its checkpoints lie elsewhere.
    """
    folder = Path(os.path.expanduser(path))  # noqa: PTH111
    if not path or not folder.is_dir():
        raise ConfigError(f"resume={path!r}: expected the folder of an earlier run")
    if (folder / CHECKPOINTS).is_symlink():  # files would be replaced and removed outside the run directory
        raise CheckpointError(f"{folder / CHECKPOINTS}: a link; expected a folder: put the run's own in its place")
    with _refused(folder, lambda: None):
        lock = Lock(folder)
    return RunDirectory(folder, lock, every, keep)


@contextmanager
def _refused(folder: Path, undo: Callable[[], None]) -> Iterator[None]:
    """OSError becomes CheckpointError, and what was begun is undone."""
    try:
        yield
    except OSError as error:
        undo()
        raise cannot_write(folder, error) from error
    except CheckpointError:
        undo()
        raise


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


def _new_name(recipe: str) -> Path:
    """runs/RECIPE-DATE-TIME, with a number behind it where two runs start in one second."""
    name = "".join(c if c.isalnum() or c in "-_." else "-" for c in recipe)
    stamp = Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    path, number = stamp, 2
    while path.exists():
        path, number = stamp.with_name(f"{stamp.name}-{number}"), number + 1
    return path
