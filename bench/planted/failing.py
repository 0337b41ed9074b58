"""A part of `python -m bench gpu` that fails after its first row."""

TITLE, LIMIT = "a part that fails", 60.0


def rows(device):
    yield {"device": device}
    raise ValueError("on purpose\nand at length")
