"""Whole lines of a text file in UTF-8, plain or gzip, in blocks of bytes."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fcgpu.data.unpack import unpacked, unpacked_limit
from fcgpu.errors import DataError

MAX_LINE = 4 << 20  # bytes
BOM = b"\xef\xbb\xbf"


@contextmanager
def whole_lines(path: Path) -> Iterator[Callable[[int], bytes]]:
    """A function that reads about `size` bytes of whole lines from a file, plain or gzip.

    Inside the context, what is not UTF-8 text or not complete gzip raises DataError.
    """
    with unpacked(path) as (stream, is_gzip):
        if b"\0" in stream.peek(1):
            raise DataError(f"{path}: not text: it holds NUL bytes; expected CSV in UTF-8")
        limit = unpacked_limit(path.stat().st_size) if is_gzip else math.inf
        try:
            yield _reader(path, stream, limit)
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not UTF-8 text ({error.reason}); save it as CSV in UTF-8") from error


def _reader(path: Path, stream: Any, limit: float) -> Callable[[int], bytes]:
    """A function that reads about `size` bytes of whole lines.

    It raises DataError after `limit` bytes in all, and for a line of more than about MAX_LINE bytes.
    """
    left = limit

    def read(size: int) -> bytes:
        nonlocal left
        block: bytes = stream.read(size)
        if not block.endswith(b"\n"):
            rest = stream.readline(MAX_LINE)
            if len(rest) == MAX_LINE:
                raise DataError(
                    f"{path}: a line of more than {MAX_LINE} bytes; expected a sample in each: save larger ones as .npy"
                )
            block += rest
        left -= len(block)
        if left < 0:
            raise DataError(f"{path}: unpacks to far more than its size; if you trust it, unpack it yourself")
        return block

    return read


def blocks_of(read: Callable[[int], bytes], size: int) -> Iterator[bytes]:
    """Blocks of whole lines, about `size` bytes each, with every line ending changed to a line feed."""
    for block in iter(lambda: read(size), b""):
        if b"\r" in block:
            block = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        yield block.removeprefix(BOM)


def lines_of(block: bytes) -> list[str]:
    return [line.decode() for line in block.split(b"\n") if line.strip()]
