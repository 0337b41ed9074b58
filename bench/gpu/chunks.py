"""A full batch at once or in tiles: with tiles, the second read of the features may come from the cache."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any
from unittest.mock import patch

import fcgpu
from bench.gpu.clock import seconds_of
from fcgpu.train import plan_gpu

TITLE, LIMIT = "full batches in tiles of fewer rows", 60.0
TILES = (65_536, 30_000, 15_000, 7_500, 3_750)
PRECISIONS = ("float32", "bfloat16")
STEPS = 20


def rows(device: str, tiles: Sequence[int] = TILES, samples: int = 60_000) -> Iterator[dict[str, Any]]:
    """Seconds of a step for each tile size; see GPU_TILE_ROWS in fcgpu/train/plan_gpu.py."""
    backend, digits = fcgpu.choose(device), fcgpu.load("mnist")
    data = fcgpu.dataset(digits.X[:samples], digits.y[:samples], scale=digits.scale)
    for precision in PRECISIONS if backend.on_gpu else PRECISIONS[:1]:
        for tile in tiles:
            with patch.object(plan_gpu, "GPU_TILE_ROWS", tile):
                events = fcgpu.train(
                    data, device=backend, optimizer="gradient_descent", schedule="constant", epochs=100_000,
                    precision=precision,
                )  # fmt: skip
                cut = next(events).plan
                seconds = seconds_of(lambda e=events: list(islice(e, STEPS)), backend) / STEPS
                yield {"precision": precision, "tile": cut.tile, "seconds": seconds}
                events.close()
