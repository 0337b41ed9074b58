"""A part of `python -m bench gpu` that reports its time limit."""

TITLE, LIMIT = "a part that asks for its time", 600.0


def rows(device, limit=LIMIT):
    yield {"limit": limit}
