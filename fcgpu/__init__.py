"""fcgpu trains fully-connected networks, with CuPy on a GPU and NumPy without one."""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

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
from fcgpu.train.recipe import Recipe
from fcgpu.train.recipe_files import load_recipe, recipe_names
from fcgpu.train.state import State
from fcgpu.version import __version__

if TYPE_CHECKING:  # so that editors know their parameters
    from fcgpu.estimator import MLPClassifier, MLPRegressor
    from fcgpu.exchange.sklearn import from_sklearn, to_sklearn
    from fcgpu.exchange.torch import from_torch, to_torch

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
    "State",
    "__version__",
    "choose",
    "dataset",
    "from_sklearn",
    "from_torch",
    "load",
    "load_model",
    "load_recipe",
    "recipe_names",
    "save_model",
    "save_onnx",
    "to_sklearn",
    "to_torch",
    "train",
]


# Names that need another library: (module, the library's name for pip, fcgpu's extra, named as the import is).
LAZY = {
    "MLPClassifier": ("fcgpu.estimator", "scikit-learn", "sklearn"),
    "MLPRegressor": ("fcgpu.estimator", "scikit-learn", "sklearn"),
    "from_sklearn": ("fcgpu.exchange.sklearn", "scikit-learn", "sklearn"),
    "to_sklearn": ("fcgpu.exchange.sklearn", "scikit-learn", "sklearn"),
    "from_torch": ("fcgpu.exchange.torch", "torch", "torch"),
    "to_torch": ("fcgpu.exchange.torch", "torch", "torch"),
}


def _installed(library: str) -> bool:
    try:
        return find_spec(library) is not None
    except (ImportError, ValueError):
        return False


# A star import, help() and tab completion ask for every name in __all__: it leaves out those that would raise.
__all__[:] = [name for name in __all__ if name not in LAZY or _installed(LAZY[name][2])]


def __getattr__(name: str) -> Any:
    """Import the names of LAZY on first use, so that `import fcgpu` does not need their libraries."""
    if name not in LAZY:
        raise AttributeError(f"module 'fcgpu' has no attribute {name!r}")
    module, package, extra = LAZY[name]
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name not in (extra, "scipy", "joblib"):
            raise
        raise MissingExtraError(f"fcgpu.{name}", package, extra) from None


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
