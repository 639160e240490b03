"""The learning rate of every step of a training."""

from collections.abc import Callable

from xpmlp.optim.schedules import Progress, Schedule


class Rates:
    """The learning rate of every step, asked of the schedule as often as it moves."""

    def __init__(self, learning_rate: float, schedule: Schedule, n_epochs: int, n_batches: int) -> None:
        self.learning_rate, self.schedule = learning_rate, schedule
        self.n_epochs, self.n_batches = n_epochs, n_batches

    def of_epoch(self, epoch: int, step: int, samples: int, scale: float) -> Callable[[int], float]:
        """The rate of each batch of an epoch, counted from 0, after so many steps and samples."""
        base = self.learning_rate * scale

        # scikit-learn's invscaling counts samples over all fits, but a new optimizer begins at the full rate.
        # (SGDOptimizer of its _stochastic_optimizers.py: `iteration_ends` lowers the rate only once an epoch is over.)
        seen = samples if step else 0

        def at(i: int) -> float:
            return base * self.schedule(Progress(step + i, epoch + i / self.n_batches, seen, self.n_epochs))

        if self.schedule.per_step:
            return at
        rate = at(0)
        return lambda _: rate
