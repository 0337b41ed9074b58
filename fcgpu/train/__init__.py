"""Training: from a recipe and a dataset to a model, as a generator of events."""

from fcgpu.train.loop import train

__all__ = ["train"]
