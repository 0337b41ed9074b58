"""Training as most people do it, fcgpu against PyTorch and JAX: standardised float features, relu, softmax, Adam."""

from collections.abc import Iterator
from typing import Any

from bench.cases import ADAM
from bench.gpu import versus

TITLE, LIMIT = "Adam on float features", 120.0


def rows(device: str, limit: float = LIMIT) -> Iterator[dict[str, Any]]:
    yield from versus.rows(device, ADAM, versus.quick("bench.adam"), limit=limit)
