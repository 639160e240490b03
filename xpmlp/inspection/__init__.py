"""check_gradients: our derivatives beside numerical ones (differences, precise), as a table (report)."""

from xpmlp.inspection.checking import check_gradients
from xpmlp.inspection.report import GradientReport, GradientRow

__all__ = ["GradientReport", "GradientRow", "check_gradients"]
