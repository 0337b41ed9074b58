"""Peers and parts with a known fault, for `python -m bench trust` and the tests: the harness must detect each fault."""
