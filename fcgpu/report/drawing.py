"""A canvas to draw on: an HTML fragment that contains the network, and loads and sends nothing."""

import base64
import json
import re
from pathlib import Path

from fcgpu.kernels.activations import LEAK
from fcgpu.model import Model

HERE = Path(__file__).parent
LARGEST = 4 << 20  # parameters: 16 MiB of float32, 22 MiB as text; a browser still opens that at once
MOST_VALUES = 12  # of a regression, because each is shown


def drawing(model: Model, ink: float | None = None) -> str:
    """An HTML fragment for a page of `page.py`, to draw a sample and watch the prediction.

    It is "" unless image_shape is (height, width), for a regression of more than 12 values, and for more than 4 Mi
    parameters, which would make the page too large.

    A drawing for 28x28 pixels is prepared as MNIST's digits were; for other sizes it is only shrunk.
    ink : the unscaled value of a pixel that is wholly under the pen; None for 1 / scale, or 255 if the scale is 1.
    The parameters are embedded in their own dtype, and the fragment computes `predict_proba` in float64.
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
    # A class may be any text; "<" is replaced, so that no class can end the script element.
    words = json.dumps(network).replace("<", "\\u003c")
    parts = {"network": words} | {kind: (HERE / f"drawing.{kind}").read_text("utf-8") for kind in ("css", "js")}
    return re.sub(r"{{(\w+)}}", lambda place: parts[place[1]], (HERE / "drawing.html").read_text("utf-8"))
