"""Model files: the tensors W1, b1, W2, b2, ... as safetensors, and everything else as JSON in the metadata."""

import operator
import os
from typing import Any

from fcgpu.data.dataset import picture_shape
from fcgpu.errors import CheckpointError
from fcgpu.formats import sealed
from fcgpu.model import Model, expect_model
from fcgpu.params import Spec, aligned
from fcgpu.version import __version__

FORMAT = 2


def save(model: Model, path: str | os.PathLike[str]) -> str:
    """Write a Model to a safetensors file and return the file's SHA-256 (hex). The write is atomic.

    Raises CheckpointError if the file cannot be written; ConfigError if `model` is not a Model.
    """
    expect_model(model)
    about = {
        "format": FORMAT,
        "fcgpu_version": __version__,
        "recipe": model.recipe,
        "sizes": tuple(map(operator.index, model.spec.sizes)),  # JSON takes no numbers of NumPy's
        "activation": model.spec.activation,
        "output": model.spec.output,
        "init": model.spec.init,
        "classes": model.classes,
        "scale": model.scale,
        "image_shape": picture_shape(model.image_shape),
        "feature_names": model.feature_names,
    }
    return sealed.write(path, about, dict(_tensors(model.spec, model.params)))


def load(path: str | os.PathLike[str]) -> Model:
    """Read a Model that `save_model` wrote; its `params` (n_params,) are float32 or float64, on the host.

    Raises CheckpointError, with the path, for a file that is missing, damaged, changed, or not such a model.
    """
    name = os.fspath(path)
    about, tensors = sealed.read(path, "model")
    try:
        if "sizes" not in about:
            raise CheckpointError(f"{name}: no model, but another file of a run; expected its model.safetensors")
        if about["format"] != FORMAT:
            raise CheckpointError(
                f"{name}: format {about['format']} of fcgpu {about['fcgpu_version']}; this is fcgpu {__version__}, "
                f"which reads format {FORMAT}: use the version that wrote it"
            )
        model = _model(about, tensors)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise sealed.damaged(name) from error
    return model


def _model(about: dict[str, Any], tensors: dict[str, Any]) -> Model:
    """The Model with these contents. Raises ValueError, TypeError and others, which `load` catches, if not valid."""
    spec = Spec(tuple(map(operator.index, about["sizes"])), about["activation"], about["output"], about["init"])
    (dtype,) = {tensor.dtype for tensor in tensors.values()}
    if spec.n_params != sum(tensor.size for tensor in tensors.values()):
        raise ValueError(f"{len(tensors)} arrays of {dtype} for a network of {spec.n_params} parameters")
    params = aligned(spec.n_params, dtype)
    for key, view in _tensors(spec, params):
        if view.shape != tensors[key].shape:
            raise ValueError(f"{key} has shape {tensors[key].shape}; expected {view.shape}")
        view[...] = tensors[key]
    classes, shape, names = (
        None if part is None else tuple(part)
        for part in (about["classes"], about["image_shape"], about["feature_names"])
    )
    return Model(spec, params, classes, about["scale"], shape, about["recipe"], names)


def _tensors(spec: Spec, flat: Any) -> list[tuple[str, Any]]:
    """(name, view) pairs in the order of the flat vector: W (n_in, n_out), b (n_out,)."""
    named: list[tuple[str, Any]] = []
    for number, (W, b) in enumerate(spec.layers(flat), 1):
        named += [(f"W{number}", W), (f"b{number}", b[0])]
    return named
