"""What processes that train together ask of each other, and what they say when one of them is gone."""

from collections.abc import Callable
from typing import Any, Protocol

from xpmlp.backends import HostArray


class LostPeerError(RuntimeError):
    """A process of the group is gone, or has failed: the others end too, and say what is left.

    Attributes
    ----------
    rank : int or None
        Of the process that tells it.
    epoch, step : int or None
        Where training stood.
    checkpoint : path or None
        The file to go on from, with resume=True, on any number of processes.
    """

    def __init__(self, message: str, *, rank: int | None = None) -> None:
        super().__init__(message)
        self.rank = rank
        self.epoch: int | None = None
        self.step: int | None = None
        self.checkpoint: Any = None


class Group(Protocol):
    """Processes that call the same functions in the same order; every method is called by all of them."""

    name: str
    rank: int  # of this process: 0 to size - 1
    size: int
    fixed_order: bool  # sum in one order, so that any number of processes gives the same bits

    def sum(self, buffer: HostArray) -> None:
        """Put the sum of all processes' buffers into each of them."""
        ...

    def gather(self, buffer: HostArray) -> HostArray:
        """The buffers of all processes, in their order: shape (size, *buffer.shape)."""
        ...

    def share(self, value: Any) -> list[Any]:
        """The values of all processes, in their order; what pickle can write."""
        ...


class _Alone:
    """One process."""

    name, rank, size = "alone", 0, 1

    def __init__(self, fixed_order: bool) -> None:
        self.fixed_order = fixed_order

    def sum(self, buffer: HostArray) -> None:
        """See `Group`."""

    def gather(self, buffer: HostArray) -> HostArray:
        """See `Group`."""
        return buffer[None]

    def share(self, value: Any) -> list[Any]:
        """See `Group`."""
        return [value]


def alone(*, fixed_order: bool = False) -> Group:
    """A group of one process.

    Parameters
    ----------
    fixed_order : bool
        Sum the gradient lane by lane, in one order: the same bits as any number of processes with `fixed_order`.

    Examples
    --------
    >>> from xpmlp import distributed
    >>> distributed.alone().size
    1
    """
    return _Alone(fixed_order)


def failures(texts: list[str | None]) -> str:
    """What is said of the processes that have failed."""
    told = [f"rank {rank} of {len(texts)} failed: {text}" for rank, text in enumerate(texts) if text is not None]
    return "; ".join(told)


def agreed(group: Group, here: Callable[[], Any]) -> list[Any]:
    """What `here` returns in each process, in their order; where it raises in one, all of them raise.

    Raises
    ------
    LostPeerError
        In the processes in which it did not raise itself.
    """
    value, error = None, None
    try:
        value = here()
    except Exception as raised:  # noqa: BLE001 - whatever it is, the others must not wait for this process
        error = raised
    found = group.share((value, None if error is None else f"{type(error).__name__}: {error}"))
    if error is not None:
        raise error
    texts = [text for _, text in found]
    if any(text is not None for text in texts):
        raise LostPeerError(failures(texts), rank=group.rank)
    return [value for value, _ in found]
