"""Standard output and standard error: tables, lines for a person, and readers that leave before the end."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

UNFOLDED = 10_000  # columns: wider than any row


def show(table: Any, otherwise: str = "") -> None:
    """A rich table on standard output, folded to the width of a terminal; in a file or a pipe a row is a line.

    otherwise : what to say in the place of a table that must not be folded, where it is too wide.
    """
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = UNFOLDED
    if otherwise and console.measure(table, options=console.options.update(width=UNFOLDED)).maximum > console.width:
        print(otherwise)
    else:
        console.print(table)


def say(text: str) -> None:
    """A line on standard error, for whoever listens."""
    if sys.stderr is not None:
        with unheard(sys.stderr):
            print(text, file=sys.stderr, flush=True)


@contextmanager
def unheard(stream: TextIO) -> Iterator[None]:
    """What cannot be written to `stream` is dropped, and all that follows too: a run outlives who watches it."""
    try:
        yield
    except OSError:
        drop(stream)


def drop(stream: TextIO) -> None:
    """What is left of the stream's output goes nowhere, or Python would try again at exit and print a traceback."""
    with suppress(OSError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())
