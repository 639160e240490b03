"""Tables of numbers, names, gaps and dates: what their cells mean, and what a network is given of them."""

from xpmlp.tabular.preparation import TablePreparation, TableWarning

__all__ = ["TablePreparation", "TableWarning"]
