"""`export`: a model file for other runtimes, with its preparation in it."""

import argparse
import os
from typing import Any

import numpy as np

from xpmlp.cli.models import Opened, open_model
from xpmlp.cli.screen import columns, dump, say
from xpmlp.io import storage
from xpmlp.tabular import TablePreparation
from xpmlp.tabular.kinds import CategoryKind, NumberKind
from xpmlp.tabular.scales import SOFT


def export(options: argparse.Namespace) -> int:
    """Load, write, say what the model takes."""
    opened = open_model(options.model)
    opened.model.to_onnx(options.onnx, dtype=options.dtype)
    if not opened.takes_tables and opened.preparation is not None:  # of a file of version 0.1
        put_before(options.onnx, opened.preparation, options.dtype)
        far = [abs(scale.centre) / scale.width for scale in opened.preparation.scales_ if scale.width > 0.0]
        if options.dtype == "float32" and max(far, default=0.0) > 1e4:
            say(
                "a column lies more than 10,000 of its widths from 0: float32 loses digits; --dtype float64 does not.",
                "note: ",
            )
    inputs = _inputs(opened)
    if options.json:
        names = None if inputs is None else [name for name, _ in inputs]
        dump({"onnx": options.onnx, "dtype": options.dtype, "inputs": names})
        return 0
    if opened.takes_tables:
        head = f"{options.onnx}: {options.dtype}, an input of shape (rows, 1) for each column"
    else:
        head = f"{options.onnx}: input X, {options.dtype}, of any number of rows"
    print("\n".join(columns([(head,)])))
    if inputs:
        print("\n".join(columns(inputs if opened.takes_tables else [pair[::-1] for pair in inputs], indent="  ")))
    return 0


def _inputs(opened: Opened) -> list[tuple[str, str]] | None:
    """The name of each input, and what it is or where; None where that is not known."""
    if opened.preparation is None:
        return None
    if not opened.takes_tables:
        return [(name, f"X[:, {i}]") for i, name in enumerate(opened.preparation.get_feature_names_out().tolist())]
    words = {NumberKind: "float64, NaN for a gap", CategoryKind: "text, the empty one for a gap"}
    return [(kind.name, words[type(kind)]) for kind in opened.preparation.kinds_ if type(kind) in words]


def put_before(path: str | os.PathLike[str], preparation: TablePreparation, dtype: str) -> None:
    """Make a model in an ONNX file take the numbers of a table as they are, instead of the prepared ones.

    u = (X - centre) / width, X' = u / sqrt(1 + (u / 3)^2); the inputs of 0 and 1 pass through, and those that never had
    anything to learn from are 0.
    """
    import onnx

    n, f = len(preparation.groups_), preparation.n_numbers_
    centre, inverse, soft = np.zeros(n), np.ones(n), np.zeros(n)
    centre[:f] = [scale.centre for scale in preparation.scales_]
    inverse[:f] = [1.0 / scale.width if scale.width > 0.0 else 0.0 for scale in preparation.scales_]
    inverse[list(preparation.silent_)] = 0.0
    soft[:f] = SOFT**-2
    model: Any = onnx.load(path)
    make = onnx.helper.make_node
    nodes = [
        make("Sub", ["X", "centre"], ["from_centre"]),
        make("Mul", ["from_centre", "inverse_width"], ["u"]),
        make("Mul", ["u", "u"], ["u_squared"]),
        make("Mul", ["u_squared", "softness"], ["far"]),
        make("Add", ["far", "one"], ["one_and_far"]),
        make("Sqrt", ["one_and_far"], ["root"]),
        make("Div", ["u", "root"], ["prepared"]),
    ]
    constants = {"centre": centre, "inverse_width": inverse, "softness": soft, "one": np.ones(1)}
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            if name == "X":
                node.input[i] = "prepared"
    old = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *old])
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(values.astype(dtype), name) for name, values in constants.items()
    )
    onnx.checker.check_model(model, full_check=True)
    with storage.replacing(path) as file:
        file.write(model.SerializeToString())
