"""`fcgpu train --tensorboard`: the history's numbers as scalars for TensorBoard. Needs the extra `tensorboard`.

It writes synchronously, by tensorboardX's RecordWriter. SummaryWriter has a thread that dies when the disk is full, and
the run would then wait for it forever.
"""

import contextlib
import platform
import time
from typing import Any

from fcgpu.cli.history import History
from fcgpu.errors import MissingExtraError
from fcgpu.formats.atomic import cannot_write
from fcgpu.streams import say
from fcgpu.train.recipe import Recipe

TAGS = {
    "loss": "loss/train",
    "monitored": "loss/validation",
    "test_loss": "loss/test",
    "accuracy": "accuracy/train",
    "test_accuracy": "accuracy/test",
    "learning_rate": "learning_rate",
}


class TensorBoard:
    """A context manager that writes a run's history as scalars; a step of TensorBoard is an epoch.

    Its context must enclose the RunDirectory's. Raises MissingExtraError without tensorboardX.
    """

    def __init__(self, recipe: Recipe) -> None:
        try:
            from tensorboardX import proto, record_writer, summary
        except ModuleNotFoundError as error:
            raise MissingExtraError("--tensorboard", error.name, "tensorboard") from None
        self._event, self._scalar, self._open = proto.event_pb2, summary.scalar, record_writer.RecordWriter
        self._tags = {key: tag for key, tag in TAGS.items() if key != "monitored" or recipe.early_stopping}
        self._writer: Any = None

    def __enter__(self) -> "TensorBoard":
        return self

    def __exit__(self, *error: object) -> None:
        if self._writer is not None:
            with contextlib.suppress(OSError):
                self._writer.close()

    def follow(self, history: History) -> None:
        """Write the epochs that are added to the history from now on into a new file beside it.

        Raises CheckpointError if the file cannot be written.
        """
        name = f"events.out.tfevents.{time.time():.0f}.{platform.node()}.{history.last}"
        self._path, self._last = history.path.with_name(name), history.last
        try:
            self._writer = self._open(str(self._path))
        except OSError as error:
            raise cannot_write(self._path, error) from error
        self._write(0, file_version="brain.Event:2")
        if history.last:
            self._forget(history.last + 1)
        history.follow = self.add

    def add(self, lines: list[dict[str, Any]]) -> None:
        """Write lines of the history. If that fails, it prints a warning and writes no more."""
        if self._writer is None:
            return
        try:
            for line in lines:
                if line["epoch"] <= self._last:  # the run went back to a checkpoint
                    self._forget(line["epoch"])
                self._last = line["epoch"]
                for key, tag in self._tags.items():
                    if line.get(key) is not None:
                        self._write(line["epoch"], summary=self._scalar(tag, line[key]))
            self._writer.flush()
        except OSError as error:
            say(f"fcgpu: warning: nothing more for TensorBoard: {cannot_write(self._path, error)}")
            self.__exit__()
            self._writer = None

    def _forget(self, step: int) -> None:
        """Tell TensorBoard to drop what it has of this step and later ones."""
        self._write(step, session_log=self._event.SessionLog(status=self._event.SessionLog.START))

    def _write(self, step: int, **what: Any) -> None:
        self._writer.write(self._event.Event(wall_time=time.time(), step=step, **what).SerializeToString())
