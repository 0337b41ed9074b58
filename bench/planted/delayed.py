"""fcgpu with each call prolonged by the fraction DELAY: the measured slowdown must be that, no more and no less."""

import time

from bench.peers import ours

TITLE, PACKAGES, CLOCKS = "fcgpu with a planted delay", ours.PACKAGES, {"cpu": ours.CLOCKS["cpu"]}
DELAY = 0.2


def setup(work):
    return delayed(ours.setup(work))


def delayed(step):
    def slower():
        began = time.perf_counter()
        answer = step()
        until = time.perf_counter() + DELAY * (time.perf_counter() - began)
        while time.perf_counter() < until:
            pass
        return answer

    return slower
