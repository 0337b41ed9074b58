"""The command line: results on standard output, progress on standard error, any error in one line and exit code 2."""

import errno
import sys
from argparse import Namespace
from collections.abc import Sequence
from importlib import import_module

from fcgpu.cli.options import parser
from fcgpu.errors import FcgpuError
from fcgpu.streams import drop, say

INTERRUPTED = 130  # what a shell reports for a program that Ctrl-C ended
GONE = (errno.EPIPE, errno.EINVAL)  # the reader of our output, such as `head`, has closed it; on Windows the second
# Command: the module of fcgpu.cli with a function of the command's name.
COMMANDS = {
    "train": "train",
    "evaluate": "use",
    "predict": "use",
    "export": "export",
    "report": "report",
    "bench": "bench",
    "info": "show",
    "recipes": "show",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code."""
    try:
        try:
            return _run(parser().parse_args(argv))
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # here, where an error is still reported in one line
    except FcgpuError as error:
        return _refuse(" ".join(str(error).split()))
    except MemoryError:
        return _refuse("out of memory: use a smaller network or batch, or --dtype float32")
    except UnicodeEncodeError as error:
        wrong = ascii(error.object[error.start : error.end])
        return _refuse(f"{wrong} cannot be written as {error.encoding}; set PYTHONIOENCODING=utf-8:surrogateescape")
    except OSError as error:  # files raise an FcgpuError, so this is standard output or the working folder
        drop(sys.stdout)
        if error.errno in GONE:
            return 1
        return _refuse(f"the system refuses ({error}); check the working folder, and the room where the output goes")
    except KeyboardInterrupt:
        say("fcgpu: stopped")
        return INTERRUPTED


def _run(args: Namespace) -> int:
    """Run the command. Its module is imported only now, so that --help is fast."""
    command = getattr(import_module(f"fcgpu.cli.{COMMANDS[args.command]}"), args.command)
    return int(command(args))


def _refuse(message: str) -> int:
    say(f"fcgpu: error: {message}")
    return 2
