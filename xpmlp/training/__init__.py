"""One fit for every face: a `Problem` and a `Fitted` go in, a `Fitted` comes out (problem, fit, evaluation)."""

from xpmlp.training.evaluation import Outcome, evaluate, even_blocks, outputs, plain, rows_at_once
from xpmlp.training.fitting import fit
from xpmlp.training.loop import Standing
from xpmlp.training.problem import Carried, CheckpointRequest, Draws, Fitted, Observer, Problem, Saved

__all__ = [
    "Carried",
    "CheckpointRequest",
    "Draws",
    "Fitted",
    "Observer",
    "Outcome",
    "Problem",
    "Saved",
    "Standing",
    "evaluate",
    "even_blocks",
    "fit",
    "outputs",
    "plain",
    "rows_at_once",
]
