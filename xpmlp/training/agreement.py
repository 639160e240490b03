"""What processes that train together agree on, so that none of them is left waiting."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from xpmlp.backends import HostArray
from xpmlp.distributed import LostPeerError
from xpmlp.distributed.groups import failures
from xpmlp.runners.reduction import Sum
from xpmlp.training.checkpoints import last_of


class Agreement:
    """One fit of a group, as one of its processes sees it.

    The sum of every step carries who wants to stop. After an epoch each process says what it alone knows, and all of
    them act on the same: rank 0's clock and its number of the validation set, everybody's callbacks and errors.
    """

    def __init__(self, reduce: Sum) -> None:
        self.reduce = reduce
        self.error: Exception | None = None  # what an observer here has raised
        self.lost: LostPeerError | None = None  # what one in another process has

    def ready(self) -> None:
        """Wait until all have what they need: of a fit without a step to do, nobody would hear of one that has not."""
        self.reduce.agree(None)

    @property
    def writes(self) -> bool:
        """Whether this process writes the files."""
        return self.reduce.group.rank == 0

    def interrupted(self, pressed: Callable[[], bool]) -> Callable[[], bool]:
        """Whether somebody, in whatever process, wants to stop; asked after a step."""
        self.reduce.wish = pressed
        return lambda: self.reduce.stopped

    def value(self, validation: HostArray) -> HostArray:
        """The number that all of them judge by."""
        found: HostArray = self.reduce.agree(validation)[0]
        return found

    def end(self, wish: str, late: bool, p: HostArray) -> tuple[str, bool]:
        """Who wants to stop after this epoch, and whether there is no time left.

        Raises
        ------
        RuntimeError
            If the processes no longer have the same parameters.
        """
        text = None if self.error is None else f"{type(self.error).__name__}: {self.error}"
        digest = hashlib.blake2b(np.ascontiguousarray(p).tobytes(), digest_size=8).digest()
        said = self.reduce.agree((wish, late, digest, text))
        if any(other[2] != digest for other in said):
            who = [rank for rank, other in enumerate(said) if other[2] != said[0][2]]
            raise RuntimeError(
                f"the parameters of rank {who[0]} are no longer those of rank 0: a callback that sets them must do so "
                "in every process, and all machines must compute alike (compiled='never' rules out one difference)."
            )
        texts = [other[3] for other in said]
        if self.error is None and any(text is not None for text in texts):
            self.lost = LostPeerError(failures(texts), rank=self.reduce.group.rank)
        wishes = [other[0] for other in said]
        if self.reduce.stopped or "interrupt" in wishes:
            return "interrupt", bool(said[0][1])
        return ("callback" if "callback" in wishes else wish), bool(said[0][1])

    def failed(self, error: BaseException, epoch: int, folder: Any) -> BaseException:
        """Tell the others of an error here, or say of one that came from them where training stood."""
        if not isinstance(error, LostPeerError):
            self.reduce.fail(error)
            return error
        where = f"{error}" if str(error).endswith(".") else f"{error}."
        text = f"{where} It was in epoch {epoch}, after step {self.reduce.steps} of this fit"
        left = None if folder is None else last_of(Path(folder))
        if left is not None:
            text += f"; {left} is what is left: fit again with resume=True, on any number of processes"
        told = LostPeerError(f"{text}.", rank=self.reduce.group.rank)
        told.epoch, told.step, told.checkpoint = epoch, self.reduce.steps, left
        return told
