"""polars.read_csv with a schema of UInt8."""

import polars as pl

from bench import clocks
from bench.cases import SIZES
from bench.loaders import reader

TITLE = "polars.read_csv"
PACKAGES = ("polars",)
CLOCKS = {"cpu": clocks.host}
SCHEMA = {f"column_{i + 1}": pl.UInt8 for i in range(1 + SIZES[0])}
setup = reader(lambda path: pl.read_csv(path, has_header=False, schema=SCHEMA).to_numpy())
