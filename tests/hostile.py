"""Files as a stranger, a bad disk or a bad line might leave them."""

import os


def overwrite(path, content):
    """Write a file in place: to truncate and write anew makes some file systems wait for the disk each time."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.pwrite(descriptor, content, 0)
        os.ftruncate(descriptor, len(content))
    finally:
        os.close(descriptor)
