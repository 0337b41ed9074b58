"""How parameters move: first-order rules on the flat vector, and schedules of the learning rate."""
