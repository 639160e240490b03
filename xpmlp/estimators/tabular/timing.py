"""How far a fit goes in the time that it has: so many epochs that both stages end in it, and the schedule with them.

Nothing is cut off in the middle: a few steps are timed before training, the schedule is laid out for as many epochs as
there is time for, and the rate ends at 0 all the same. Where there is no time for two stages, the first one has all
members and is the only one; where there is none for a few epochs of all rows, an epoch has fewer.
"""

import time
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import numpy as np

from xpmlp.backends.config import config_context, get_config
from xpmlp.estimators.tabular.stages import Posed
from xpmlp.runners import Data
from xpmlp.runners.step import State
from xpmlp.training.evaluation import Evaluator

SPENT = 0.85  # of the time that is left, on what was foreseen
TIMED = 3  # steps
FEWEST_OF_TWO, FEWEST = 8, 4  # epochs that two stages, and one alone, must have to be worth it
FEWEST_HELD = 200  # rows that an epoch is judged by
LOOKING = 0.25  # of the time: the most that looking at what is held out may take
COMPILED_FROM = 15.0  # seconds of a time limit: to load Numba and to compile may take two of them


def unhurried(time_limit: float | None) -> AbstractContextManager[None]:
    """Within it, nothing is compiled on "auto" where the time limit is too short to win that back."""
    if time_limit is None or time_limit >= COMPILED_FROM or get_config()["compiled"] != "auto":
        return nullcontext()
    return config_context(compiled="never")


class Pace(NamedTuple):
    """Seconds of a stage's work, with its members."""

    members: int
    step: float
    look: float  # at a thousand of the rows held out, once
    start: float  # before the first step: what is compiled, say

    def looks(self, held: int) -> float:
        """Seconds of an epoch for so many rows held out: at the weights and at their average."""
        return 2.0 * self.look * held / 1000.0

    def share_of_steps(self, batches: int, held: int) -> float:
        """The share of an epoch's time that its steps take, the rest being for what is held out."""
        return batches * self.step / (batches * self.step + self.looks(held))


class Goal(NamedTuple):
    """How far a fit goes."""

    epochs: int
    rows: int | None = None  # of an epoch; None is all
    held: int | None = None  # of the rows held out; None is all
    refits: bool = True


def pace_of(posed: Posed) -> Pace:
    """The pace of a stage, found out on a copy of its network."""
    problem, place = posed.problem, posed.content.place
    data, optimizer = problem.data, problem.task.optimizer
    with place.here(), np.errstate(all="ignore"):
        problem.runner(problem.task, data, problem.seed, 0)  # what is compiled for the training is so by now
        some = Data(place, data.x, data.y, data.w, data.batch_size, min(TIMED * data.batch_size, data.n))
        runner = problem.runner(problem.task, some, problem.seed, TIMED)
        state = State(place.xp.asarray(posed.content.p, copy=True), optimizer.init(posed.content.p).slots, 0)
        took = []
        for _ in range(2):
            began = time.perf_counter()
            state, loss = runner.epoch(state, np.arange(some.n), lambda _: 1e-3, lambda: False)
            float(loss)
            took.append(time.perf_counter() - began)
        look = 0.0
        if problem.held_out is not None:
            held = problem.held_out
            rows = min(held.n, 1000)
            few = Data(place, held.x, held.y, held.w, held.batch_size, rows)
            judge = Evaluator(problem.task.network, few, problem.members_to_come)
            judge(state.p)
            began = time.perf_counter()
            float(judge(state.p).loss)
            look = (time.perf_counter() - began) * 1000.0 / rows
    return Pace(posed.stage.members, took[1] / some.n_batches, look, max(took[0] - took[1], 0.0))


def goal_of(
    pace: Pace,
    left: float,
    epochs: int,
    n_members: int,
    batches: tuple[int, int],
    held: int,
    batch_size: int,
    prepare: float,
) -> Goal:
    """How far to go in the seconds that are left.

    Parameters
    ----------
    epochs : int
        Those of a fit that has all the time.
    n_members : int
        Of the model.
    batches : pair of int
        Of an epoch of the first stage, and of the second one.
    held : int
        Rows held out.
    prepare : float
        Seconds for the preparation of the second stage; infinite where there is to be none.
    """
    left *= SPENT
    more = n_members / pace.members
    looks = pace.looks(held)
    both = batches[0] * pace.step + looks + batches[1] * pace.step * more
    fit = int(max(left - prepare - 2.0 * pace.start, 0.0) / both) if np.isfinite(prepare) else 0
    if fit >= min(epochs, FEWEST_OF_TWO):
        return Goal(min(fit, epochs))
    step, looks, left = pace.step * more, looks * more, max(left - pace.start, 0.0)
    fit = int(left / (batches[0] * step + looks))
    if fit >= min(epochs, FEWEST):
        return Goal(min(fit, epochs), refits=False)
    few = min(epochs, FEWEST)
    seen = held if looks * few <= LOOKING * left else max(int(held * LOOKING * left / (looks * few)), FEWEST_HELD)
    steps = max(int((left - few * looks * seen / max(held, 1)) / (few * step)), 1)
    return Goal(few, min(steps, batches[0]) * batch_size, min(seen, held), refits=False)
