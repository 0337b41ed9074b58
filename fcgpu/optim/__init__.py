"""How parameters move: first-order rules and L-BFGS on the flat vector, and schedules of the learning rate."""

from fcgpu.kernels.updates import SCALARS, UPDATES

OPTIMIZERS = (*UPDATES, "lbfgs")
# Rules that compare one step's loss with the last one's: they take the full batch, and leave these keys as they are.
FULL_BATCH = {"rprop": ("dropout", "schedule", "warmup"), "lbfgs": ("dropout", "schedule", "warmup", "gradient_clip")}
LBFGS = ("history_size", "max_fun")  # its own keys


def state_vectors(optimizer: str, history_size: int) -> int:
    """How many vectors of the parameters' size an optimizer keeps; history_size is of lbfgs."""
    if optimizer == "lbfgs":
        return 2 * history_size + 4
    return sum(field not in SCALARS for field in UPDATES[optimizer].state._fields)
