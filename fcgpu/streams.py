"""Standard output and standard error: tables, messages, and streams whose reader has closed them."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

UNFOLDED = 10_000  # columns, more than any row has
ESCAPED = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}  # the control characters


def show(table: Any, otherwise: str = "") -> None:
    """Print a rich table, folded to the width of a terminal; in a file or pipe each row is one line.

    otherwise : if given, it is printed instead of a table that is too wide for the terminal.
    """
    from rich.console import Console

    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = UNFOLDED
    if otherwise and console.measure(table, options=console.options.update(width=UNFOLDED)).maximum > console.width:
        print(otherwise)
    else:
        console.print(table)


def plain(text: object) -> str:
    """The text in one line, its control characters as escapes: a terminal would obey those of a stranger's file."""
    return str(text).translate(ESCAPED)


def say(text: str) -> None:
    """Print text, `plain` but for its line breaks, on standard error; do nothing if that fails."""
    if sys.stderr is not None:
        with unheard(sys.stderr):
            print("\n".join(map(plain, text.split("\n"))), file=sys.stderr, flush=True)


@contextmanager
def unheard(stream: TextIO) -> Iterator[None]:
    """Ignore an OSError inside, and drop all later output to `stream`: a closed stream must not end a run."""
    try:
        yield
    except OSError:
        drop(stream)


def drop(stream: TextIO) -> None:
    """Redirect the stream to the null device; else Python would flush it again at exit and print a traceback."""
    with suppress(OSError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())
