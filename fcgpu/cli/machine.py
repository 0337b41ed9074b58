"""Device, hardware and versions of packages, for `fcgpu info` and for the result of a run."""

import platform
from importlib import metadata
from typing import Any

from fcgpu.backend import Backend
from fcgpu.version import __version__

PACKAGES = ("numpy", "safetensors", "threadpoolctl", "rich")


def machine(backend: Backend) -> dict[str, Any]:
    """The part of a JSON result that describes the machine."""
    from threadpoolctl import threadpool_info

    return {
        "fcgpu_version": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": backend.device,
        "backend": backend.name,
        "hardware": backend.hardware,
        "why": backend.reason,
        "blas": [f"{b['internal_api']} {b['version']}" for b in threadpool_info() if b["user_api"] == "blas"],
        "packages": {name: version(name) for name in PACKAGES}
        | ({"cupy": backend.xp.__version__} if backend.on_gpu else {}),
    }


def version(package: str) -> str | None:
    """The installed version of a package; None without it."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
