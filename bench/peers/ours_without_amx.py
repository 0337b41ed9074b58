"""fcgpu as on a processor without a tile unit (AMX)."""

from unittest.mock import patch

from bench import clocks
from bench.peers import ours
from fcgpu.kernels import compiled

TITLE = "fcgpu without AMX"
PACKAGES = ours.PACKAGES
CLOCKS = {"cpu": clocks.host} if compiled.has_tile_unit() else {}
WITHOUT = patch.object(compiled, "has_tile_unit", lambda: False)

setup = WITHOUT(ours.setup)


def setup_predict(work):
    """Each call is without AMX: that is looked for whenever a model predicts."""
    return WITHOUT(ours.setup_predict(work))
