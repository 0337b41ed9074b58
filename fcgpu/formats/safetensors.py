"""Models on disk: the tensors W1, b1, W2, b2, ... as safetensors, everything else as JSON in its metadata.

The metadata is one entry, "fcgpu", so that equal models are equal files. Its "sha256" covers the rest of the
metadata and every tensor: a file that was changed by one bit does not load.
"""

import os
from typing import Any

import numpy as np

from fcgpu.errors import CheckpointError, ConfigError
from fcgpu.formats.atomic import write_atomically
from fcgpu.model import Model
from fcgpu.params import Spec
from fcgpu.version import __version__

FORMAT = 1
TYPES = ("float32", "float64")


def save(model: Model, path: str | os.PathLike[str]) -> str:
    """Write the model whole or not at all, and return the SHA-256 of the file. Raises CheckpointError."""
    import hashlib
    import json

    from safetensors.numpy import save as to_bytes

    about = {
        "format": FORMAT,
        "fcgpu_version": __version__,
        "recipe": model.recipe,
        "sizes": list(model.spec.sizes),
        "activation": model.spec.activation,
        "output": model.spec.output,
        "init": model.spec.init,
        "classes": None if model.classes is None else list(model.classes),
        "scale": model.scale,
        "image_shape": None if model.image_shape is None else list(model.image_shape),
    }
    tensors = {name: np.ascontiguousarray(view) for name, view in _tensors(model.spec, model.params)}
    about["sha256"] = _digest(about, tensors)
    content = to_bytes(tensors, metadata={"fcgpu": json.dumps(about, sort_keys=True)})
    write_atomically(path, content)
    return hashlib.sha256(content).hexdigest()


def load(path: str | os.PathLike[str]) -> Model:
    """Read what `save` wrote. Raises CheckpointError, with the path, for anything else."""
    from safetensors import SafetensorError, safe_open

    name = os.fspath(path)
    try:
        with safe_open(name, framework="numpy") as file:
            metadata = file.metadata() or {}
            if "fcgpu" not in metadata:
                raise CheckpointError(f"{name}: a safetensors file of another program; expected one of fcgpu train")
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError:
        raise CheckpointError(f"{name}: no such model file; fcgpu train writes one into its run directory") from None
    except OSError as error:
        raise CheckpointError(
            f"{name}: cannot be read ({error.strerror or error}); check the path and your right to read it"
        ) from None
    except (SafetensorError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{name}: not a whole safetensors file ({error}); it is truncated, damaged or of another kind: "
            "copy it again or train anew"
        ) from None
    return _checked(name, metadata["fcgpu"], tensors)


def _checked(name: str, text: str, tensors: dict[str, Any]) -> Model:
    import json

    damaged = f"{name}: the contents do not match their SHA-256; the file was changed or damaged: copy it again"
    try:
        about = json.loads(text)
        canonical = text == json.dumps(about, sort_keys=True)
        if about.pop("sha256") != _digest(about, tensors) or not canonical:
            raise CheckpointError(damaged)
        if about["format"] != FORMAT:
            raise CheckpointError(
                f"{name}: format {about['format']} of fcgpu {about['fcgpu_version']}; this is fcgpu {__version__}, "
                f"which reads format {FORMAT}: use the version that wrote it"
            )
        spec = Spec(tuple(about["sizes"]), about["activation"], about["output"], about["init"])
        (dtype,) = {tensor.dtype for tensor in tensors.values()}
        if dtype.name not in TYPES or spec.n_params != sum(tensor.size for tensor in tensors.values()):
            raise CheckpointError(damaged)
        params = np.empty(spec.n_params, dtype)
        for key, view in _tensors(spec, params):
            view[...] = tensors[key]
        classes, shape = about["classes"], about["image_shape"]
        return Model(
            spec,
            params,
            None if classes is None else tuple(classes),
            about["scale"],
            None if shape is None else tuple(shape),
            about["recipe"],
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ConfigError) as error:
        raise CheckpointError(damaged) from error


def _tensors(spec: Spec, flat: Any) -> list[tuple[str, Any]]:
    """Names and views, in the order of the flat vector; biases as rows of one dimension."""
    named: list[tuple[str, Any]] = []
    for number, (W, b) in enumerate(spec.layers(flat), 1):
        named += [(f"W{number}", W), (f"b{number}", b[0])]
    return named


def _digest(about: dict[str, Any], tensors: dict[str, Any]) -> str:
    import hashlib
    import json

    sha = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for key in sorted(tensors):
        sha.update(f"{key} {tensors[key].dtype} {tensors[key].shape}".encode())
        sha.update(np.ascontiguousarray(tensors[key]).tobytes())
    return sha.hexdigest()
