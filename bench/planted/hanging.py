"""A part of `python -m bench gpu` that never ends, nor what it started."""

import subprocess
import time

TITLE, LIMIT = "a part that hangs", 5.0


def rows(device):
    process = subprocess.Popen(["sleep", "60"])
    yield {"pid": process.pid}
    time.sleep(60)
