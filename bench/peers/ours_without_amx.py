"""fcgpu as on a processor without a tile unit (AMX): OpenBLAS also computes the products with the pixels."""

from unittest.mock import patch

from bench import clocks
from bench.peers import ours
from fcgpu.kernels import compiled

TITLE = "fcgpu without AMX"
PACKAGES = ours.PACKAGES
CLOCKS = {"cpu": clocks.host} if compiled.multiplies_bytes() else {}
WITHOUT = patch.object(compiled, "multiplies_bytes", lambda: False)

setup = WITHOUT(ours.setup)


def setup_predict(work):
    return WITHOUT(ours.setup_predict(work))
