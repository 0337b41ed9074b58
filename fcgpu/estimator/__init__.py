"""Estimators with scikit-learn's interface, for a CPU or a GPU. Needs the extra `sklearn`."""

from fcgpu.estimator.classifier import MLPClassifier
from fcgpu.estimator.regressor import MLPRegressor

__all__ = ["MLPClassifier", "MLPRegressor"]
