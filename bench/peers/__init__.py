"""One file for each peer.

A file has TITLE, PACKAGES (whose versions are recorded), CLOCKS {device: clock} for the devices it runs on, and
`setup(work) -> step`; a file with `setup_predict(work) -> step` also takes part in prediction. `step()` makes one pass
over work.X and returns the mean loss of its samples, each taken before its batch's update; or it returns labels (n,).
It may return before the result is computed: the clock waits. Compiled functions are at module level, so that the
warm-up on other data compiles them. If a package is missing, the import raises ModuleNotFoundError and the peer is
skipped.
"""
