"""PyTorch eager: nn.Sequential, CrossEntropyLoss, optim.Adam."""

import torch

from bench.adam import RATE, standardised
from bench.peers import pytorch

TITLE, PACKAGES, CLOCKS = pytorch.TITLE, pytorch.PACKAGES, pytorch.CLOCKS


def setup(work):
    return steps(work, plain)


def steps(work, update):
    layers = [torch.nn.ReLU() if isinstance(m, torch.nn.Sigmoid) else m for m in pytorch.network(work)]
    model, X = torch.nn.Sequential(*layers), torch.from_numpy(standardised(work)).to(work.device)
    y = torch.tensor(work.y, dtype=torch.long).to(work.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    batches = list(zip(X.split(work.batch), y.split(work.batch), strict=True))

    def step():
        total = torch.zeros((), device=work.device)
        for x, labels in batches:
            total += update(model, optimizer, x, labels) * (len(x) / len(X))
        return total

    return step


def plain(model, optimizer, x, labels):
    optimizer.zero_grad()
    loss = torch.nn.functional.cross_entropy(model(x), labels)
    loss.backward()
    optimizer.step()
    return loss.detach()
