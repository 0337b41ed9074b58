"""Timed comparisons, as commands of `python -m bench`; README.md here lists them.

They import fcgpu, never the reverse, and no test depends on their timings. A peer is one file in `peers/` with a
function `setup(work)` that returns `step`; adding a file adds the peer to every case of its kind.
"""
