"""A page to draw on: the network itself in a fragment of HTML, which loads nothing and sends nothing."""

import base64
import json
import re
from pathlib import Path

from fcgpu.kernels.activations import LEAK
from fcgpu.model import Model

HERE = Path(__file__).parent
LARGEST = 4 << 20  # parameters: 16 MiB of float32, 22 MiB as text; a browser still opens that at once
MOST_VALUES = 12  # of a regression: they are shown one by one


def drawing(model: Model, ink: float | None = None) -> str:
    """A fragment of HTML with its own style and script, to draw a sample and watch the prediction.

    For a model whose samples were grey pictures, image_shape (height, width), else empty; empty too for more than 12
    values without classes, and where the parameters would make a page too large to open (4 Mi).
    28x28 pictures get the preparation of MNIST's digits, others are the drawing as it is, shrunk. `ink` is the value,
    before the model's scale, of a pixel wholly under the pen; None: what the scale makes 1, or 255 where it is 1.
    The parameters stand there in their own type, so the fragment computes what `predict_proba` does, in float64.
    """
    spec, shape = model.spec, model.image_shape
    values = spec.sizes[-1] if model.classes is None else 0
    if shape is None or len(shape) != 2 or values > MOST_VALUES or spec.n_params > LARGEST:
        return ""
    dtype = model.params.dtype.newbyteorder("<")
    network = {
        "sizes": spec.sizes,
        "activation": spec.activation,
        "leak": LEAK,
        "output": spec.output,
        "scale": model.scale,
        "shape": shape,
        "ink": ink or (255.0 if model.scale == 1 else 1 / model.scale),
        "classes": None if model.classes is None else [str(c) for c in model.classes],
        "dtype": model.params.dtype.name,
        "params": base64.b64encode(model.params.astype(dtype).tobytes()).decode(),
    }
    # A class may be any text: without "<" none of it ends the script element.
    words = json.dumps(network).replace("<", "\\u003c")
    parts = {"network": words} | {kind: (HERE / f"drawing.{kind}").read_text("utf-8") for kind in ("css", "js")}
    return re.sub(r"{{(\w+)}}", lambda place: parts[place[1]], (HERE / "drawing.html").read_text("utf-8"))
