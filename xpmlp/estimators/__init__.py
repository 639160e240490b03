"""MLPClassifier and MLPRegressor: scikit-learn's contract to the letter, and no maths but the core's."""

from xpmlp.estimators.classifier import MLPClassifier
from xpmlp.estimators.regressor import MLPRegressor

__all__ = ["MLPClassifier", "MLPRegressor"]
