"""fcgpu: mini-batches, Adam, a warm-up and a cosine schedule, through the public generator of events.

Tried, with three or four seeds each: batches of 64 to 512, learning rates 0.002 to 0.01, 4 to 12 epochs. This is the
shortest run that ended above 98 % for every seed; without the warm-up 7 epochs were needed.
"""

import fcgpu
from bench import clocks

TITLE = "fcgpu"
PACKAGES = ("fcgpu", "numpy", "cupy")
CLOCKS = {"cpu": clocks.host, "cuda": clocks.cupy_events}
OPTIONS = {"batch": 256, "epochs": 6, "optimizer": "adam", "learning_rate": 0.01, "schedule": "cosine", "warmup": 1}
RECIPE = "relu, softmax, He; Adam 0.01 with a warm-up of 1 epoch and a cosine over 6, batches of 256"


def train(data, seed):
    for event in fcgpu.train(data, device="auto", hidden=(128, 64), seed=seed, **OPTIONS):
        if isinstance(event, fcgpu.EpochEnded):
            yield event.model().predict
