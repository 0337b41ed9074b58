"""fcgpu as installed without a C compiler: only the NumPy kernels."""

from contextlib import contextmanager
from unittest.mock import patch

from bench import clocks
from bench.peers import ours
from fcgpu.kernels import compiled

TITLE = "fcgpu without C"
PACKAGES = ours.PACKAGES
CLOCKS = {"cpu": clocks.host} if compiled.native else {}


@contextmanager
def without():
    with patch.object(compiled, "native", None):
        compiled.has_tile_unit.cache_clear()
        yield
    compiled.has_tile_unit.cache_clear()


setup = without()(ours.setup)


def setup_predict(work):
    """Each call is without C: that is looked for whenever a model predicts."""
    return without()(ours.setup_predict(work))
