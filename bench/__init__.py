"""Timed comparisons: `python -m bench run`, `python -m bench report`, `python -m bench trust`.

They import fcgpu, never the reverse, and no test waits for them. A peer is one file in `peers/` with `setup(work)`,
which returns `step`; adding a file adds the peer to every case of its kind.
"""
