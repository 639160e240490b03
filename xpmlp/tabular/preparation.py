"""`TablePreparation`: from a table as it is to what a network takes, and what a file remembers of that.

What `transform` gives, and a network that encodes numbers piecewise stands on (n rows, D inputs, float32):

    X = [ z_1 ... z_F | gap indicators | levels of categories ]        shape (n, D)
    X[:, :n_numbers_]    numbers, z = f((x - centre) / width), f(u) = u / sqrt(1 + (u / 3)^2), so |z| < 3; a gap is 0
    edges_[f]            edges e_0 < ... < e_n of z_f, float64, n <= n_bins: the bins of its piecewise-linear code
    groups_              shape (D,): the inputs that share one draw of a member's adapter: a number, an indicator, all
                         levels of one column
    sources_             shape (D,): the column of the table, counted from 0, that an input comes from

    numbers      centre: the median. width: the distance of the quartiles; half that of the extremes where the quartiles
                 are equal; where those are, too, z = 0. A column with gaps has one more input, 1 where missing
    edges        the quantiles of z at n_bins / 2 equal steps, and those of its different values: bins are many where
                 values are many, and are kept where they are rare
    categories   one input of 0 and 1 for each level, the `max_levels` most frequent; two levels are one input, +1 and
                 -1; missing is a level where there was one; rarer and unknown ones are 0 in all

What a column is (see `kinds`), its levels and whether it has gaps are found on all rows of X; centres, widths and
edges on `rows` only. So the shape of what a network takes is the table's, never the split's. A level or a gap that no
row of `rows` has would reach weights that were never trained: its input stays 0.
"""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from xpmlp import checks
from xpmlp.backends import HostArray
from xpmlp.tabular.columns import Table, chosen_columns, listed, rows_among, table_of
from xpmlp.tabular.encoding import n_inputs, n_numbers, numbers_of, told_of_unknown
from xpmlp.tabular.filing import kind_entry, kind_from
from xpmlp.tabular.kinds import (
    CategoryKind,
    DateKind,
    Kind,
    LeftOut,
    NumberKind,
    guess_decimal,
    kind_of,
    level_codes,
)
from xpmlp.tabular.scales import Scale, scale_from, scale_of

FORMAT = 1


class TableWarning(UserWarning):
    """Something about a table that its reader should know: what was left out, or taken for missing."""


class TablePreparation(TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """From a table of numbers, names, gaps and dates to the numbers that a network takes.

    Cells of text are read as people write them: thousands separators, decimal commas, percentages, currencies,
    accounting brackets. Codes (007, 1_2, keys of more than 15 digits) stay names. Columns are found by their names, in
    whatever order they come.

    Parameters
    ----------
    categorical_features : "from_dtype", or sequence of str, int or bool
        Columns that are categories although they hold numbers, by name, by index or as a mask; "from_dtype" is texts
        that repeat themselves, truths, and what the frame calls a category.
    n_bins : int
        The most bins of a number's piecewise-linear code, even.
    max_levels : int
        The most levels of a category that have an input of their own.
    missing : sequence of str
        Words that are gaps in every column, beside the empty cell, NaN, n/a, null and ?. Among numbers and dates NA,
        None and a dash are gaps anyway.
    decimal : "auto", "." or ","
        The decimal mark of texts that do not tell: "12,345".

    Attributes
    ----------
    kinds_ : tuple
        What each column of the table is.
    scales_ : tuple of Scale
        Centre, width and edges of each input of numbers.
    n_numbers_ : int
        How many inputs are numbers; they come first.
    edges_ : tuple of ndarray of shape (n_f + 1,)
        The edges of each input of numbers.
    groups_, sources_ : ndarray of shape (n_inputs,)
        The group and the column of the table that each input belongs to.
    left_out_ : dict of str to str
        The columns that are not used, and why.
    notes_ : tuple of str
        What was recognised, in sentences.
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Where the table has names.

    Examples
    --------
    >>> from xpmlp import TablePreparation
    >>> rows = [{"size": "1,200", "town": "A"}, {"size": "900", "town": "B"}, {"size": None, "town": "B"}]
    >>> preparation = TablePreparation().fit(rows)
    >>> preparation.transform(rows)
    array([[ 0.9486833,  0.       ,  1.       ],
           [-0.9486833,  0.       , -1.       ],
           [ 0.       ,  1.       , -1.       ]], dtype=float32)
    >>> preparation.get_feature_names_out().tolist()
    ['size', 'size is missing', 'town = A']
    """

    def __init__(
        self,
        *,
        categorical_features: str | Sequence[str | int | bool] = "from_dtype",
        n_bins: int = 64,
        max_levels: int = 64,
        missing: Sequence[str] = (),
        decimal: str = "auto",
    ) -> None:
        self.categorical_features = categorical_features
        self.n_bins = n_bins
        self.max_levels = max_levels
        self.missing = missing
        self.decimal = decimal

    # --- Learning ---

    def fit(self, X: Any, y: Any = None, *, rows: Any = None) -> "TablePreparation":  # noqa: ARG002  # scikit-learn's signature
        """Find out what the columns are, on all rows, and how their numbers are spread, on `rows`.

        Parameters
        ----------
        X : frame, array, list of dicts or dict of columns, shape (n, p)
        y : ignored
        rows : array of int or bool, optional
            Those to learn centres, widths and edges from, or a mask of them; all by default.

        Raises
        ------
        ValueError
            If no column is left to learn from, a number is infinite: with its place, or `rows` are not rows of X.
        """
        table = table_of(X)
        checks.integer(self.n_bins, "n_bins", least=2)
        checks.integer(self.max_levels, "max_levels", least=2)
        checks.option(self.decimal, "decimal", ("auto", ".", ","))
        words = self._words()
        names = list(table.columns)
        chosen = chosen_columns(self.categorical_features, names)
        decimal = guess_decimal(table) if self.decimal == "auto" else self.decimal
        kinds, notes = [], []
        options: Any = {"decimal": decimal, "missing": words, "max_levels": self.max_levels}
        for name, column in table.columns.items():
            kind, told = kind_of(table, column, category=name in chosen, **options)
            kinds.append(kind)
            notes += told
        if all(isinstance(kind, LeftOut) for kind in kinds):
            told_ = "; ".join(f"{kind.name}: {kind.why}" for kind in kinds[:5] if isinstance(kind, LeftOut))
            rows_ = "one sample" if table.n_rows == 1 else f"these {table.n_rows:,} rows"
            raise ValueError(f"no column of {rows_} is left to learn from ({told_}).")
        self._measure(table, tuple(kinds), rows)
        self.n_features_in_ = len(names)
        if table.named:
            self.feature_names_in_ = np.asarray(names, dtype=object)
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_
        self.notes_ = tuple(notes)
        lost = [f"{kind.name} ({kind.why})" for kind in kinds if isinstance(kind, LeftOut) and not kind.quietly]
        if lost:
            warnings.warn(f"left out: {'; '.join(lost)}.", TableWarning, stacklevel=2)
        for note in notes:
            if "taken as missing" in note:
                warnings.warn(note, TableWarning, stacklevel=2)
        return self

    def fit_scales(self, X: Any, *, rows: Any = None) -> "TablePreparation":
        """Find out anew how the numbers of X are spread, on `rows`; what the columns are stays as `fit` has found it.

        X and the errors are those of `transform`.
        """
        check_is_fitted(self)
        self._measure(self._same_columns(table_of(X)), self.kinds_, rows)
        return self

    def _measure(self, table: Table, kinds: tuple[Kind, ...], rows: Any) -> None:
        taken = slice(None) if rows is None else rows_among(rows, table.n_rows)
        words = self._words()
        scales, gaps, levels = list[Scale](), list[Any](), list[Any]()  # of the latter two, whether they are there
        for kind in kinds:
            if isinstance(kind, NumberKind | DateKind):
                numbers = numbers_of(table, kind, words)[0][taken]
                scales += [scale_of(values, self.n_bins) for values in numbers.T]
                gaps += [np.any(np.isnan(numbers[:, 0]))] if kind.gaps else []
            elif isinstance(kind, CategoryKind):
                codes = level_codes(table.columns[kind.name], kind, words)[taken]
                counts = np.bincount(codes[codes >= 0], minlength=len(kind.levels))
                levels += [any(counts)] if n_inputs(kind) == 1 else counts.tolist()
        self._set(kinds, tuple(scales), silent=())
        self.silent_ = tuple(self.n_numbers_ + i for i, used in enumerate(gaps + levels) if not used)

    def _words(self) -> frozenset[str]:
        if isinstance(self.missing, str) or not all(isinstance(word, str) for word in self.missing):
            raise TypeError(f'missing must be a sequence of words such as ["none"]; got {self.missing!r}.')
        return frozenset(word.strip().lower() for word in self.missing)

    def _set(self, kinds: tuple[Kind, ...], scales: tuple[Scale, ...], silent: tuple[int, ...]) -> None:
        self.kinds_, self.scales_, self.silent_ = kinds, scales, silent
        self.n_numbers_: int = len(scales)
        self.edges_ = tuple(np.asarray(scale.edges) for scale in scales)
        self.left_out_ = {kind.name: kind.why for kind in kinds if isinstance(kind, LeftOut)}
        owners: list[int] = []
        for i, kind in enumerate(kinds):
            owners += [i] * n_numbers(kind)
        gaps = [i for i, kind in enumerate(kinds) if isinstance(kind, NumberKind | DateKind) and kind.gaps]
        groups = list(range(len(owners) + len(gaps)))
        owners += gaps
        for i, kind in enumerate(kinds):
            if isinstance(kind, CategoryKind):
                width = n_inputs(kind)
                groups += [groups[-1] + 1 if groups else 0] * width
                owners += [i] * width
        self.groups_ = np.asarray(groups, dtype=np.int64)
        self.sources_ = np.asarray(owners, dtype=np.int64)

    # --- Using ---

    def transform(self, X: Any) -> HostArray:
        """The numbers that a network takes.

        Parameters
        ----------
        X : frame, array, list of dicts or dict of columns
            With the columns of `fit`, found by name where those had names; others are ignored.

        Returns
        -------
        ndarray of shape (n, n_inputs), float32

        Raises
        ------
        ValueError
            If a column is missing, or one of numbers holds mostly none, or infinity: with its place.
        """
        prepared, notes = self.transform_with_notes(X)
        for note, loud in notes:
            if loud:
                warnings.warn(note, TableWarning, stacklevel=3)  # past scikit-learn's wrapper of transform
        return prepared

    def transform_with_notes(self, X: Any, *, rows: Any = None) -> tuple[HostArray, list[tuple[str, bool]]]:
        """What `transform` gives, always an array, and sentences about the table, each with whether it is a warning.

        With `rows`, integers, those rows in this order; the sentences are about all.
        """
        check_is_fitted(self)
        return self._encode(self._same_columns(table_of(X)), slice(None) if rows is None else np.asarray(rows))

    def _same_columns(self, table: Table) -> Table:
        """The table with the columns of `fit`, in their order."""
        names = getattr(self, "feature_names_in_", None)
        if names is not None and table.named:
            wanted = [kind.name for kind in self.kinds_ if not isinstance(kind, LeftOut)]
            absent = [name for name in wanted if name not in table.columns]
            if absent:
                raise ValueError(
                    f"the table must have the columns of the training; {', '.join(map(repr, absent))} "
                    f"{'is' if len(absent) == 1 else 'are'} not there. Its columns: {listed(list(table.columns))}."
                )
            return table
        if len(table.columns) != self.n_features_in_:
            raise ValueError(
                f"X has {len(table.columns)} features, but {type(self).__name__} is expecting {self.n_features_in_} "
                "features as input."
            )
        pairs = zip(self.kinds_, table.columns.values(), strict=True)
        return dataclasses.replace(table, columns={kind.name: column for kind, column in pairs})

    def _encode(self, table: Table, rows: Any) -> tuple[HostArray, list[tuple[str, bool]]]:
        words, n = self._words(), table.n_rows if isinstance(rows, slice) else len(rows)
        out = np.zeros((n, len(self.groups_)), dtype=np.float32)
        notes: list[tuple[str, bool]] = []
        number, gap = 0, self.n_numbers_
        level = gap + sum(isinstance(kind, NumberKind | DateKind) and kind.gaps for kind in self.kinds_)
        for kind in self.kinds_:
            if isinstance(kind, NumberKind | DateKind):
                numbers, told = numbers_of(table, kind, words)
                notes += told
                for values in numbers[rows].T:
                    out[:, number] = self.scales_[number].apply(values)
                    number += 1
                missing = np.isnan(numbers[rows, 0])
                if kind.gaps:
                    out[:, gap] = missing
                    gap += 1
                elif np.any(missing):
                    notes.append((f"{kind.name}: {np.sum(missing):,} missing, none in training: the median.", False))
            elif isinstance(kind, CategoryKind):
                codes = level_codes(table.columns[kind.name], kind, words)
                notes += told_of_unknown(table.columns[kind.name], kind, codes)
                codes = codes[rows]
                width = n_inputs(kind)
                if width == 1:
                    out[:, level] = (codes == 0).astype(np.float32) - (codes == 1)
                else:
                    known = np.flatnonzero(codes >= 0)
                    out[known, level + codes[known]] = 1.0
                level += width
        out[:, list(self.silent_)] = 0.0
        return out, notes

    def get_feature_names_out(self, input_features: Any = None) -> HostArray:
        """The names of the inputs, shape (n_inputs,)."""
        check_is_fitted(self)
        names = getattr(self, "feature_names_in_", None)
        if input_features is not None:
            if names is not None and list(input_features) != list(names):
                raise ValueError("input_features is not equal to feature_names_in_")
            if len(input_features) != self.n_features_in_:
                raise ValueError(f"input_features should have length equal to {self.n_features_in_}")
        given = [kind.name for kind in self.kinds_] if input_features is None else list(map(str, input_features))
        pairs = list(zip(given, self.kinds_, strict=True))
        found = []
        for name, kind in pairs:
            if isinstance(kind, NumberKind):
                found.append(name)
            elif isinstance(kind, DateKind):
                found += [f"{name}: {part}" for part in kind.parts]
        found += [f"{name} is missing" for name, k in pairs if isinstance(k, NumberKind | DateKind) and k.gaps]
        for name, kind in pairs:
            if isinstance(kind, CategoryKind):
                told = [f"{name} is missing" if level is None else f"{name} = {level}" for level in kind.levels]
                found += told[: n_inputs(kind)]
        return np.asarray(found, dtype=object)

    # --- Files ---

    def to_dict(self) -> dict[str, Any]:
        """It as plain JSON: parameters, kinds, scales."""
        check_is_fitted(self)
        chosen = self.categorical_features
        return {
            "format": FORMAT,
            "parameters": {
                "categorical_features": chosen if isinstance(chosen, str) else [_plain(item) for item in chosen],
                "n_bins": self.n_bins,
                "max_levels": self.max_levels,
                "missing": list(self.missing),
                "decimal": self.decimal,
            },
            "named": hasattr(self, "feature_names_in_"),
            "kinds": [kind_entry(kind) for kind in self.kinds_],
            "scales": [[scale.centre, scale.width, list(scale.edges)] for scale in self.scales_],
            "silent": list(self.silent_),
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> "TablePreparation":
        """Back from JSON.

        Raises
        ------
        ValueError, TypeError, KeyError
            If it makes no sense; a file may come from a stranger.
        """
        if document["format"] != FORMAT:
            raise ValueError(f"its preparation has format {document['format']!r}, and this version reads {FORMAT}.")
        parameters = dict(document["parameters"])
        found = cls(**parameters | {"missing": tuple(parameters["missing"])})
        kinds = tuple(kind_from(name, entry) for name, entry in document["kinds"])
        scales = tuple(scale_from(*entry) for entry in document["scales"])
        if sum(map(n_numbers, kinds)) != len(scales) or all(isinstance(kind, LeftOut) for kind in kinds):
            raise ValueError("its preparation must have a scale for each number, and some column to use.")
        names = [kind.name for kind in kinds]
        if len(set(names)) < len(names):
            raise ValueError("its columns must have names of their own.")
        found._set(kinds, scales, ())
        silent = tuple(checks.integer(i, "silent", least=0) for i in document["silent"])
        if max(silent, default=0) >= len(found.groups_):
            raise ValueError("its preparation silences an input that is not there.")
        found._words()
        found.silent_ = silent
        found.notes_ = ()
        found.n_features_in_ = len(names)
        if document["named"]:
            found.feature_names_in_ = np.asarray(names, dtype=object)
        return found

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = tags.input_tags.categorical = tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = []
        return tags


def _plain(item: Any) -> Any:
    return item.item() if hasattr(item, "item") else item
