"""torch.compile in mode max-autotune, which tries Triton's matrix products and captures CUDA graphs; on a GPU."""

import torch

from bench import clocks
from bench.peers.pytorch_compiled import plain_update, steps

TITLE = "torch.compile, max-autotune"
PACKAGES = ("torch", "triton")
CLOCKS = {"cuda": clocks.torch_events}
update = torch.compile(plain_update, dynamic=False, mode="max-autotune")


def setup(work):
    return steps(work, update)
