"""Estimators of tables as ONNX models: the preparation, as far as ONNX has words for it, and the network behind it.

A column of numbers is an input of float64, (batch, 1), with NaN where there is a gap; a column of categories one of
text, (batch, 1), where the empty text is a gap. Their names are those of the columns. A table of numbers alone without
names is one input "X" of float64, (batch, n_features).

Numbers are scaled in float64, as the preparation does, and are then of the model's dtype. Texts become codes by
LabelEncoder of ai.onnx.ml, which has every writing of a level that the preparation itself reads as one.
"""

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from xpmlp.backends import HostArray
from xpmlp.interop.onnx import ML, Graph, answers_of, named_answers
from xpmlp.network import Network, Parameters
from xpmlp.tabular import TablePreparation
from xpmlp.tabular.cells import GAPS
from xpmlp.tabular.columns import of_texts
from xpmlp.tabular.encoding import n_inputs
from xpmlp.tabular.kinds import CategoryKind, DateKind, LeftOut, NumberKind, level_codes
from xpmlp.tabular.scales import SOFT, Scale


def table_to_onnx(
    path: str | os.PathLike[str],
    preparation: TablePreparation,
    network: Network,
    p: Parameters,
    dtype: str = "float32",
    **tail: Any,
) -> None:
    """Write an estimator of tables, its preparation included; `tail` is what `answers_of` is given beside.

    Raises
    ------
    ImportError
        If onnx is not installed.
    ValueError
        If ONNX has no words for a column, an activation or the labels.
    """
    demand_words(preparation)
    used = [kind for kind in preparation.kinds_ if not isinstance(kind, LeftOut)]
    taken = {kind.name for kind in used} | {"X"}

    def free(name: str) -> str:
        while name in taken:
            name += "_"
        taken.add(name)
        return name

    g = Graph(dtype, free)
    if not hasattr(preparation, "feature_names_in_") and all(isinstance(kind, NumberKind) for kind in used):
        inputs: list[tuple[str, Any, Any]] = [("X", np.float64, ["batch", preparation.n_features_in_])]
        where = {kind.name: i for i, kind in enumerate(preparation.kinds_)}
        columns = {kind.name: column_of(g, "X", where[kind.name]) for kind in used}
    else:
        types = {kind.name: np.float64 if isinstance(kind, NumberKind) else "text" for kind in used}
        inputs = [(name, types[name], ["batch", 1]) for name in types]
        columns = {name: name for name in types}
    x = prepared(g, preparation, columns)
    outputs = named_answers(g, answers_of(g, x, network, p, **tail))
    g.write(path, inputs, outputs)


def prepared(g: Graph, preparation: TablePreparation, columns: dict[str, str]) -> str:
    """Draw the preparation of the columns whose names in the graph are given; the name of what the network takes."""
    numbers, gaps, levels, at = [], [], [], 0
    for kind in preparation.kinds_:
        if isinstance(kind, NumberKind):
            missing = g.op("IsNaN", columns[kind.name])
            numbers.append(_scaled(g, preparation.scales_[at], columns[kind.name], missing))
            gaps += [_number(g, missing)] if kind.gaps else []
            at += 1
        elif isinstance(kind, CategoryKind):
            levels.append(_levels(g, kind, columns[kind.name], preparation._words()))
    every = [*numbers, *gaps, *levels]
    x = g.op("Concat", *every, axis=1) if len(every) > 1 else every[0]
    if preparation.silent_:
        heard = np.ones(len(preparation.groups_), dtype=g.dtype)
        heard[list(preparation.silent_)] = 0.0
        x = g.op("Mul", x, g.constant(g.free("heard"), heard))
    return x


def demand_words(preparation: TablePreparation) -> None:
    """ValueError where there is a column that ONNX has no words for."""
    dates = [kind.name for kind in preparation.kinds_ if isinstance(kind, DateKind)]
    if dates:
        which = f"column {dates[0]!r} holds" if len(dates) == 1 else f"columns {', '.join(map(repr, dates))} hold"
        raise ValueError(
            f"ONNX has no words for dates, and {which} them. Export the network alone, model.network_.to_onnx(path), "
            "and give it what model.preparation_.transform(X) makes of a table; or fit on numbers made of the dates."
        )


def column_of(g: Graph, x: str, i: int) -> str:
    """Draw one column of a matrix, shape (batch, 1)."""
    return g.op("Gather", x, g.whole("column", [i]), axis=1)


def _wide(g: Graph, value: float) -> str:
    return g.constant(g.free("wide"), np.asarray(value, dtype=np.float64))


def _number(g: Graph, name: str) -> str:
    return g.op("Cast", name, to=g.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(g.dtype)))


def _scaled(g: Graph, scale: Scale, x: str, missing: str) -> str:
    """See `Scale.apply`: z = u / sqrt(1 + (u / 3)^2), and 0 for gaps."""
    zero = _wide(g, 0.0)
    if scale.width == 0.0:
        return _number(g, g.op("Where", missing, zero, zero))
    half = g.op("Sub", g.op("Mul", x, _wide(g, 0.5)), _wide(g, scale.centre / 2.0))
    u = g.op("Div", half, _wide(g, scale.width / 2.0))
    u = g.op("Max", g.op("Min", g.op("Where", missing, zero, u), _wide(g, 1e9)), _wide(g, -1e9))
    soft = g.op("Div", u, _wide(g, SOFT))
    z = g.op("Div", u, g.op("Sqrt", g.op("Add", g.op("Mul", soft, soft), _wide(g, 1.0))))
    # What the preparation hands on is float32
    return _number(g, g.op("Cast", z, to=g.onnx.TensorProto.FLOAT))


def _levels(g: Graph, kind: CategoryKind, x: str, words: frozenset[str]) -> str:
    writings, codes = writings_of(kind, words)
    code = g.op("LabelEncoder", x, domain=ML, keys_strings=writings, values_int64s=codes.tolist(), default_int64=-1)
    if n_inputs(kind) == 1:  # +1 for the first level, -1 for the second
        first, second = (_number(g, g.op("Equal", code, g.whole("level", [level]))) for level in (0, 1))
        return g.op("Sub", first, second)
    return _number(g, g.op("Equal", code, g.whole("levels", range(len(kind.levels)))))


def writings_of(kind: CategoryKind, words: frozenset[str]) -> tuple[list[str], HostArray]:
    """The texts that the preparation reads as a level, and which: levels letter for letter, 3 and 3.0, True, gaps."""
    tried = list(dict.fromkeys(_tried(kind, (*GAPS, *words))))
    codes = level_codes(of_texts(kind.name, tried), kind, words)
    known = np.flatnonzero(codes >= 0)
    return [tried[i] for i in known], codes[known]


def _tried(kind: CategoryKind, gaps: Sequence[str]) -> Iterator[str]:
    for level in kind.levels:
        if level is not None:
            yield from (level, f"{level}.0", level.removesuffix(".0"))
            if level.lower() in ("true", "false"):
                yield from (level.lower(), level.upper(), level.capitalize())
    yield from ("0", "1")
    for gap in gaps:
        yield from (gap, gap.upper(), gap.capitalize(), gap.title())
    yield from ("NaN", "NaT")
