"""`backends`: what works on this machine, and what to do about what does not; `bench`: how fast each of them is."""

import argparse
import os
import time
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import numpy as np

from xpmlp.backends import BACKENDS, Probe, available_backends, probe
from xpmlp.backends.config import config_context
from xpmlp.backends.transfer import to_backend
from xpmlp.cli.screen import CliError, columns, dump, paint, say, say_line, width, wrap
from xpmlp.mlp import MLP

SIZES = [64, 256, 128, 10]
ROWS, BATCH = 10_000, 250


def show_backends(options: argparse.Namespace) -> int:
    """Try every backend and print what was found."""
    _leave_memory()
    found = {name: probe(name) for name in BACKENDS}
    if options.json:
        dump({name: asdict(it) for name, it in found.items()})
    else:
        print(table(found))
    return 0


def _leave_memory() -> None:
    # To try a library is to start it, and JAX would take three quarters of a card's memory from the others.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def table(found: dict[str, Probe]) -> str:
    """Lay the probes out, one row each; beneath a row that is not ok, what is wrong and what to do about it."""
    rows = [("backend", "version", "state")]
    rows += [(name, it.version or "-", it.state) for name, it in found.items()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    starts = ["".join(f"{cell:{width}}  " for cell, width in zip(row, widths, strict=True)) for row in rows]
    lines = [*wrap("devices", starts[0]), "-" * width()]
    for start, it in zip(starts[1:], found.values(), strict=True):
        state = f"{it.state:{widths[2]}}"
        colour = "yellow" if it.hint else "green"
        first, *rest = wrap(", ".join(it.devices) or "-", start)
        lines += [first.replace(state, paint(state, colour), 1), *rest]
        if it.hint:
            lines += [*wrap(f"{it.message}.", "    "), *wrap(f"What to do: {it.hint}.", "    ")]
    return "\n".join(lines)


def bench(options: argparse.Namespace) -> int:
    """Time whole epochs: one to warm up, then as many as fit into the time, and the best of them."""
    if not options.seconds > 0:
        raise CliError(f"--seconds must be above 0; got {options.seconds:g}.")
    _leave_memory()
    names = options.backend or ["numpy", *(name for name in available_backends() if name != "numpy")]
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(ROWS, SIZES[0])), np.eye(SIZES[-1])[rng.integers(SIZES[-1], size=ROWS)]
    results = []
    for name in names:
        for dtype in ("float32", "float64"):
            with config_context(fallback="error"):
                net = MLP(SIZES, "relu", "cross_entropy", backend=name, dtype=dtype, random_state=0)
            if net.dtype != dtype:
                continue
            seconds = _best_epoch(net, X, y, options.seconds)
            results.append(
                {"backend": name, "device": net.place.device_name, "dtype": dtype, "samples_per_second": ROWS / seconds}
            )
            if not options.json:
                say(f"{name}, {dtype}: {ROWS / seconds:,.0f} samples per second")
    if options.json:
        dump({"layers": SIZES, "batch_size": BATCH, "optimizer": "adam", "results": results})
        return 0
    slowest = {it["dtype"]: it["samples_per_second"] for it in reversed(results)}
    say_line(
        f"\nTraining {'-'.join(map(str, SIZES))}, relu, cross entropy, Adam, batches of {BATCH}; samples per second\n"
    )
    rows = []
    for it in results:
        ratio = it["samples_per_second"] / slowest[it["dtype"]]
        rate = f"{it['samples_per_second']:,.0f}"
        rows.append((it["backend"], it["device"], it["dtype"], rate, f"{ratio:.2f} x {results[0]['backend']}"))
    print("\n".join(columns(rows, right=(3,))))
    say_line("\nOne size on one machine: see benchmarks/ for others, and for other libraries.")
    return 0


def _best_epoch(net: MLP, X: Any, y: Any, limit: float) -> float:
    x, t = (to_backend(values.astype(net.dtype), net.place.backend.name) for values in (X, y))
    began = time.perf_counter()
    stamps: list[float] = []

    def stamp(*_: Any) -> bool:
        stamps.append(time.perf_counter())
        return stamps[-1] - began > limit and len(stamps) > 2

    net.fit(x, t, epochs=10_000, batch_size=BATCH, callbacks=[stamp])
    times = [after - before for before, after in pairwise(stamps)]
    return min(times)
