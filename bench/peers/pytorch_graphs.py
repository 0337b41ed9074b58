"""PyTorch with a CUDA graph: one update is captured on fixed buffers and replayed for each batch."""

import torch

from bench import clocks
from bench.peers.pytorch import cast, network, tensors

TITLE = "PyTorch, CUDA graph"
PACKAGES = ("torch",)
CLOCKS = {"cuda": clocks.torch_events}
WARM_UPS = 3  # before the capture, on a side stream, as PyTorch's CUDA notes require


def setup(work):
    X, Y, model = tensors(work), torch.from_numpy(work.one_hot()).to(work.device), network(work)
    loss_of = torch.nn.BCEWithLogitsLoss(reduction="sum")
    optimizer = torch.optim.SGD(model.parameters(), lr=work.learning_rate)
    total = torch.zeros((), device=work.device)
    size = work.batch
    x, y = (X, Y) if size == len(X) else (torch.empty_like(X[:size]), torch.empty_like(Y[:size]))
    if len(X) % size:
        raise ValueError(f"batch={size} does not divide {len(X)} samples; a captured graph has one shape")

    def update():
        optimizer.zero_grad(set_to_none=True)
        with cast(work):
            Z = model(x)
        loss = loss_of(Z.float(), y) / size
        loss.backward()
        optimizer.step()
        total.add_(loss.detach() * (size / len(X)))

    _on_side_stream(update)
    graph = torch.cuda.CUDAGraph()
    optimizer.zero_grad(set_to_none=True)
    with torch.cuda.graph(graph):
        update()
    with torch.no_grad():  # the warm-ups moved the weights
        for parameter, original in zip(model.parameters(), network(work).parameters(), strict=True):
            parameter.copy_(original)

    def step():
        total.zero_()
        for start in range(0, len(X), size):
            if x is not X:
                x.copy_(X[start : start + size])
                y.copy_(Y[start : start + size])
            graph.replay()
        return total

    return step


def _on_side_stream(update):
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            update()
    torch.cuda.current_stream().wait_stream(stream)
