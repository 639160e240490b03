"""Estimators of tables as they are: numbers, names, gaps and dates in, good answers out without a word of tuning."""

from xpmlp.estimators.tabular.classifier import TabularClassifier
from xpmlp.estimators.tabular.regressor import TabularRegressor

__all__ = ["TabularClassifier", "TabularRegressor"]
