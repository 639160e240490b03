"""Plots, in scikit-learn's convention of displays: made from a model by a class method, drawn by `plot`.

A display holds numbers on the host, so it can be drawn again on other axes: `display.plot(ax=...)`. After that `ax_` is
its (first) axes, `axes_` all of them, `figure_` the figure. matplotlib (the extra `plot`) is imported when something is
drawn. Colours are safe for the colour-blind, and fit light and dark styles.
"""

from xpmlp.plotting.checking import GradientCheckDisplay, HealthDisplay
from xpmlp.plotting.curves import LossCurveDisplay, ScheduleDisplay, ScoreCurveDisplay
from xpmlp.plotting.decision import DecisionBoundaryDisplay
from xpmlp.plotting.drawing import NetworkDisplay
from xpmlp.plotting.layers import ActivationsDisplay, FirstLayerDisplay, GradientsDisplay, WeightsDisplay

__all__ = [
    "ActivationsDisplay",
    "DecisionBoundaryDisplay",
    "FirstLayerDisplay",
    "GradientCheckDisplay",
    "GradientsDisplay",
    "HealthDisplay",
    "LossCurveDisplay",
    "NetworkDisplay",
    "ScheduleDisplay",
    "ScoreCurveDisplay",
    "WeightsDisplay",
]
