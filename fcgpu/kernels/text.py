"""Loads the kernels that are whole programs: their CUDA C++ is in .cu files of this folder, which include no header."""

from functools import cache, lru_cache
from pathlib import Path
from typing import Any

C_TYPES = {
    "bool": "bool", "int8": "signed char", "int16": "short", "int32": "int", "int64": "long long",
    "uint8": "unsigned char", "uint16": "unsigned short", "uint32": "unsigned int", "uint64": "unsigned long long",
    "float32": "float", "float64": "double",
}  # fmt: skip


@cache
def text_of(name: str) -> str:
    """The text of a CUDA C++ file in this folder."""
    return (Path(__file__).parent / name).read_text(encoding="ascii")


def program(text: str) -> str:
    """The text, with the device functions of ptx.cu before it."""
    return text_of("ptx.cu") + text


@lru_cache(maxsize=32)
def module(written: str, xp: Any) -> Any:
    """A module of a program's kernels, compiled when one is first used; CuPy caches it on disk."""
    return xp.RawModule(code=written, options=("--std=c++17",))


def round_up(n: int, multiple: int) -> int:
    """n rounded up to a multiple."""
    return -(-n // multiple) * multiple
