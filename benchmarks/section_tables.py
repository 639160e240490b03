"""Networks with parts and members, as tables are learned: a step, and a prediction, beside their bare products.

Ten numbers become codes of 64 bins and 8 inputs each, and stand beside 20 other inputs; two hidden layers of 256, one
output, float32, batches of 256, dropout 0.2, AdamW with factors by name and an average of the weights. What counts as a
bare product, each into an array that is there: of a step those of the codes, of every layer, forward (z), dW and da,
da[0] included, which the parts ask for; of a prediction those of the codes and layers, in the same blocks. (That of one
term, da of the only output, is a multiplication.)
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from report import Goal, Report
from timing import rounds

from xpmlp.backends import select
from xpmlp.network import Network
from xpmlp.network.activations import activation
from xpmlp.network.losses import loss
from xpmlp.network.parts import part
from xpmlp.network.propagation import layout_with_parts
from xpmlp.optim.optimizers import optimizer
from xpmlp.runners import Data, Task, find_runner
from xpmlp.runners.step import State
from xpmlp.training import outputs, rows_at_once

MEMBERS = (8, 4)
NUMBERS, BINS, WIDTH, OTHERS, UNITS, BATCH = 10, 64, 8, 20, 256, 256
STEPS, ROWS = 32, 8_192
MOST_STEP, MOST_PREDICT = 1.4, 1.6  # times the bare products


def tables(*, repeats: int, quick: bool, **_: Any) -> dict[str, Any]:
    """Times by number of members: steps and predictions, and their products."""
    found = {}
    for k in MEMBERS:
        steps, rows = (2, 512) if quick else (STEPS, ROWS)
        network, p = _network(k)
        ready = {
            "step": _steps(network, p, steps),
            "products of step": _products(network, BATCH, steps, back=True),
            "predict": _prediction(network, p, rows),
        }
        block = min(rows_at_once(network, select("numpy")), rows)
        ready["products of predict"] = _products(network, block, rows // block, back=False)
        for work in ready.values():
            work()
        found[str(k)] = rounds(ready, repeats) | {"steps": steps, "rows": rows}
    return found


def _network(k: int) -> tuple[Network, np.ndarray]:
    rng = np.random.default_rng(0)
    edges = np.sort(rng.uniform(-2.0, 2.0, size=(NUMBERS, BINS + 1)), axis=1)
    groups = [*np.repeat(np.arange(NUMBERS), WIDTH), *range(NUMBERS, NUMBERS + OTHERS)]
    parts = ((part("piecewise", edges=edges.tolist(), width=WIDTH), part("member_scale", groups=groups)),)
    layout = layout_with_parts((NUMBERS + OTHERS, UNITS, UNITS, 1), parts, k)
    rows = activation("silu"), activation("silu"), activation("identity")
    network = Network(layout, rows, loss("squared_error"), (0.2, 0.2), parts)
    return network, (UNITS**-0.5 * rng.standard_normal(layout.size)).astype(np.float32)


def _steps(network: Network, p: np.ndarray, steps: int) -> Callable[[], None]:
    rng, n, layout = np.random.default_rng(0), steps * BATCH, network.layout
    method = replace(optimizer("adamw", beta_2=0.95), average=2.0 * steps)
    task = Task(
        network,
        method,
        factors=layout.fill(lambda it: 5.0 if it.name.startswith("piecewise") else 1.0, p),
        decays=layout.fill(lambda it: it.decays, p),
    )
    x = rng.standard_normal((n, NUMBERS + OTHERS), dtype=np.float32)
    y = rng.standard_normal((n, 1), dtype=np.float32)
    runner = find_runner(task, Data(select("numpy"), x, y, None, BATCH), np.full((1, 1), 7, np.int32))
    state = State(p.copy(), method.init(p).slots, 0)
    order = rng.permutation(n)

    def go() -> None:
        nonlocal state
        state, _ = runner.epoch(state, order, lambda _i: 1e-3)

    return go


def _prediction(network: Network, p: np.ndarray, rows: int) -> Callable[[], None]:
    x = np.random.default_rng(0).standard_normal((rows, NUMBERS + OTHERS), dtype=np.float32)
    place = select("numpy")
    data = Data(place, x, None, None, rows_at_once(network, place))
    return lambda: outputs(network, network.layout.unpack(p), data)


def _products(network: Network, batch: int, times: int, *, back: bool) -> Callable[[], None]:
    k, (n, *_) = network.members, network.layout.sizes
    rng = np.random.default_rng(0)

    def made(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    code, bins, o = made(NUMBERS, BINS, batch), made(NUMBERS, BINS, WIDTH), made(NUMBERS, WIDTH, batch)
    W1, W2, W3 = made(n, UNITS), made(UNITS, UNITS), made(k, UNITS, 1)
    u, z1, z2, z3 = made(n, k * batch), made(UNITS, k * batch), made(UNITS, k * batch), made(k, 1, batch)
    dbins, dW1, dW2, dW3, da1, da2, du = map(np.empty_like, (bins, W1, W2, W3, z1, z2, u))
    h2, W3_of_each, z3_of_each = (it.transpose(1, 0, 2) for it in (z2.reshape(UNITS, k, batch), W3, z3))

    def go() -> None:
        for _ in range(times):
            np.matmul(bins.mT, code, out=o)
            np.matmul(W1.T, u, out=z1)
            np.matmul(W2.T, z1, out=z2)
            np.matmul(W3.mT, h2, out=z3)
            if back:
                np.matmul(h2, z3.mT, out=dW3)
                np.multiply(W3_of_each, z3_of_each, out=da2.reshape(UNITS, k, batch))
                np.matmul(z1, da2.T, out=dW2)
                np.matmul(W2, da2, out=da1)
                np.matmul(u, da1.T, out=dW1)
                np.matmul(W1, da1, out=du)
                np.matmul(code, o.mT, out=dbins)

    return go


def report_tables(report: Report, found: dict[str, Any]) -> None:
    """Milliseconds, and ratios."""
    report.head("Members and parts: a step, and a prediction, beside their bare products, NumPy")
    report.say(f"{'':<14}{'step':>9}{'products':>10}{'ratio':>8}{'':<14}{'1,000 rows':>12}{'products':>10}{'ratio':>8}")
    for k, times in found.items():
        line = f"  {k + ' members':<12}"
        for what, unit, goal in (
            ("step", times["steps"], Goal(at_most=MOST_STEP)),
            ("predict", times["rows"] / 1_000, Goal(at_most=MOST_PREDICT)),
        ):
            ours, bare = {"times": times[what]}, {"times": times[f"products of {what}"]}
            for name, given in ((what, ours), (f"products of {what}", bare)):
                seconds, _ = report.row("tables", k, name, "s", [it / unit for it in report.seconds(given)])
                line += f"{1e3 * seconds:>{10 if name != 'step' else 9}.2f}"
            values = report.ratios(ours, bare)
            ratio, mark = report.row("tables", k, f"{what} / products", "", values, goal)
            line += f"{ratio:>8.2f} {mark:<2} ({goal})  "
        report.say(line)
