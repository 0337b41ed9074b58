"""Rows of features, and columns of weights, as small pictures inside the page."""

import base64
import io
from typing import Any

import numpy as np

from fcgpu.data.dataset import Dataset
from fcgpu.report.page import Markup, element

LARGEST = 96  # pixels of a side; larger pictures are shrunk
MOST_WEIGHTS = 64  # units whose weights are shown
PIXELATED = 40  # pixels of a side; pictures up to this are shown without smoothing


def samples(data: Dataset, shape: tuple[int, ...], X: Any, names: list[str]) -> list[Markup]:
    """Pictures of the rows of X (n, n_features); `names` describe them."""
    some = data.X[:1000]
    low, high = (0.0, 1 / data.scale) if data.X.dtype == np.uint8 else (float(some.min()), float(some.max()))
    X = 255 * (X.astype(np.float64) - low) / (high - low or 1.0)
    pixels = np.clip(np.rint(X), 0, 255).astype(np.uint8).reshape(-1, *shape)
    return [_picture(each, name) for each, name in zip(pixels, names, strict=True)]


def weights(W: Any, shape: tuple[int, ...], names: list[str]) -> list[Markup]:
    """Pictures of the columns of W (n_features, n), each scaled by its own largest weights.

    Weights for grey pictures are orange if positive, blue if negative, and the fainter the nearer to 0. Weights for
    colour pictures are colours, with grey for 0.
    """
    W = W.astype(np.float64)
    W = np.clip(W / np.maximum(np.quantile(np.abs(W), 0.995, axis=0), 1e-30), -1, 1).T.reshape(-1, *shape)
    if len(shape) == 3:
        pixels = np.rint(127.5 * (1 + W)).astype(np.uint8)
    else:
        colour = np.where(W[..., None] > 0, (217, 88, 15), (56, 116, 217))  # both show on white and on black
        pixels = np.concatenate([colour, np.rint(255 * np.abs(W[..., None]))], axis=-1).astype(np.uint8)
    return [_picture(each, name) for each, name in zip(pixels, names, strict=True)]


def _picture(pixels: Any, name: str) -> Markup:
    from PIL import Image  # matplotlib depends on it

    image = Image.fromarray(pixels)
    small = max(image.size) <= PIXELATED
    image.thumbnail((LARGEST, LARGEST))
    written = io.BytesIO()
    image.save(written, "PNG", optimize=True)
    source = "data:image/png;base64," + base64.b64encode(written.getvalue()).decode()
    return element("img", src=Markup(source), alt=name, class_="pixels" if small else None)
