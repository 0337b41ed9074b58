"""fcgpu trains fully-connected networks at the speed of the hardware, with CuPy on a GPU and NumPy without one."""

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
    "train",
]
