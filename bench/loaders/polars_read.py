"""polars.read_csv with a schema of UInt8."""

import polars as pl

from bench import clocks
from bench.loaders import csv_of, sums

TITLE = "polars.read_csv"
PACKAGES = ("polars",)
CLOCKS = {"cpu": clocks.host}


def setup(work):
    path = csv_of(work)
    schema = {f"column_{i + 1}": pl.UInt8 for i in range(work.X.shape[1] + 1)}

    def step():
        table = pl.read_csv(path, has_header=False, schema=schema).to_numpy()
        return sums(table[:, 1:], table[:, 0])

    return step
