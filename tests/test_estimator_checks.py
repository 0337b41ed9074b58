"""Every check that scikit-learn has for estimators, on both of ours in several configurations."""

import pytest

pytest.importorskip("sklearn")

from sklearn.utils.estimator_checks import parametrize_with_checks

import fcgpu

SMALL = {"hidden_layer_sizes": (16,), "max_iter": 60, "learning_rate_init": 0.02}
CONFIGURATIONS = [
    SMALL,
    {"hidden_layer_sizes": (), "solver": "lbfgs"},
    # A batch holds all of the 15 weighted samples, or of their repetitions, that two checks compare; the checks of
    # accuracy have more samples, and several batches.
    {**SMALL, "batch_size": 64, "max_iter": 30},
    {**SMALL, "dropout": 0.2},
]
OTHERS = [
    {**SMALL, "batch_size": "full", "learning_rate": "cosine"},
    {**SMALL, "solver": "gradient_descent", "max_iter": 100},
    *({**SMALL, "solver": solver} for solver in ("lbfgs", "sgd", "nesterov", "momentum", "rmsprop", "adamw")),
    {**SMALL, "solver": "rprop", "alpha": 0.1},
]


def both(configurations):
    return [cls(**given) for given in configurations for cls in (fcgpu.MLPClassifier, fcgpu.MLPRegressor)]


quietly = pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning",
    "ignore:.*batch_size:UserWarning",  # larger than the smallest data of the checks
)


@quietly
@parametrize_with_checks(both(CONFIGURATIONS))
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@quietly
@pytest.mark.slow
@parametrize_with_checks(both(OTHERS))
def test_scikit_learns_checks_of_every_solver(estimator, check):
    check(estimator)
