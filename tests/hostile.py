"""Damaged or malicious files, as an attacker, a bad disk or a bad connection might leave them."""

import os

from fcgpu.formats.atomic import BINARY


def overwrite(path, content):
    """Write a file in place: on some file systems, truncating and rewriting waits for the disk each time."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | BINARY, 0o644)
    try:
        os.write(descriptor, content)
        os.ftruncate(descriptor, len(content))
    finally:
        os.close(descriptor)
