"""`python -m bench gpu`: everything that is to be learned from an hour, or a quarter of one, with a GPU.

A part is a file here with TITLE, LIMIT (seconds that it may take) and `rows(device)`, a generator of dicts; one with a
parameter `limit` is told how many seconds it has. Each runs in a process of its own and its rows are kept as they come,
so that a part that fails, hangs or runs out of time costs nothing but itself. What comes out is one JSON file: the
machine, and of every part its rows and how it ended.
"""
