"""`fcgpu evaluate` and `fcgpu predict`: apply a model to data."""

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np

from fcgpu.backend import choose
from fcgpu.cli.history import finite
from fcgpu.cli.run_directory import model_file
from fcgpu.cli.summary import quality
from fcgpu.data import is_image_folder, load, load_features, picture_paths
from fcgpu.data.dataset import Dataset
from fcgpu.data.names import check_names
from fcgpu.errors import ConfigError, DataError
from fcgpu.formats.safetensors import load as load_model
from fcgpu.model import confusion
from fcgpu.progress import digits
from fcgpu.streams import plain, show
from fcgpu.train.held_out import Part, with_test_samples
from fcgpu.train.recipe import Recipe
from fcgpu.train.recipe_files import load_recipe

MOST_SHOWN, MOST_LISTED = 20, 1000  # classes of a confusion matrix that is printed; that is in the JSON


def evaluate(args: Namespace) -> int:
    path = model_file(args.model)
    model, backend = load_model(path), choose(args.device)
    recipe = _trained_on(path) if args.data is None else Recipe(data=args.data)
    shape = model.image_shape if is_image_folder(recipe.data) else None
    data = load(recipe.data, image_shape=shape, target_column=recipe.target_column, feature_names=model.feature_names)
    if data.n_features != model.spec.sizes[0]:
        n_features = model.spec.sizes[0]
        unlabelled = " after the label; for samples without labels there is fcgpu predict"
        raise DataError(
            f"{data.name}: {data.n_features} features don't match the model: expected {n_features}"
            + unlabelled * (data.n_features == n_features - 1)
        )
    check_names(data.feature_names, model.feature_names, data.name)
    data = with_test_samples(Part(data), recipe).data
    X, y, split = _part(data, args.split)
    if args.data is not None and data.X_test is None:
        split = None  # whether the model was trained on these is unknown
    y = model.targets(data, y)
    score = model.score_encoded(X, y, device=backend, threads=args.threads)
    result: dict[str, Any] = score._asdict() | {"split": split}
    if model.classes is not None:
        result |= {"classes": list(model.classes), "confusion_matrix": None}
        if len(model.classes) <= (MOST_LISTED if args.json else MOST_SHOWN):
            index = model.predict_index(X, device=backend, threads=args.threads)
            result["confusion_matrix"] = confusion(y, index, len(model.classes)).tolist()
    if args.json:
        print(json.dumps(result | {key: finite(result[key]) for key in ("loss", "r2")}))
    else:
        _show(result, f"{data.name}, {score.samples:,} {f'{split} ' if split else ''}samples")
    return 0


def predict(args: Namespace) -> int:
    path = model_file(args.model)
    model, backend = load_model(path), choose(args.device)
    sources = args.inputs[0] if len(args.inputs) == 1 else args.inputs
    X = load_features(sources, model.spec.sizes[0], image_shape=model.image_shape, feature_names=model.feature_names)
    labels, files = model.predict(X, device=backend, threads=args.threads), picture_paths(sources)
    proba = None
    if args.proba:
        if model.classes is None:
            raise ConfigError("--proba: this model predicts values, not classes; leave it out")
        proba = model.predict_proba(X, device=backend, threads=args.threads)
    if args.json:
        classes = None if model.classes is None else list(model.classes)
        probabilities = None if proba is None else proba.tolist()
        said = {"labels": labels.tolist(), "classes": classes, "probabilities": probabilities}
        print(json.dumps(said | {"files": files if files is None else list(map(str, files))}))
        return 0
    for i, label in enumerate(labels):
        words = [" ".join(f"{v:.9g}" for v in np.atleast_1d(label)) if model.classes is None else plain(label)]
        words += [] if proba is None else [f"{p:.6f}" for p in proba[i]]
        words += [plain(files[i])] if files and len(files) > 1 else []
        print("\t".join(words))
    return 0


def _trained_on(path: Path) -> Recipe:
    """The recipe beside the model. Raises ConfigError if there is none, or it names no data."""
    file = path.with_name("recipe.toml")
    if not file.is_file():
        raise ConfigError(f"{path}: no recipe.toml beside it names the data; give them: fcgpu evaluate MODEL DATA")
    if not (recipe := load_recipe(file)).data:
        raise ConfigError(f"{file}: names no data; give them: fcgpu evaluate MODEL DATA")
    return recipe


def _part(data: Dataset, split: str | None) -> tuple[Any, Any, str | None]:
    if split == "test" and data.X_test is None:
        raise DataError(f"{data.name}: there are no test samples; use --split train")
    split = split or ("train" if data.X_test is None else "test")
    return (data.X_test, data.y_test, split) if split == "test" else (data.X, data.y, split)


def _show(result: dict[str, Any], what: str) -> None:
    from rich.table import Table

    print(f"{plain(what)}: loss {digits(result['loss'])}{quality(result['accuracy'], result['r2'])}")
    if "classes" in result:
        labels = [plain(c) for c in result["classes"]]
        wide = f"the confusion matrix of {len(labels)} classes is too wide to show"
        wide += "; --json has it" if len(labels) <= MOST_LISTED else ""
        if result["confusion_matrix"] is None:
            print(wide)
            return
        table = Table("actual", *labels, title="predicted as", title_justify="left")
        for label, row in zip(labels, result["confusion_matrix"], strict=True):
            table.add_row(label, *(str(n) if n else "." for n in row))
        show(table, wide)
