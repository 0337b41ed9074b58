"""Converts a Model to a torch.nn.Sequential, and back. Needs PyTorch. For a GPU: `to_torch(model).cuda()`."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from fcgpu.data.labels import as_classes
from fcgpu.errors import ConfigError
from fcgpu.exchange import flat
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


def to_torch(model: Model) -> nn.Sequential:
    """A torch.nn.Sequential on the CPU with the predictions of `model`; parameters are copied.

    It maps unscaled X (n, n_features), in the dtype of `model.params`, to what `model.predict_proba` returns; for two
    classes and a single output, to the probability (n, 1) of the second class. The scale is multiplied into the first
    weights. Its layers are Linear, activation, ..., Linear, output; `network[:-1]` gives the logits, which PyTorch's
    losses take. Raises ConfigError if `model` is not a Model.
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
    """The Model of a torch.nn.Sequential of alternating Linear layers and activations, the last being the output.

    The parameters are copied in their dtype, float32 or float64.
    classes : the labels of the outputs, in their order; both labels for a single sigmoid; None for a regression.
    Dropout layers are left out, as in eval(). Raises ConfigError for any other module, for Linear layers without a
    bias, for hidden layers with different activations, and if the number of classes does not fit the outputs; DataError
    for labels that are not whole numbers or text.
    """
    if not isinstance(network, nn.Sequential):
        raise ConfigError(f"{type(network).__name__}: expected a torch.nn.Sequential of Linear and activation in turn")
    modules = [m for m in network if not isinstance(m, nn.Dropout)]
    linears, between = modules[::2], modules[1::2]
    if len(linears) != len(between) or not all(isinstance(m, nn.Linear) and m.bias is not None for m in linears):
        raise ConfigError(
            f"{' '.join(type(m).__name__ for m in modules)}: expected Linear with a bias and an activation in turn, "
            "the last of them the output: append Softmax(dim=1), Sigmoid(), or Identity() for values"
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
    return Model(spec, flat(layers), None if classes is None else as_classes(classes, "classes"))


def _name(module: Any, known: dict[str, Callable[[], Any]]) -> str:
    """The name in `known` of a module equal to this one, arguments included. Raises ConfigError if there is none."""
    words = repr(module).replace(", inplace=True", "").replace("inplace=True", "").replace("dim=-1", "dim=1")
    for name, make in known.items():
        if repr(make()) == words:
            return name
    raise ConfigError(f"{module!r} is not supported; expected one of {', '.join(repr(m()) for m in known.values())}")
