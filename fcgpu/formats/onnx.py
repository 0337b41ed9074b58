"""Export of a model as ONNX, for programs without fcgpu. Needs the extra `onnx`.

The graph is the forward pass: float32, with the input's scale as its first node, for any number of rows. The metadata
hold the rest: classes and image shape as JSON, the name of the recipe and of the output as text.
Operators: https://onnx.ai/onnx/operators/, opset 17, which every runtime since ONNX 1.12 reads.
"""

import json
import os
from typing import Any

import numpy as np

from fcgpu.errors import ConfigError, MissingExtraError
from fcgpu.formats.atomic import write_atomically
from fcgpu.kernels.activations import LEAK
from fcgpu.kernels.losses import OUTPUTS
from fcgpu.model import Model, expect_model
from fcgpu.version import __version__

OPSET, IR_VERSION = 17, 8  # both of ONNX 1.12
LARGEST = 2**31 - 2**20  # bytes of parameters: a protobuf message has at most 2 GiB, and the rest of the graph is small

OPERATORS: dict[str, tuple[str, dict[str, Any]]] = {
    "identity": ("Identity", {}),
    "sigmoid": ("Sigmoid", {}),
    "tanh": ("Tanh", {}),
    "relu": ("Relu", {}),
    "leaky_relu": ("LeakyRelu", {"alpha": LEAK}),
    "logistic": ("Sigmoid", {}),
    "softmax": ("Softmax", {"axis": 1}),
    "exp": ("Exp", {}),
}


def save(model: Model, path: str | os.PathLike[str]) -> str:
    """Write a model as an ONNX file and return the file's SHA-256 (hex). Equal models give equal files.

    The graph (opset 17) maps X (n, n_features) float32, unscaled, to what `model.predict_proba` returns, in float32:
    "probabilities" (n, n_classes) or, if the model has no classes, "values" (n, n_outputs). Classes and image shape are
    in the metadata. The write is atomic.

    Raises ConfigError if `model` is not a Model, if float32 cannot hold a parameter, or above 2 GiB of parameters;
    MissingExtraError without onnx; CheckpointError if the file cannot be written.
    """
    import hashlib

    content = to_onnx(model).SerializeToString(deterministic=True)
    write_atomically(path, content)
    return hashlib.sha256(content).hexdigest()


def to_onnx(model: Model) -> Any:
    """The onnx.ModelProto of a model: from X (n, n_features) float32, unscaled, to `predict_proba`, in float32.

    The result is called "probabilities" if the model has classes, else "values". float64 parameters are rounded.
    Raises ConfigError and MissingExtraError as `save`.
    """
    try:
        from onnx import TensorProto, checker, helper, numpy_helper
    except ModuleNotFoundError as error:
        raise MissingExtraError("the export to ONNX", error.name, "onnx") from None

    expect_model(model)
    spec = model.spec
    flat, scale = _float32(model)
    result = "values" if model.classes is None else "probabilities"
    both = model.classes is not None and spec.sizes[-1] == 1  # one output for two classes
    nodes, constants = [helper.make_node("Mul", ["X", "scale"], ["A0"])], [("scale", scale)]
    activations = [spec.activation] * (len(spec.sizes) - 2) + [OUTPUTS[spec.output].prediction]
    for i, ((W, b), activation) in enumerate(zip(spec.layers(flat), activations, strict=True), start=1):
        constants += [(f"W{i}", W), (f"b{i}", b[0])]
        nodes.append(helper.make_node("Gemm", [f"A{i - 1}", f"W{i}", f"b{i}"], [f"Z{i}"]))
        operator, attributes = OPERATORS[activation]
        output = result if i == len(activations) and not both else f"A{i}"
        nodes.append(helper.make_node(operator, [f"Z{i}"], [output], **attributes))
    if both:
        second = f"A{len(activations)}"
        constants.append(("one", np.float32(1)))
        nodes.append(helper.make_node("Sub", ["one", second], ["first"]))
        nodes.append(helper.make_node("Concat", ["first", second], [result], axis=1))
    graph = helper.make_graph(
        nodes,
        "fcgpu",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, ["n", spec.sizes[0]])],
        [helper.make_tensor_value_info(result, TensorProto.FLOAT, ["n", 2 if both else spec.sizes[-1]])],
        [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in constants],
    )
    made = helper.make_model(
        graph,
        producer_name="fcgpu",
        producer_version=__version__,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    about = {
        "classes": json.dumps(model.classes),
        "image_shape": json.dumps(model.image_shape),
        "recipe": model.recipe,
        "output": spec.output,
    }
    helper.set_model_props(made, about)
    checker.check_model(made, full_check=True)
    return made


def _float32(model: Model) -> tuple[Any, Any]:
    """(parameters, scale) in float32. Raises ConfigError if they do not fit."""
    if 4 * model.spec.n_params > LARGEST:
        raise ConfigError(
            f"a network of {model.spec.n_params:,} parameters does not fit into an ONNX file of at most 2 GiB; "
            "expected fewer than 536,000,000: keep it as safetensors"
        )
    with np.errstate(over="ignore"):
        flat, scale = model.params.astype(np.float32), np.float32(model.scale)
    if not np.isfinite(flat).all() or not np.isfinite(scale):
        raise ConfigError(
            "the model has a parameter that float32 cannot hold, and its ONNX graph is of float32; "
            "expected finite numbers below 3.4e38: keep it as safetensors"
        )
    return flat, scale
