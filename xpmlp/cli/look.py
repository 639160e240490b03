"""`inspect`, `check-gradients`: look into a model file, check its derivatives."""

import argparse
from dataclasses import replace
from typing import Any

import numpy as np

from xpmlp.backends import select
from xpmlp.backends.transfer import to_numpy
from xpmlp.cli import scores
from xpmlp.cli.models import Opened, in_words, network_of, open_model
from xpmlp.cli.screen import CliError, columns, dump, paint
from xpmlp.cli.tables import Reading, read
from xpmlp.cli.targets import as_classes, read_target
from xpmlp.inspection import check_gradients
from xpmlp.inspection.models import batch_of, open_up
from xpmlp.io import storage
from xpmlp.mlp import MLP, content_of, mlp_of
from xpmlp.tabular import TablePreparation
from xpmlp.tabular.kinds import CategoryKind, DateKind, Kind, LeftOut, NumberKind

ROWS = 32  # of a gradient check


def inspect(options: argparse.Namespace) -> int:
    """Load and tell."""
    opened = open_model(options.model)
    found = describe(opened)
    if options.json:
        dump(found)
        return 0
    head = f"{options.model}: {found['kind']}, {found['parameters']:,} parameters, {found['dtype']}"
    print("\n".join(paint(line, "bold") for line in columns([(head,)])))
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
    rest = [("network", found["network"])] if found["network"] else []
    rest.append(("loss", found["loss"]))
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
        rest.append(("target", f"{opened.target} ({opened.task})"))
        rest += [("column", told) for told in _columns(preparation)]
        rest += [("left out", f"{name}: {why}") for name, why in preparation.left_out_.items()]
    if isinstance(summary, dict):
        with storage.believing(options.model):
            told = ", ".join(f"{label} {value}" for label, value in scores.rows_of(summary["scores"]))
            held = int(summary["rows"]["held_out"])
        rest.append(("score", f"{told} on {held:,} rows held out"))
    print("\n" + "\n".join(columns(rest)))
    return 0


def _columns(preparation: TablePreparation) -> list[str]:
    """A line for each column that is used."""
    scales = iter(preparation.scales_)
    return [_column(kind, scales) for kind in preparation.kinds_ if not isinstance(kind, LeftOut)]


def _column(kind: Kind, scales: Any) -> str:
    if isinstance(kind, CategoryKind):
        levels = ["(missing)" if level is None else level for level in kind.levels]
        return f"{kind.name}: " + ", ".join(levels[:8]) + (f", ... ({len(levels)})" if len(levels) > 8 else "")
    gaps = ", with an input for missing" if isinstance(kind, NumberKind | DateKind) and kind.gaps else ""
    if isinstance(kind, DateKind):
        for _ in kind.parts:
            next(scales)
        return f"{kind.name}: dates from {kind.first[:10]}, as {', '.join(kind.parts)}{gaps}"
    scale = next(scales)
    return f"{kind.name}: number, median {scale.centre:.4g}, quartiles {scale.width:.4g} apart{gaps}"


def describe(opened: Opened) -> dict[str, Any]:
    """What is in the file, as plain values."""
    model = opened.model
    body = open_up(model)
    W, b = ([to_numpy(values) for values in layers[1:]] for layers in (body.W, body.b))
    seen = model.history if isinstance(model, MLP) else getattr(model, "history_", {})
    curve = seen.get("loss", []) or getattr(model, "loss_curve_", None) or []
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
        "network": in_words(network_of(model)) if isinstance(network_of(model), MLP) else "",
        "loss": body.network.loss.name,
        "layers": layers,
        "classes": model.classes_.tolist() if hasattr(model, "classes_") else None,
        "epochs": len(curve),
        "first_loss": float(np.mean(curve[0])) if curve else None,
        "last_loss": float(np.mean(curve[-1])) if curve else None,
        "inputs": None if opened.preparation is None else opened.preparation.get_feature_names_out().tolist(),
        "preparation": None if opened.preparation is None else opened.preparation.to_dict(),
        "summary": opened.document.get("summary"),
        "versions": opened.document.get("versions"),
    }


# --- Derivatives ---


def check(options: argparse.Namespace) -> int:
    """Build the same network as an MLP and check it."""
    opened = open_model(options.model)
    model = network_of(opened.model)
    if isinstance(model, MLP):
        content = content_of(model)
        p = to_numpy(content.p).astype(np.float64)
        net = mlp_of(content._replace(place=select(None), dtype="float64", p=p))
    else:
        body = open_up(model)
        net = MLP(body.network.layout.sizes, list(body.network.activations), body.network.loss, dtype="float64")
        W, b = ([to_numpy(values).astype(np.float64) for values in layers[1:]] for layers in (body.W, body.b))
        net.set_weights(W, b)
    if net.network.loss.name == "cross_entropy" and net.network.layout.sizes[-1] < 2:
        raise CliError("cross entropy needs at least two outputs.")
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
    X = rng.normal(size=(ROWS, net.network.n_inputs))
    match loss.targets:
        case "distribution":
            return X, np.eye(width)[rng.integers(width, size=ROWS)]
        case "probability":
            return X, rng.integers(2, size=(ROWS, width)).astype(np.float64)
        case "nonnegative":
            return X, rng.poisson(3.0, size=(ROWS, width)).astype(np.float64)
    return X, rng.normal(size=(ROWS, width))


def _from_table(opened: Opened, options: argparse.Namespace) -> tuple[Any, Any]:
    file = read(options.data, Reading(options.delimiter, options.header, options.encoding))
    if opened.preparation is None:
        raise CliError(
            "this file was not written by `train`, so the target's column is not known; leave the table out."
        )
    target = read_target(file, str(opened.target), opened.task)
    some = target.rows[:: max(len(target.rows) // ROWS, 1)][:ROWS]
    values = target.values[np.searchsorted(target.rows, some)]
    if hasattr(opened.model, "classes_"):
        values, known = as_classes(values, opened.model.classes_)
        values, some = values[known], some[known]
        if not len(some):
            raise CliError(f"the model knows none of the labels that {options.data} has.")
    file = replace(file, table=file.table.take(some))
    batch = batch_of(opened.model, opened.inputs(file, []), values)
    return to_numpy(batch.x).astype(np.float64), to_numpy(batch.y).astype(np.float64)
