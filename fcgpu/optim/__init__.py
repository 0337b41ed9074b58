"""How parameters move: first-order rules and L-BFGS on the flat vector, and schedules of the learning rate."""

from fcgpu.kernels.updates import SCALARS, UPDATES

OPTIMIZERS = (*UPDATES, "lbfgs")
FULL_BATCH = ("rprop", "lbfgs")  # compare losses of successive steps, and find their step sizes by themselves
NOT_FOR_FULL_BATCH = ("dropout", "schedule", "warmup", "gradient_clip")  # recipe keys that these refuse, beside batch
LBFGS_KEYS = ("history_size", "max_fun")  # recipe keys that only lbfgs reads


def state_vectors(optimizer: str, history_size: int) -> int:
    """How many vectors of n_params numbers the optimizer keeps. Only lbfgs uses `history_size`."""
    if optimizer == "lbfgs":
        return 2 * history_size + 4
    return sum(field not in SCALARS for field in UPDATES[optimizer].state._fields)
