"""fcgpu.load, which detects that the features are bytes."""

import fcgpu
from bench import clocks
from bench.loaders import csv_of, sums

TITLE = "fcgpu.load"
PACKAGES = ("fcgpu", "numpy")
CLOCKS = {"cpu": clocks.host}


def setup(work):
    path = csv_of(work)

    def step():
        data = fcgpu.load(path)
        return sums(data.X, data.y)

    return step
