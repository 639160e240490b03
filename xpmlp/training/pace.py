"""How fast a fit of shards goes, and what it waits for."""

import time

from xpmlp.runners.reduction import Sum
from xpmlp.shards.lanes import LaneData


class Pace:
    """What a progress bar or a verbose line says of the epochs since it last did.

    Parameters
    ----------
    data : LaneData
    together : Sum or None
    """

    def __init__(self, data: LaneData, together: Sum | None) -> None:
        self.data, self.together = data, together
        self.at = (time.perf_counter(), data.waited, 0.0 if together is None else together.waited)

    def numbers(self) -> dict[str, str]:
        """Rows a second (of all processes), and the share of the time spent waiting for the reader and for the sum."""
        now = (time.perf_counter(), self.data.waited, 0.0 if self.together is None else self.together.waited)
        seconds, reader, summing = (b - a for a, b in zip(self.at, now, strict=True))
        self.at = now
        told = {"rows/s": f"{self.data.n / seconds:,.0f}", "reader": f"{reader / seconds:.0%}"}
        return told if self.together is None else told | {"sum": f"{summing / seconds:.0%}"}
