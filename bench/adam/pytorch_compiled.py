"""torch.compile of the loss, with its gradient, and of Adam's step."""

import torch

from bench.adam import pytorch
from bench.peers import pytorch_compiled

TITLE, PACKAGES, CLOCKS = pytorch_compiled.TITLE, pytorch_compiled.PACKAGES, pytorch_compiled.CLOCKS


def setup(work):
    return pytorch.steps(work, update)


@torch.compile(dynamic=False)
def loss_of(model, x, labels):
    return torch.nn.functional.cross_entropy(model(x), labels)


@torch.compile(dynamic=False)
def descend(optimizer):
    optimizer.step()


def update(model, optimizer, x, labels):
    optimizer.zero_grad()
    loss = loss_of(model, x, labels)
    loss.backward()
    descend(optimizer)
    return loss.detach()
