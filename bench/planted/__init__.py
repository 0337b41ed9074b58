"""Peers with a known fault, for `python -m bench trust` and the tests: the harness must show each for what it is."""
