"""pandas.read_csv with its C parser and dtype uint8."""

import pandas as pd

from bench import clocks
from bench.loaders import csv_of, sums

TITLE = "pandas.read_csv"
PACKAGES = ("pandas",)
CLOCKS = {"cpu": clocks.host}


def setup(work):
    path = csv_of(work)

    def step():
        table = pd.read_csv(path, header=None, dtype="uint8").to_numpy()
        return sums(table[:, 1:], table[:, 0])

    return step
