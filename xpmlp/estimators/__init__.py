"""MLPClassifier and MLPRegressor: scikit-learn's contract to the letter, and no maths but the core's."""

from xpmlp.backends import pass_over
from xpmlp.estimators.classifier import MLPClassifier
from xpmlp.estimators.regressor import MLPRegressor

__all__ = ["MLPClassifier", "MLPRegressor"]

# A fit is called through scikit-learn's callbacks, its pipelines and searches, and these call through joblib.
pass_over("sklearn", "joblib")
