"""PyTorch eager: nn.Sequential, cross_entropy, optim.Adam in one kernel (`fused`), the fastest of its variants."""

import torch

from bench.adam import RATE, standardised
from bench.peers import pytorch

TITLE, PACKAGES, CLOCKS = pytorch.TITLE, pytorch.PACKAGES, pytorch.CLOCKS


def setup(work):
    return steps(work, plain, fused=True)


def steps(work, update, **options):
    layers = [torch.nn.ReLU() if isinstance(m, torch.nn.Sigmoid) else m for m in pytorch.network(work)]
    model, X = torch.nn.Sequential(*layers), torch.from_numpy(standardised(work)).to(work.device)
    y = torch.tensor(work.y, dtype=torch.long).to(work.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, **options)
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
