"""`inspect`, `export`, `check-gradients`: look into a model file, hand it to other runtimes, check its derivatives."""

import argparse
import copy
from typing import Any

import numpy as np

from xpmlp.backends.transfer import to_numpy
from xpmlp.cli.predict import Opened, as_classes, open_model
from xpmlp.cli.preparation import Number, Preparation, read_target
from xpmlp.cli.screen import CliError, add_command, add_json, columns, dump, paint, say
from xpmlp.cli.tables import read
from xpmlp.cli.train import add_reading, names, score_rows
from xpmlp.inspection import check_gradients
from xpmlp.inspection.models import batch_of, open_up
from xpmlp.io import storage
from xpmlp.mlp import MLP

ROWS = 32  # of a gradient check


def add_inspect(commands: Any) -> None:
    """Add `inspect`."""
    parser = add_command(
        commands,
        "inspect",
        "say what is in a model file: layers, columns, classes, training, score",
        "xpmlp inspect model.safetensors\nxpmlp inspect model.safetensors --json",
        inspect,
    )
    parser.add_argument("model", help="the model file")
    add_json(parser)


def inspect(options: argparse.Namespace) -> int:
    """Load and tell."""
    opened = open_model(options.model)
    found = describe(opened)
    if options.json:
        dump(found)
        return 0
    print(paint(f"{options.model}: {found['kind']}, {found['parameters']:,} parameters, {found['dtype']}", "bold"))
    rows = [("layer", "W", "b", "activation", "mean |W|", "max |W|")]
    rows += [
        (
            str(layer["layer"]),
            "({}, {})".format(*layer["W"]),
            f"({layer['b']},)",
            layer["activation"],
            f"{layer['mean_W']:.3g}",
            f"{layer['max_W']:.3g}",
        )
        for layer in found["layers"]
    ]
    print("\n" + "\n".join(columns(rows, right=(0, 4))))
    rest = [("loss", found["loss"])]
    if found["classes"] is not None:
        shown = ", ".join(map(str, found["classes"][:20]))
        rest.append(("classes", shown + (f", ... ({len(found['classes'])})" if len(found["classes"]) > 20 else "")))
    if found["epochs"]:
        rest.append(
            ("training", f"{found['epochs']} epochs, loss {found['first_loss']:.4g} to {found['last_loss']:.4g}")
        )
    summary = opened.document.get("summary")
    preparation = opened.preparation
    if preparation is not None:
        rest.append(("target", f"{preparation.target} ({preparation.task})"))
        rest += [("column", _column(column)) for column in preparation.columns]
        rest += [("left out", f"{name}: {why}") for name, why in preparation.left_out]
    if isinstance(summary, dict):
        with storage.believing(options.model):
            scores = score_rows(summary["scores"], summary["baseline"])
            held = int(summary["rows"]["held_out"])
        rest.append(
            ("score", ", ".join(f"{label} {value}" for label, value, _ in scores) + f" on {held:,} rows held out")
        )
    print("\n" + "\n".join(columns(rest)))
    return 0


def _column(column: Any) -> str:
    if isinstance(column, Number):
        gaps = ", with an input for missing" if column.flags_missing else ""
        return (
            f"{column.name}: number, mean {column.mean:.4g}, scale {column.scale:.4g}, median {column.fill:.4g}{gaps}"
        )
    levels = ["(missing)" if level is None else level for level in column.levels]
    return f"{column.name}: " + ", ".join(levels[:8]) + (f", ... ({len(levels)})" if len(levels) > 8 else "")


def describe(opened: Opened) -> dict[str, Any]:
    """What is in the file, as plain values."""
    model = opened.model
    body = open_up(model)
    W, b = ([to_numpy(values) for values in layers[1:]] for layers in (body.W, body.b))
    curve = model.history.get("loss", []) if isinstance(model, MLP) else getattr(model, "loss_curve_", None) or []
    layers = [
        {
            "layer": k,
            "W": list(W[k - 1].shape[-2:]),
            "b": b[k - 1].shape[-1],
            "activation": body.network.activations[k - 1].name,
            "mean_W": float(np.mean(np.abs(W[k - 1]))),
            "max_W": float(np.max(np.abs(W[k - 1]))),
        }
        for k in range(1, len(W) + 1)
    ]
    return {
        "kind": type(model).__name__,
        "networks": body.n_networks,
        "parameters": body.network.layout.n_parameters * (body.n_networks or 1),
        "dtype": body.dtype,
        "loss": body.network.loss.name,
        "layers": layers,
        "classes": model.classes_.tolist() if hasattr(model, "classes_") else None,
        "epochs": len(curve),
        "first_loss": float(np.mean(curve[0])) if curve else None,
        "last_loss": float(np.mean(curve[-1])) if curve else None,
        "inputs": opened.preparation.inputs if opened.preparation else None,
        "preparation": opened.preparation.document() if opened.preparation else None,
        "summary": opened.document.get("summary"),
        "versions": opened.document.get("versions"),
    }


# --- Export ---


def add_export(commands: Any) -> None:
    """Add `export`."""
    parser = add_command(
        commands,
        "export",
        "write a model for other runtimes: ONNX",
        "xpmlp export model.safetensors --onnx model.onnx\n\n"
        "Standardisation becomes part of the first layer: the inputs are the numbers as\n"
        "they stand in the table (the median for a missing one), then 0 and 1 for each\n"
        "category, in the order that is printed.",
        export,
    )
    parser.add_argument("model", help="the model file")
    parser.add_argument("--onnx", metavar="FILE", required=True, help="the file to write")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="default: float32")
    add_json(parser)


def export(options: argparse.Namespace) -> int:
    """Load, fold the standardisation into the first layer, write."""
    opened = open_model(options.model)
    model = opened.model
    if opened.preparation is not None:
        model = fold(model, opened.preparation, options.dtype)
        offsets = [abs(c.mean) / c.scale for c in opened.preparation.columns if isinstance(c, Number)]
        if options.dtype == "float32" and max(offsets, default=0.0) > 1e4:
            say(
                "a column lies more than 10,000 of its standard deviations from 0: float32 loses digits; "
                "--dtype float64 does not.",
                "note: ",
            )
    model.to_onnx(options.onnx, dtype=options.dtype)
    inputs = opened.preparation.inputs if opened.preparation else None
    if options.json:
        dump({"onnx": options.onnx, "dtype": options.dtype, "inputs": inputs})
        return 0
    print(f"{options.onnx}: input X, {options.dtype}, of any number of rows")
    if inputs:
        print("\n".join(columns([(f"X[:, {i}]", name) for i, name in enumerate(inputs)], indent="  ")))
    return 0


def fold(model: Any, preparation: Preparation, dtype: str = "float64") -> Any:
    """A copy of an estimator whose first layer takes the numbers of the table as they are.

    (x - mean) / scale @ W + b = x @ (W / scale) + (b - mean / scale @ W)
    """
    W, b = (to_numpy(values[0]).astype(np.float64) for values in (model.coefs_, model.intercepts_))
    mean, scale = np.zeros(len(W)), np.ones(len(W))
    at = 0
    for column in preparation.columns:
        if isinstance(column, Number):
            mean[at], scale[at] = column.mean, column.scale
        at += len(column.inputs)
    folded = copy.deepcopy(model)
    W = W / scale[:, None]
    b = b - mean @ W
    rest = [[to_numpy(values).astype(dtype) for values in layers[1:]] for layers in (model.coefs_, model.intercepts_)]
    folded.coefs_, folded.intercepts_ = [W.astype(dtype), *rest[0]], [b.astype(dtype), *rest[1]]
    return folded


# --- Derivatives ---


def add_check_gradients(commands: Any) -> None:
    """Add `check-gradients`."""
    parser = add_command(
        commands,
        "check-gradients",
        "compare every derivative of a model's loss with a numerical one",
        "xpmlp check-gradients model.safetensors data.csv\nxpmlp check-gradients model.safetensors\n\n"
        f"On {ROWS} rows of the table, or on random numbers. Exit status 1 if one is wrong.",
        check,
    )
    parser.add_argument("model", help="the model file")
    parser.add_argument("data", nargs="?", help="a table with the target (default: random numbers)")
    parser.add_argument("--drop", metavar="COLUMNS", type=names, default=[], help="columns that are not inputs")
    add_reading(parser)
    add_json(parser)


def check(options: argparse.Namespace) -> int:
    """Build the same network as an MLP and check it."""
    opened = open_model(options.model)
    body = open_up(opened.model)
    if body.network.loss.name == "cross_entropy" and body.network.layout.sizes[-1] < 2:
        raise CliError("cross entropy needs at least two outputs.")
    net = MLP(
        body.network.layout.sizes,
        list(body.network.activations),
        body.network.loss,
        n_networks=body.n_networks,
        dtype="float64",
    )
    net.set_weights(*([to_numpy(values).astype(np.float64) for values in layers[1:]] for layers in (body.W, body.b)))
    X, y = _random(net) if options.data is None else _from_table(opened, options)
    report = check_gradients(net, X, y)
    if options.json:
        rows = [
            {
                "parameter": row.label,
                "ours": row.ours,
                "numerical": row.numerical,
                "relative": row.relative,
                "ok": row.ok,
            }
            for row in report
        ]
        dump({"ok": report.ok, "rows": rows, "hint": report.hint, "n_samples": report.n_samples})
    else:
        print(report)
    return 0 if report.ok else 1


def _random(net: MLP) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    n, loss = net.layout.sizes[-1], net.network.loss
    width = loss.target_width or n
    X = rng.normal(size=(ROWS, net.layout.sizes[0]))
    match loss.targets:
        case "distribution":
            return X, np.eye(width)[rng.integers(width, size=ROWS)]
        case "probability":
            return X, rng.integers(2, size=(ROWS, width)).astype(np.float64)
        case "nonnegative":
            return X, rng.poisson(3.0, size=(ROWS, width)).astype(np.float64)
    return X, rng.normal(size=(ROWS, width))


def _from_table(opened: Opened, options: argparse.Namespace) -> tuple[Any, Any]:
    table = read(options.data, delimiter=options.delimiter, header=not options.no_header)
    if opened.preparation is None:
        raise CliError(
            "this file was not written by `train`, so the target's column is not known; leave the table out."
        )
    target = read_target(table, opened.preparation.target, opened.preparation.task)
    some = target.rows[:: max(len(target.rows) // ROWS, 1)][:ROWS]
    values = target.values[np.searchsorted(target.rows, some)]
    if hasattr(opened.model, "classes_"):
        values, known = as_classes(values, opened.model.classes_)
        values, some = values[known], some[known]
        if not len(some):
            raise CliError(f"the model knows none of the labels that {options.data} has.")
    X, _ = opened.preparation.apply(table.rows(some))
    batch = batch_of(opened.model, X.astype(opened.model.dtype_), values)
    return to_numpy(batch.x).astype(np.float64), to_numpy(batch.y).astype(np.float64)
