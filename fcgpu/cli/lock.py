"""A lock for one writer per run directory. The system releases it when the holding process ends, however it ends."""

import errno
import os
from contextlib import suppress
from pathlib import Path

from fcgpu.errors import CheckpointError
from fcgpu.formats.atomic import NOFOLLOW

NAME = "lock"
UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # a file system without locks


class Lock:
    """A lock that is held from the constructor to `release`, which removes the file.

    It is an flock, which ends with its process; a file that a dead process left is taken over. The file contains the
    holder's process number, for messages only. On a system without flock there is no lock.
    Raises CheckpointError if another process holds the lock, OSError if the file cannot be created.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._descriptor: int | None = None
        while self._descriptor is None:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | NOFOLLOW, 0o644)
            try:
                if _taken(descriptor):
                    holder = os.read(descriptor, 20).decode("ascii", "replace").strip() or "unknown"
                    raise CheckpointError(
                        f"{folder}: another run, process {holder}, writes there; wait for its end or give another --out"
                    )
                if _is(descriptor, self._path):  # else its last holder has removed the file since we opened it
                    self._descriptor = descriptor
                    with suppress(OSError):  # the content is for messages only
                        os.ftruncate(descriptor, 0)
                        os.write(descriptor, f"{os.getpid()}\n".encode())
            finally:
                if self._descriptor is None:
                    os.close(descriptor)

    def release(self) -> None:
        if self._descriptor is not None:
            with suppress(OSError):
                self._path.unlink()
            with suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = None


def _taken(descriptor: int) -> bool:
    """Try to lock the file; return whether another process holds the lock."""
    try:
        import fcntl
    except ImportError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
    return False


def _is(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False
