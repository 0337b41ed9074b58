"""numpy.genfromtxt, as the article reads its file."""

import numpy as np

from bench import clocks
from bench.loaders import csv_of, sums

TITLE = "numpy.genfromtxt"
PACKAGES = ("numpy",)
CLOCKS = {"cpu": clocks.host}


def setup(work):
    path = csv_of(work)

    def step():
        table = np.genfromtxt(path, delimiter=",")
        return sums(table[:, 1:], table[:, 0])

    return step
