"""torch.compile over the whole update: forward, loss, gradient and SGD step in one compiled function."""

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, linear

from bench import clocks
from bench.peers.pytorch import network, tensors

TITLE = "torch.compile"
PACKAGES = ("torch",)
CLOCKS = {"cpu": clocks.host, "cuda": clocks.torch_events}


def setup(work):
    return steps(work, update)


def steps(work, update):
    X, Y, params = tensors(work), torch.from_numpy(work.one_hot()).to(work.device), _params(work)
    batches = list(zip(X.split(work.batch), Y.split(work.batch), strict=True))

    def step():
        total = torch.zeros((), device=work.device)
        for x, y in batches:
            update(params, x, y, work.learning_rate, total, len(x) / len(X))
        return total

    return step


def setup_predict(work):
    X, params = tensors(work), _params(work)

    def step():
        with torch.inference_mode():
            return predict(params, X)

    return step


def forward(params, A):
    for W, b in zip(params[:-2:2], params[1:-2:2], strict=True):
        A = torch.sigmoid(linear(A, W.to(A.dtype), b.to(A.dtype)))
    W, b = params[-2:]
    return linear(A, W.to(A.dtype), b.to(A.dtype)).float()


def loss_of(params, X, Y):
    return binary_cross_entropy_with_logits(forward(params, X), Y, reduction="sum") / len(X)


def plain_update(params, X, Y, learning_rate, total, share):
    gradients, loss = torch.func.grad_and_value(loss_of)(params, X, Y)
    for p, g in zip(params, gradients, strict=True):
        p.sub_(learning_rate * g)
    total.add_(share * loss)


update = torch.compile(plain_update, dynamic=False)


@torch.compile(dynamic=False)
def predict(params, X):
    return forward(params, X).argmax(dim=1)


def _params(work):
    return [p.detach() for p in network(work).parameters()]
