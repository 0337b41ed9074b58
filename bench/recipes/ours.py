"""fcgpu: batches, Adam and a cosine, by the public generator of events."""

import fcgpu
from bench import clocks

TITLE = "fcgpu"
PACKAGES = ("fcgpu", "numpy", "cupy")
CLOCKS = {"cpu": clocks.host, "cuda": clocks.cupy_events}
OPTIONS = {"batch": 256, "epochs": 12, "optimizer": "adam", "learning_rate": 0.003, "schedule": "cosine"}
RECIPE = "relu, softmax, He; Adam 0.003, cosine over 12 epochs, batches of 256"


def train(data, seed):
    for event in fcgpu.train(data, device="auto", hidden=(128, 64), seed=seed, **OPTIONS):
        if isinstance(event, fcgpu.EpochEnded):
            yield event.model().predict
