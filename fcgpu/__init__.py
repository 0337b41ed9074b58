"""fcgpu trains fully-connected networks at the speed of the hardware, with CuPy on a GPU and NumPy without one."""

from typing import Any

from fcgpu.backend import Backend, choose
from fcgpu.data import load
from fcgpu.data.dataset import Dataset, dataset
from fcgpu.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    DeviceError,
    DivergenceError,
    FcgpuError,
    MissingExtraError,
)
from fcgpu.formats.onnx import save as save_onnx
from fcgpu.formats.safetensors import load as load_model
from fcgpu.formats.safetensors import save as save_model
from fcgpu.model import Model, Score
from fcgpu.params import Spec
from fcgpu.train import train
from fcgpu.train.events import EpochEnded, Finished, Started
from fcgpu.train.recipe import Recipe, load_recipe, recipe_names
from fcgpu.version import __version__

__all__ = [
    "Backend",
    "CheckpointError",
    "ConfigError",
    "DataError",
    "Dataset",
    "DeviceError",
    "DivergenceError",
    "EpochEnded",
    "FcgpuError",
    "Finished",
    "MLPClassifier",
    "MLPRegressor",
    "MissingExtraError",
    "Model",
    "Recipe",
    "Score",
    "Spec",
    "Started",
    "__version__",
    "choose",
    "dataset",
    "load",
    "load_model",
    "load_recipe",
    "recipe_names",
    "save_model",
    "save_onnx",
    "train",
]


def __getattr__(name: str) -> Any:
    """The estimators are imported when they are asked for: they need scikit-learn, the rest does not."""
    if name not in ("MLPClassifier", "MLPRegressor"):
        raise AttributeError(f"module 'fcgpu' has no attribute {name!r}")
    try:
        from fcgpu import estimator
    except ModuleNotFoundError as error:
        if error.name not in ("sklearn", "scipy", "joblib"):
            raise
        raise MissingExtraError(f"fcgpu.{name}", "scikit-learn", "sklearn") from None
    return getattr(estimator, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
