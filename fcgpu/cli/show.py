"""`fcgpu info` and `fcgpu recipes`: what there is."""

import json
import platform
from argparse import Namespace
from importlib import metadata
from typing import Any

from rich.table import Table

from fcgpu.backend import choose, cpu_count
from fcgpu.streams import show
from fcgpu.train.capture import why_eager
from fcgpu.train.plan import readable
from fcgpu.train.recipe import KEYS, load_recipe, recipe_names, to_toml
from fcgpu.version import __version__

EXTRAS = {
    "cuda12": ("cupy-cuda12x", "train on NVIDIA GPUs, CUDA 12"),
    "cuda13": ("cupy-cuda13x", "train on NVIDIA GPUs, CUDA 13"),
    "rocm7": ("cupy-rocm-7-0", "train on AMD GPUs"),
    "images": ("Pillow", "read folders of images"),
    "onnx": ("onnx", "export models as ONNX"),
}


def info(args: Namespace) -> int:
    from threadpoolctl import threadpool_info

    backend = choose(args.device)
    packages = {name: _version(name) for name in ("numpy", "safetensors", "threadpoolctl", "rich")}
    result: dict[str, Any] = {
        "fcgpu_version": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": backend.device,
        "backend": backend.name,
        "hardware": backend.hardware,
        "why": backend.reason,
        "capture": (why_eager(backend) or "CUDA graphs") if backend.on_gpu else None,
        "memory_to_plan_with": backend.memory(),
        "cpu_threads": cpu_count(),
        "blas": [f"{b['internal_api']} {b['version']}" for b in threadpool_info() if b["user_api"] == "blas"],
        "packages": packages,
        "extras": {extra: _version(package) for extra, (package, _) in EXTRAS.items()},
    }
    if args.json:
        print(json.dumps(result))
        return 0
    table = Table(show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("fcgpu", f"{__version__}, Python {result['python']}, {result['system']}")
    table.add_row("device", f"{backend.device}, {backend.hardware} ({backend.reason})")
    if backend.on_gpu:
        table.add_row("steps", f"eager: {why}" if (why := why_eager(backend)) else "recorded in CUDA graphs")
    table.add_row("memory", f"{readable(result['memory_to_plan_with'])} to plan with")
    table.add_row("CPU", f"{cpu_count()} threads, BLAS {', '.join(result['blas']) or 'unknown'}")
    table.add_row("packages", ", ".join(f"{name} {version}" for name, version in packages.items()))
    for extra, (package, use) in EXTRAS.items():
        version = result["extras"][extra]
        has = f"{package} {version}" if version else f"not installed: pip install 'fcgpu[{extra}]'"
        table.add_row(extra, f"{has} ({use})")
    show(table)
    return 0


def recipes(args: Namespace) -> int:
    if args.name is not None:
        recipe = load_recipe(args.name)
        print(json.dumps({key: getattr(recipe, key) for key in KEYS}) if args.json else to_toml(recipe).rstrip())
    elif args.keys:
        _keys(as_json=args.json)
    elif args.json:
        print(json.dumps({name: load_recipe(name).description for name in recipe_names()}))
    else:
        table = Table("recipe", "what it trains", "data")
        for name in recipe_names():
            recipe = load_recipe(name)
            table.add_row(name, recipe.description, recipe.data or "given as DATA")
        show(table)
        print("fcgpu train --recipe NAME runs one, fcgpu recipes NAME prints it, fcgpu recipes --keys explains")
    return 0


def _keys(*, as_json: bool) -> None:
    rows = [(key, f.metadata["kind"].words, f.default, f.metadata["help"]) for key, f in KEYS.items()]
    if as_json:
        print(json.dumps({key: {"takes": t, "default": d, "meaning": m} for key, t, d, m in rows}))
        return
    table = Table("key", "takes", "default", "meaning")
    for key, takes, default, meaning in rows:
        table.add_row(key, takes, json.dumps(default), meaning)
    show(table)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
