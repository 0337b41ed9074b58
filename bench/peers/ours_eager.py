"""fcgpu on a GPU without CUDA graphs: every step is launched eagerly. Shows what the graphs gain."""

from bench import clocks
from bench.gpu.clock import eager
from bench.peers import ours

TITLE = "fcgpu, eager"
PACKAGES = ours.PACKAGES
CLOCKS = {"cuda": clocks.cupy_events}


def setup(work):
    with eager():
        return ours.setup(work)
