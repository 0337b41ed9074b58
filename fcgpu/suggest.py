"""Suggestions for error messages: which known name was probably meant."""

from collections.abc import Iterable

SYNONYMS = {  # a name here, and those of the same thing in scikit-learn, PyTorch and Keras
    "alpha": "l2 reg regularization",
    "batch": "batch_size",
    "constant": "none",
    "cross_entropy": "categorical_crossentropy sparse_categorical_crossentropy",
    "epochs": "max_iter n_epochs num_epochs",
    "gradient_clip": "clipnorm max_grad_norm max_norm",
    "gradient_descent": "sgd",
    "hidden": "hidden_layer_sizes hidden_sizes layers units",
    "identity": "linear mse regression",
    "init": "initialization initializer kernel_initializer",
    "learning_rate": "lr learning_rate_init",
    "n_iter_no_change": "patience",
    "optimizer": "solver",
    "schedule": "scheduler",
    "seed": "random_state",
    "sigmoid": "binary_crossentropy logistic",
    "softmax": "categorical_crossentropy sparse_categorical_crossentropy",
    "squared_error": "mse mean_squared_error",
    "validation_fraction": "validation_split",
}


def choices(value: object, known: Iterable[str]) -> str:
    """The end of an error message about `value`: a suggestion of the nearest known name, else a list of all."""
    names = list(known)
    return nearest(value, names) or "choose from " + ", ".join(names)


def nearest(value: object, known: Iterable[str]) -> str:
    """A question whether the nearest known name was meant, or that of the same thing; "" if there is none."""
    from difflib import get_close_matches

    word, names = str(value).lower(), list(known)
    theirs = word.replace("-", "_")  # as a key, not as an option
    same = [name for name in names if theirs in SYNONYMS.get(name.replace("-", "_"), "").split()]
    near = same or get_close_matches(word, names, n=1)
    return f"did you mean {near[0]!r}?" if near else ""
