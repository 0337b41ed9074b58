"""pandas.read_csv with its C parser and dtype uint8."""

import pandas as pd

from bench import clocks
from bench.loaders import reader

TITLE = "pandas.read_csv"
PACKAGES = ("pandas",)
CLOCKS = {"cpu": clocks.host}
setup = reader(lambda path: pd.read_csv(path, header=None, dtype="uint8").to_numpy())
