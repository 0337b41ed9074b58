"""The system calls of a save: each can be counted, fail, write only a part, or be where the process is killed."""

import errno
import os
import signal
from contextlib import contextmanager

CALLS = ("open", "write", "fsync", "replace", "close", "ftruncate", "truncate", "unlink", "mkdir", "rmdir")
ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES)
REAL = {name: getattr(os, name) for name in CALLS}
REAL["fsync"] = lambda descriptor: None  # it is slow, and killing a process does not lose what is in the system's cache


def die():
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def faults(at=None, how=None):
    """A context in which the calls of `os` named above are recorded, and call number `at` has the fault `how`.

    how : "before" or "after" (the process is killed there), "torn" (killed after half of a write), "short" (half of a
    write is done, and so reported), or an errno with which the call fails; close closes first. Yields the calls' names.
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
    yield len(calls) - 1, "after"  # "after" any other call is "before" the next one


def in_child(function):
    """Run a function in a forked process; returns the exit code, or minus the signal that killed it."""
    child = os.fork()
    if child == 0:
        code = 70
        try:
            code = function() or 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
