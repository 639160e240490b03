"""For those who look: numerical derivatives, one step explained, what each layer does epoch by epoch.

`checking` (check_gradients; differences, precise, report and slips are its parts), `curvature`, `explanation`
(explain_step; passes, parts, equations, paths and page are its own), `health` (Health), `diagnosis` (diagnose; observed
is what it reads), `models` (an MLP or an estimator opened up).
"""

from xpmlp.inspection.checking import check_gradients
from xpmlp.inspection.curvature import curvature
from xpmlp.inspection.diagnosis import Diagnosis, Finding, diagnose
from xpmlp.inspection.equations import Equation
from xpmlp.inspection.explanation import StepExplanation, explain_step
from xpmlp.inspection.health import Health
from xpmlp.inspection.paths import Partial, Path
from xpmlp.inspection.report import GradientReport, GradientRow

__all__ = [
    "Diagnosis",
    "Equation",
    "Finding",
    "GradientReport",
    "GradientRow",
    "Health",
    "Partial",
    "Path",
    "StepExplanation",
    "check_gradients",
    "curvature",
    "diagnose",
    "explain_step",
]
