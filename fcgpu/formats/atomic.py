"""Write whole or not at all: a file through a temporary one, fsync, rename, fsync of the folder; lines to a log."""

import errno
import os
from contextlib import suppress
from pathlib import Path

from fcgpu.errors import CheckpointError


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Replace `path` by a file of `content`. A reader sees the old file or the new one, never a part.

    Raises CheckpointError, with the path and the system's reason; the temporary file is gone then.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException as error:  # Ctrl-C included
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise cannot_write(path, error) from error
        raise


def append(path: str | os.PathLike[str], content: bytes) -> None:
    """Add `content` to the end of a file, or nothing where the system refuses: then CheckpointError as above."""
    path = Path(path)
    before = path.stat().st_size if path.exists() else 0
    try:
        with open(path, "ab") as file:
            file.write(content)
    except OSError as error:
        with suppress(OSError):
            os.truncate(path, before) if before else path.unlink()
        raise cannot_write(path, error) from error


def cannot_write(path: str | os.PathLike[str], error: OSError) -> CheckpointError:
    """The error for a path that the system refuses to write, with the remedy."""
    remedy = "free some space there" if error.errno == errno.ENOSPC else "choose a folder that you can write to"
    return CheckpointError(f"{os.fspath(path)}: cannot be written ({error.strerror or error}); {remedy}")


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # elsewhere a folder cannot be opened, and the rename is durable by itself
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
