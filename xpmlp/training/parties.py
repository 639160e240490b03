"""Whom the loop works with: who executes the steps of an epoch, and other processes that train the same network."""

from collections.abc import Callable
from typing import Protocol

from xpmlp._typing import Array
from xpmlp.backends import HostArray
from xpmlp.runners.step import State


class Runner(Protocol):
    """Who executes the steps of an epoch; see `runners.eager.Runner.epoch`."""

    name: str  # and where the runner itself knows when to stop: finished(state), why; "" while there is more to do

    def epoch(
        self, state: State, order: HostArray | None, rate_of: Callable[[int], float], interrupted: Callable[[], bool]
    ) -> tuple[State, Array]:
        """One epoch: the new state, and its mean loss, shape () or (m,)."""
        ...


class Together(Protocol):
    """What processes that train one network agree on; see `agreement.Agreement`."""

    def interrupted(self, pressed: Callable[[], bool]) -> Callable[[], bool]:
        """Whether somebody wants to stop, given whether somebody does here."""
        ...

    def value(self, validation: HostArray) -> HostArray:
        """The monitored value that all of them go by."""
        ...

    def end(self, wish: str, late: bool, p: HostArray) -> tuple[str, bool]:
        """Who wants to stop after an epoch, and whether there is no time left."""
        ...
