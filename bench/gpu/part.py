"""One part, in its own process: `python -m bench.gpu.part NAME DEVICE FILE UNTIL` appends its rows to the file as JSON.

UNTIL is the time.time() at which the process will be killed.
"""

import json
import sys
import time
from importlib import import_module
from inspect import signature

import fcgpu
from bench.gpu.session import NO_GPU, module_of


def main(name: str, device: str, path: str, until: str) -> int:
    part = import_module(module_of(name))
    try:
        fcgpu.choose(device)
    except fcgpu.DeviceError as error:
        print(error, file=sys.stderr)
        return NO_GPU
    told = {"limit": float(until) - time.time()} if "limit" in signature(part.rows).parameters else {}
    with open(path, "a", encoding="utf-8") as file:
        for row in part.rows(device, **told):
            file.write(json.dumps(row) + "\n")
            file.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
