"""One file a peer.

A file has TITLE, PACKAGES (what its versions are), CLOCKS {device: clock} for the devices it runs on, and
`setup(work) -> step`; one with `setup_predict(work) -> step` also takes part in prediction. `step()` makes one pass
over work.X and returns the mean of the loss over its samples, each measured before its batch's update; or labels (n,).
A library may read the answer late: the clock waits. What is compiled sits at module level, so that a warm-up on other
data compiles it. A package that is not installed raises ModuleNotFoundError at import, and the peer is skipped.
"""
