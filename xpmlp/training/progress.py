"""A progress bar over epochs, drawn by tqdm where somebody asks for it."""

from typing import Any

from xpmlp.training.pace import Pace
from xpmlp.training.problem import Fitted, Observer


class Bar(Observer):
    """An observer that counts epochs and shows their numbers.

    Parameters
    ----------
    n_epochs : int
    title : str
    pace : Pace, optional
        Of a fit of shards: how fast it goes.

    Raises
    ------
    ImportError
        If tqdm is not installed.
    """

    def __init__(self, n_epochs: int, title: str = "", pace: Pace | None = None) -> None:
        try:
            from tqdm.auto import tqdm
        except ImportError as error:
            raise ImportError("progress=True needs tqdm; install it with pip install 'tqdm>=4.66'.") from error
        self.tqdm: Any = tqdm
        self.n_epochs, self.title, self.pace = n_epochs, title, pace
        self.drawn: Any = None

    def begin(self) -> None:
        """An epoch begins: the first one draws the bar."""
        if self.drawn is None:
            self.drawn = self.tqdm(total=self.n_epochs, unit="epoch", leave=True, desc=self.title or None)

    def end(self, now: Fitted, logs: dict[str, Any]) -> bool:  # noqa: ARG002 - as an Observer's
        """Count an epoch, and show its numbers."""
        numbers = {name: f"{value:.4g}" for name, value in logs.items() if isinstance(value, float)}
        numbers |= {} if self.pace is None else self.pace.numbers()
        self.drawn.set_postfix(numbers, refresh=False)
        self.drawn.update()
        return False

    def close(self) -> None:
        """Leave the bar as it is."""
        if self.drawn is not None:
            self.drawn.close()
