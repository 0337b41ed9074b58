"""Atomic writes: a file by a temporary file, fsync, rename and fsync of the folder; and lines appended to a log.

All of it goes through os.open, os.write, os.fsync, os.replace and os.close, so that tests can end the process or fail
the call at each of them.
"""

import errno
import os
import re
import stat
from contextlib import suppress
from pathlib import Path

from fcgpu.errors import CheckpointError

CHUNK = 1 << 20  # bytes per write
SUFFIX = ".tmp"
BINARY = getattr(os, "O_BINARY", 0)  # Windows only
NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Replace the file `path` by one with `content`. A reader sees the old file or the new one, never a part.

    If `path` is a symlink, it is replaced, not followed. If it fails, it removes the temporary file and raises
    CheckpointError with the path and the system's reason.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}{SUFFIX}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | BINARY, 0o666)
        try:
            _write(descriptor, content)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException as error:  # Ctrl-C included
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise cannot_write(path, error) from error
        raise


def append(path: str | os.PathLike[str], content: bytes, *, durable: bool = False) -> None:
    """Append `content` to a file, all of it or, if that fails, nothing: then it raises CheckpointError.

    durable : return only after fsync. A symlink is refused.
    """
    path = Path(path)
    new = not os.path.lexists(path)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | BINARY | NOFOLLOW, 0o666)
    except OSError as error:
        raise cannot_write(path, error) from error
    before = os.fstat(descriptor).st_size
    try:
        try:
            _write(descriptor, content)
            if durable:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if durable and new:
            sync_folder(path.parent)
    except BaseException as error:  # also if only the close failed, although all was written then
        with suppress(OSError):
            path.unlink() if new else os.truncate(path, before)
        if isinstance(error, OSError):
            raise cannot_write(path, error) from error
        raise


def regular(path: str, flags: int, *, follow: bool = False) -> int:
    """An opener for `open(path, opener=regular)` that accepts only regular files and, unless `follow`, no symlinks.

    Others might block or never end, or be outside the run directory. Raises OSError.
    """
    descriptor = os.open(path, flags | (0 if follow else NOFOLLOW) | getattr(os, "O_NONBLOCK", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(0, "not a regular file")
    return descriptor


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files of a process that was killed while it wrote into this folder."""
    for path in filter(is_leftover, folder.glob(f".*{SUFFIX}")):
        with suppress(OSError):
            path.unlink()


def is_leftover(path: Path) -> bool:
    """Whether this is the name of a temporary file of `write_atomically`."""
    return re.fullmatch(rf"\..+\.[0-9a-f]{{8}}{re.escape(SUFFIX)}", path.name) is not None


def cannot_write(path: str | os.PathLike[str], error: OSError) -> CheckpointError:
    """The error for a path that cannot be written, with the remedy."""
    remedy = "free some space there" if error.errno == errno.ENOSPC else "choose a folder that you can write to"
    return CheckpointError(f"{os.fspath(path)}: cannot be written ({error.strerror or error}); {remedy}")


def sync_folder(folder: Path) -> None:
    """fsync the folder, so that new and renamed files in it survive a crash."""
    if os.name != "posix":  # elsewhere a folder cannot be opened, and the rename is durable by itself
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(descriptor: int, content: bytes) -> None:
    """Write all of content: a system call may write less than it is given."""
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view[:CHUNK]) :]
