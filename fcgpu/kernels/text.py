"""Kernels that are whole programs: their CUDA C++ stands in files beside this one, and includes nothing."""

from functools import cache
from pathlib import Path

C_TYPES = {
    "bool": "bool", "int8": "signed char", "int16": "short", "int32": "int", "int64": "long long",
    "uint8": "unsigned char", "uint16": "unsigned short", "uint32": "unsigned int", "uint64": "unsigned long long",
    "float32": "float", "float64": "double",
}  # fmt: skip


@cache
def text_of(name: str) -> str:
    """A file of CUDA C++."""
    return (Path(__file__).parent / name).read_text(encoding="ascii")


def program(text: str) -> str:
    """The text with what it asks of a GPU before it."""
    return text_of("ptx.cu") + text


def up(n: int, multiple: int) -> int:
    """The least multiple that is not less than n."""
    return -(-n // multiple) * multiple
