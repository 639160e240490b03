"""For those who look: numerical derivatives, one step explained, what each layer does epoch by epoch.

`checking` (check_gradients; differences, precise and report are its parts), `curvature`, `explanation` (explain_step),
`health` (Health), `diagnosis` (diagnose; observed is what it reads), `models` (an MLP or an estimator opened up).
"""

from xpmlp.inspection.checking import check_gradients
from xpmlp.inspection.curvature import curvature
from xpmlp.inspection.diagnosis import diagnose
from xpmlp.inspection.explanation import explain_step
from xpmlp.inspection.health import Health
from xpmlp.inspection.report import GradientReport, GradientRow

__all__ = ["GradientReport", "GradientRow", "Health", "check_gradients", "curvature", "diagnose", "explain_step"]
