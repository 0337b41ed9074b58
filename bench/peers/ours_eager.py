"""fcgpu on a GPU with steps that are called, not recorded: what recording them is worth."""

from bench import clocks
from bench.gpu.clock import eager
from bench.peers import ours

TITLE = "fcgpu, eager"
PACKAGES = ours.PACKAGES
CLOCKS = {"cuda": clocks.cupy_events}


def setup(work):
    with eager():
        return ours.setup(work)
