"""Recipes as TOML files, those in the package and others."""

from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from fcgpu.errors import ConfigError
from fcgpu.suggest import choices
from fcgpu.train.recipe import Recipe, refuse_unknown

MAX_FILE = 1 << 20  # bytes of a recipe that are read


def recipe_names() -> list[str]:
    """The names of the recipes in the package, sorted."""
    return sorted(p.name.removesuffix(".toml") for p in _shipped().iterdir() if p.name.endswith(".toml"))


def load_recipe(source: str | Path) -> Recipe:
    """Load a recipe of the package by name, or a TOML file by its path: a source that ends in .toml or has a slash.

    Raises ConfigError for an unknown name, a file that cannot be read, invalid TOML (with the line), an unknown key,
    and a value that is not legal.
    """
    text = str(source)
    if not text.endswith(".toml") and Path(text).name == text:
        if text not in recipe_names():
            raise ConfigError(f"recipe={text!r} is not known; {choices(text, recipe_names())} (a path ends in .toml)")
        return from_toml(f"recipe {text}", (_shipped() / f"{text}.toml").read_bytes())
    try:
        if Path(text).is_fifo():
            raise ConfigError(f"{text}: a pipe; expected a TOML file")
        with open(text, "rb") as file:
            content = file.read(MAX_FILE + 1)
    except OSError as error:
        raise ConfigError(
            f"{text}: the recipe cannot be read ({error.strerror}); give the path of a TOML file, or one of "
            + ", ".join(recipe_names())
        ) from None
    if len(content) > MAX_FILE:
        raise ConfigError(f"{text}: more than {MAX_FILE} bytes; a recipe is a short TOML file")
    return from_toml(text, content)


def to_toml(recipe: Recipe) -> str:
    """The recipe as TOML, with every key; `from_toml` reads it back to an equal recipe."""
    import json

    lines = []
    for f in fields(recipe):
        value = getattr(recipe, f.name)
        lines.append(f"{f.name} = {json.dumps(value, ensure_ascii=False)}".replace("\x7f", "\\u007f"))
    return "\n".join(lines) + "\n"


def from_toml(name: str, content: bytes) -> Recipe:
    """The recipe in a TOML file's `content`; `name` is for error messages. Raises ConfigError as `load_recipe`."""
    import tomllib

    try:
        is_utf16 = content[:2] in (b"\xff\xfe", b"\xfe\xff")  # as Windows PowerShell writes redirected output
        table = tomllib.loads(content.decode("utf-16" if is_utf16 else "utf-8-sig"))
    except (ValueError, RecursionError) as error:  # ValueError: not TOML, not UTF-8, a number of 5000 digits
        raise ConfigError(f"{name}: not TOML ({error})") from None
    refuse_unknown(table, name)
    try:
        return Recipe(**table)
    except ValueError as error:  # a ConfigError, or a number too long to show
        raise ConfigError(f"{name}: {error}") from None


@cache
def _shipped() -> Any:
    from importlib import resources

    return resources.files("fcgpu") / "recipes"
