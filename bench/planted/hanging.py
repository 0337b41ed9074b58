"""A part of `python -m bench gpu` that hangs, and so does its child process."""

import subprocess
import time

TITLE, LIMIT = "a part that hangs", 5.0


def rows(device):
    process = subprocess.Popen(["sleep", "60"])
    yield {"pid": process.pid}
    time.sleep(60)
