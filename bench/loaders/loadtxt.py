"""numpy.loadtxt with dtype uint8."""

import numpy as np

from bench import clocks
from bench.loaders import reader

TITLE = "numpy.loadtxt"
PACKAGES = ("numpy",)
CLOCKS = {"cpu": clocks.host}
setup = reader(lambda path: np.loadtxt(path, delimiter=",", dtype=np.uint8))
