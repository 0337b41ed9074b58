"""The system calls of a save, one by one: counted, failed with an error, cut short, or the process killed there."""

import errno
import os
import signal
from contextlib import contextmanager

CALLS = ("open", "write", "fsync", "replace", "close", "ftruncate", "truncate", "unlink", "mkdir", "rmdir")
ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES)
REAL = {name: getattr(os, name) for name in CALLS}
REAL["fsync"] = lambda descriptor: None  # a killed process takes nothing from the system's cache along, and it is slow


def die():
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def faults(at=None, how=None):
    """Within, the calls of `os` named above are recorded, and call number `at` goes as `how` says.

    how : "before", "after" (killed there), "torn" (killed after half of a write), "short" (half of a write is done and
    said to be), or an errno that the call fails with, a close after it has closed. Yields the names of the calls.
    """
    seen = []

    def wrapped(name):
        def call(*args, **kwargs):
            here = len(seen) == at
            seen.append(name)
            if not here:
                return REAL[name](*args, **kwargs)
            if how == "before":
                die()
            if how in ("torn", "short"):
                descriptor, content = args
                done = REAL["write"](descriptor, content[: max(1, len(content) // 2)])
                return die() if how == "torn" else done
            if isinstance(how, int) and name != "close":
                raise OSError(how, os.strerror(how))
            result = REAL[name](*args, **kwargs)
            if how == "after":
                die()
            if isinstance(how, int):
                raise OSError(how, os.strerror(how))
            return result

        return call

    for name in CALLS:
        setattr(os, name, wrapped(name))
    try:
        yield seen
    finally:
        for name in CALLS:
            setattr(os, name, REAL[name])


def points(calls):
    """Every (number of the call, how) at which a process can be killed."""
    for number, name in enumerate(calls):
        yield number, "before"
        if name == "write":
            yield number, "torn"
    yield len(calls) - 1, "after"  # after any other call is before the next


def in_child(function):
    """Run it in a forked process; what the process ended with: 0, an exit code, or minus the signal."""
    child = os.fork()
    if child == 0:
        code = 70
        try:
            code = function() or 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
