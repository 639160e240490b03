"""A progress bar over epochs, drawn by tqdm where somebody asks for it."""

from types import TracebackType
from typing import Any, Self


class Bar:
    """A context manager; `advance(logs)` counts an epoch and shows the numbers in `logs`."""

    def __init__(self, n_epochs: int, shown: bool) -> None:
        self.tqdm: Any = None
        if shown:
            try:
                from tqdm.auto import tqdm
            except ImportError as error:
                raise ImportError("progress=True needs tqdm; install it with pip install 'xpmlp[progress]'.") from error
            self.tqdm = tqdm(total=n_epochs, unit="epoch", leave=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.tqdm is not None:
            self.tqdm.close()

    def advance(self, logs: dict[str, Any]) -> None:
        """Count an epoch, and show its numbers."""
        if self.tqdm is not None:
            numbers = {name: f"{value:.4g}" for name, value in logs.items() if isinstance(value, float)}
            self.tqdm.set_postfix(numbers, refresh=False)
            self.tqdm.update()
