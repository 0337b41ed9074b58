"""`fcgpu info` and `fcgpu recipes`: what this machine and the package offer."""

import json
from argparse import Namespace

from rich.table import Column, Table

from fcgpu.backend import choose
from fcgpu.cli.machine import machine, version
from fcgpu.host import cpu_count, readable
from fcgpu.kernels.compiled import in_words
from fcgpu.streams import show
from fcgpu.train.capture import why_eager
from fcgpu.train.recipe import KEYS
from fcgpu.train.recipe_files import load_recipe, recipe_names, to_toml

EXTRAS = {
    "cuda12": ("cupy-cuda12x", "train on NVIDIA GPUs, CUDA 12"),
    "cuda13": ("cupy-cuda13x", "train on NVIDIA GPUs, CUDA 13"),
    "images": ("Pillow", "read folders of images"),
    "sklearn": ("scikit-learn", "MLPClassifier and MLPRegressor"),
    "torch": ("torch", "to_torch and from_torch"),
    "onnx": ("onnx", "export models as ONNX"),
    "report": ("matplotlib", "training reports: fcgpu report RUN_DIR"),
    "tensorboard": ("tensorboardX", "fcgpu train --tensorboard"),
}


def info(args: Namespace) -> int:
    backend = choose(args.device)
    why = why_eager(backend) if backend.on_gpu else ""
    result = machine(backend) | {
        "capture": (why or "CUDA graphs") if backend.on_gpu else None,
        "memory_to_plan_with": backend.memory(),
        "cpu_threads": cpu_count(),
        "cpu_kernels": in_words(),
        "extras": {extra: version(package) for extra, (package, _) in EXTRAS.items()},
    }
    if args.json:
        print(json.dumps(result))
        return 0
    table = Table(show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("fcgpu", f"{result['fcgpu_version']}, Python {result['python']}, {result['system']}")
    table.add_row("device", f"{backend.device}, {backend.hardware} ({backend.reason})")
    if backend.on_gpu:
        table.add_row("steps", f"eager: {why}" if why else "recorded in CUDA graphs")
    table.add_row("memory", f"{readable(result['memory_to_plan_with'])} to plan with")
    table.add_row("CPU", f"{cpu_count()} threads, BLAS {', '.join(result['blas']) or 'unknown'}, kernels {in_words()}")
    table.add_row("packages", ", ".join(f"{name} {its}" for name, its in result["packages"].items()))
    for extra, (package, use) in EXTRAS.items():
        found = result["extras"][extra]
        has = f"{package} {found}" if found else f'not installed: pip install "fcgpu[{extra}]"'
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
        table = Table(*(Column(head, overflow="fold") for head in ("recipe", "what it trains", "data")))
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
    table = Table(*(Column(head, overflow="fold") for head in ("key", "takes", "default", "meaning")))
    for key, takes, default, meaning in rows:
        table.add_row(key, takes, json.dumps(default), meaning)
    show(table)
