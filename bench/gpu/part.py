"""One part, in its own process: `python -m bench.gpu.part NAME DEVICE FILE` appends its rows to the file as JSON."""

import json
import sys
from importlib import import_module

import fcgpu
from bench.gpu.session import NO_GPU, module_of


def main(name: str, device: str, path: str) -> int:
    part = import_module(module_of(name))
    try:
        fcgpu.choose(device)
    except fcgpu.DeviceError as error:
        print(error, file=sys.stderr)
        return NO_GPU
    with open(path, "a", encoding="utf-8") as file:
        for row in part.rows(device):
            file.write(json.dumps(row) + "\n")
            file.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
