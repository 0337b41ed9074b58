"""fcgpu with a learning rate that is 1 % off: as fast, but not the same work, so it must be refused."""

from dataclasses import replace

from bench.peers import ours

TITLE, PACKAGES, CLOCKS = "fcgpu with another learning rate", ours.PACKAGES, {"cpu": ours.CLOCKS["cpu"]}


def setup(work):
    return ours.setup(replace(work, learning_rate=1.01 * work.learning_rate))
