"""PyTorch eager, written as in its tutorials: nn.Sequential, BCEWithLogitsLoss, optim.SGD."""

from itertools import pairwise

import torch

from bench import clocks

TITLE = "PyTorch eager"
PACKAGES = ("torch",)
CLOCKS = {"cpu": clocks.host, "cuda": clocks.torch_events}


def setup(work):
    X, Y, model = tensors(work), torch.from_numpy(work.one_hot()).to(work.device), network(work)
    halves = cast(work)
    loss_of = torch.nn.BCEWithLogitsLoss(reduction="sum")
    optimizer = torch.optim.SGD(model.parameters(), lr=work.learning_rate)
    batches = list(zip(X.split(work.batch), Y.split(work.batch), strict=True))

    def step():
        total = torch.zeros((), device=work.device)
        for x, y in batches:
            optimizer.zero_grad()
            with halves:
                Z = model(x)
            loss = loss_of(Z.float(), y) / len(x)
            loss.backward()
            optimizer.step()
            total += loss.detach() * (len(x) / len(X))
        return total

    return step


def setup_predict(work):
    X, model = tensors(work), network(work)

    def step():
        with torch.inference_mode():
            return model(X).argmax(dim=1)

    return step


def tensors(work):
    """X in the dtype of the products; switches TF32 on or off."""
    torch.set_float32_matmul_precision("high" if work.precision == "tf32" else "highest")
    return torch.from_numpy(work.features()).to(work.device, torch.bfloat16 if _half(work) else None)


def cast(work):
    """A context manager in which products have the work's precision, as in PyTorch's tutorials."""
    return torch.autocast(work.device, torch.bfloat16, enabled=_half(work), cache_enabled=False)


def _half(work):
    return work.precision == "bfloat16"


def network(work):
    """The layers with the work's weights; nn.Linear keeps W as (n_out, n_in)."""
    sizes = [work.start[0][0].shape[0], *(W.shape[1] for W, _ in work.start)]
    layers = [torch.nn.Linear(i, o) for i, o in pairwise(sizes)]
    with torch.no_grad():
        for layer, (W, b) in zip(layers, work.start, strict=True):
            layer.weight.copy_(torch.from_numpy(W.T))
            layer.bias.copy_(torch.from_numpy(b[0]))
    between = [module for layer in layers for module in (layer, torch.nn.Sigmoid())]
    return torch.nn.Sequential(*between[:-1]).to(work.device)
