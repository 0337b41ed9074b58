"""A lock for one writer per run directory. The system releases it when the holding process ends, however it ends."""

import errno
import os
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

from fcgpu.errors import CheckpointError
from fcgpu.formats.atomic import NOFOLLOW

NAME = "lock"
UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # a file system without locks
BEHIND = 1 << 20  # offset of the byte that is locked on Windows, where nobody else can read what is locked


class Lock:
    """A lock that is held from the constructor to `release`, which removes the file.

    It is an flock, or on Windows a locked byte, which ends with its process; a file that a dead process left is taken
    over. The file contains the holder's process number, for messages only. A file system without locks has none.
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
            remove, unlock = self._path.unlink, partial(os.close, self._descriptor)
            for step in (unlock, remove) if os.name == "nt" else (remove, unlock):  # Windows removes no open file
                with suppress(OSError):
                    step()
            self._descriptor = None


def _taken(descriptor: int) -> bool:
    """Try to lock the file; return whether another process holds the lock."""
    if sys.platform == "win32":
        import msvcrt

        os.lseek(descriptor, BEHIND, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return True
        finally:
            os.lseek(descriptor, 0, os.SEEK_SET)
        return False
    import fcntl

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
