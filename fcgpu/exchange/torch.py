"""A model as a torch.nn.Sequential, and back. Needs PyTorch; a GPU is torch's affair: `to_torch(model).cuda()`."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from fcgpu.errors import ConfigError
from fcgpu.exchange import flat, labels
from fcgpu.kernels.activations import LEAK
from fcgpu.model import Model, expect_model
from fcgpu.params import Spec


class Exp(nn.Module):  # type: ignore[misc]
    """e^z, the output of a Poisson regression, which torch.nn lacks."""

    def forward(self, Z: Any) -> Any:
        return torch.exp(Z)


HIDDEN: dict[str, Callable[[], Any]] = {
    "identity": nn.Identity,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(LEAK),
}
LAST: dict[str, Callable[[], Any]] = {
    "sigmoid": nn.Sigmoid,
    "softmax": lambda: nn.Softmax(dim=1),
    "identity": nn.Identity,
    "exp": Exp,
}


def to_torch(model: Model) -> Any:
    """An equal torch.nn.Sequential on the CPU: X (n, n_features), unscaled, to what `predict_proba` gives; of two
    classes and one output, the probability of the second.

    Its layers are Linear, activation, ..., Linear, output; without the last, `[:-1]`, it gives logits, which torch's
    losses take. The input's scale is multiplied into the first weights. X must be of the type of `model.params`.
    """
    expect_model(model)
    spec, parts = model.spec, []
    for i, (W, b) in enumerate(spec.layers(model.params)):
        linear = nn.Linear(*W.shape, dtype=getattr(torch, W.dtype.name))
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy((W * model.scale if i == 0 else W).T.copy()))
            linear.bias.copy_(torch.from_numpy(b[0].copy()))
        last = i == len(spec.sizes) - 2
        parts += [linear, (LAST[spec.output] if last else HIDDEN[spec.activation])()]
    return nn.Sequential(*parts)


def from_torch(network: Any, classes: Any = None) -> Model:
    """The Model of a torch.nn.Sequential as `to_torch` makes it: Linear and activation in turn, an output last.

    classes are the labels of the outputs, in their order, or for one sigmoid output both labels; None: values.
    Dropout layers are left out, as in eval(). Raises ConfigError for any other module, for layers without a bias, and
    where `classes` are not as many as the outputs.
    """
    if not isinstance(network, nn.Sequential):
        raise ConfigError(f"{type(network).__name__}: expected a torch.nn.Sequential of Linear and activation in turn")
    modules = [m for m in network if not isinstance(m, nn.Dropout)]
    linears, between = modules[::2], modules[1::2]
    if len(linears) != len(between) or not all(isinstance(m, nn.Linear) and m.bias is not None for m in linears):
        raise ConfigError(
            f"{' '.join(type(m).__name__ for m in modules)}: expected Linear with a bias and an activation in turn, "
            "the last of them the output (Identity for values)"
        )
    sizes = (linears[0].in_features, *(m.out_features for m in linears)) if linears else ()
    if not sizes or any(m.in_features != size for m, size in zip(linears, sizes, strict=False)):
        raise ConfigError(f"{network}: expected Linear layers, each of as many inputs as the one before has outputs")
    hidden = {_name(m, HIDDEN) for m in between[:-1]} or {"relu"}
    if len(hidden) > 1:
        raise ConfigError(f"hidden layers of {', '.join(sorted(hidden))}: expected the same activation in each")
    spec = Spec(sizes, hidden.pop(), _name(between[-1], LAST))
    types = {m.weight.dtype for m in linears}
    if len(types) > 1 or not types <= {torch.float32, torch.float64}:
        raise ConfigError(f"weights of {', '.join(map(str, types))}: expected all float32 or all float64")
    layers = [(m.weight.detach().cpu().numpy().T, m.bias.detach().cpu().numpy()) for m in linears]
    return Model(spec, flat(layers), None if classes is None else labels(spec, classes))


def _name(module: Any, known: dict[str, Callable[[], Any]]) -> str:
    """The name of the row that makes a module equal to this one, arguments included. Raises ConfigError."""
    words = repr(module).replace(", inplace=True", "").replace("inplace=True", "").replace("dim=-1", "dim=1")
    for name, make in known.items():
        if repr(make()) == words:
            return name
    raise ConfigError(
        f"{module!r} is not expressed here; expected one of {', '.join(repr(m()) for m in known.values())}"
    )
