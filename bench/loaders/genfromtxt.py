"""numpy.genfromtxt, as the article reads its file."""

import numpy as np

from bench import clocks
from bench.loaders import reader

TITLE = "numpy.genfromtxt"
PACKAGES = ("numpy",)
CLOCKS = {"cpu": clocks.host}
setup = reader(lambda path: np.genfromtxt(path, delimiter=","))
