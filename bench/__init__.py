"""Timed comparisons. They import fcgpu, never the reverse, and no test waits for them."""
