"""Modules of xpmlp 0.1.0 that have moved: a pickle names the module of each class that it holds.

`import xpmlp` puts a finder at the end of `sys.meta_path`, so that such a pickle loads. A name that is no longer there
ends in an error that says who wrote the pickle and what to do.
"""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# What a pickle may name: the old module, and where its names are now
MOVED = {
    "xpmlp.activations": "xpmlp.network.activations",
    "xpmlp.initializers": "xpmlp.network.initializers",
    "xpmlp.losses": "xpmlp.network.losses",
    "xpmlp.optimizers": "xpmlp.optim.optimizers",
    "xpmlp.parameters": "xpmlp.network.parameters",
    "xpmlp.schedules": "xpmlp.optim.schedules",
}


class MovedModules(MetaPathFinder, Loader):
    """Finds a module of MOVED, whose names are those of the module that took its place."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`."""
        return ModuleSpec(fullname, self) if fullname in MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        """See `importlib.abc.Loader`."""
        old = module.__name__
        new = importlib.import_module(MOVED[old])

        def names(name: str) -> Any:
            if name.startswith("__") or hasattr(new, name):
                return getattr(new, name)
            raise ImportError(
                f"{old}.{name} was of xpmlp 0.1.0, which wrote this pickle, and is no longer there. Load the model "
                "with that version, write it with its method save, and read the file with xpmlp.load."
            )

        module.__getattr__ = names  # type: ignore[method-assign]  # PEP 562


def install() -> None:
    """Let the old names be found, after all others."""
    if not any(isinstance(finder, MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(MovedModules())
