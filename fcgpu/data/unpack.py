"""Files that may be compressed: opened, limited in what they may unpack to, and read block by block.

A file that claims to unpack to far more than its size is taken for a bomb, and refused before anything is allocated.
"""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fcgpu.errors import DataError

DEFLATE_LIMIT = 1032  # one byte of deflate expands to at most this many bytes
EXPANSION = 200  # largest accepted ratio of unpacked to compressed size; MNIST's is 5
SPARE = 64 << 20  # bytes that any file may unpack to, whatever the ratio
BLOCK = 1 << 17
GZIP = b"\x1f\x8b"


@contextmanager
def unpacked(path: Path) -> Iterator[tuple[Any, bool]]:
    """(a binary stream of the file, unpacked if it is gzip; whether it is gzip).

    Inside the context, gzip that is damaged or not complete raises DataError.
    """
    with path.open("rb") as raw:
        is_gzip = raw.peek(2)[:2] == GZIP
        try:
            yield gzip.GzipFile(fileobj=raw) if is_gzip else raw, is_gzip
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise DataError(f"{path}: corrupt gzip ({error}); expected a complete file: copy it again") from error


def unpacked_limit(size: int) -> int:
    """Most bytes that a compressed file of `size` bytes may unpack to."""
    return min(size * DEFLATE_LIMIT, max(SPARE, size * EXPANSION))


def fill(array: Any, stream: Any) -> int:
    """Fill a uint8 array (n,) from the stream, block by block; return the bytes read, less than n if it ends early."""
    view, filled = memoryview(array), 0
    while filled < len(view):
        try:
            block = stream.read1(min(BLOCK, len(view) - filled))
        except EOFError:  # compressed data that breaks off: read1 has delivered all that came before
            break
        if not block:
            break
        view[filled : filled + len(block)] = block
        filled += len(block)
    return filled
