"""numpy.loadtxt with dtype uint8."""

import numpy as np

from bench import clocks
from bench.loaders import csv_of, sums

TITLE = "numpy.loadtxt"
PACKAGES = ("numpy",)
CLOCKS = {"cpu": clocks.host}


def setup(work):
    path = csv_of(work)

    def step():
        table = np.loadtxt(path, delimiter=",", dtype=np.uint8)
        return sums(table[:, 1:], table[:, 0])

    return step
