"""The JAX runner: an epoch is one compiled program, a scan of `step` over its batches and the short last one.

What is compiled is kept from fit to fit: tasks that do the same arithmetic share one program, and JAX keeps one
executable of it for each shape.
"""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np

from xpmlp._typing import Array
from xpmlp.backends import HostArray
from xpmlp.network import Drop, reciprocal
from xpmlp.runners.eager import Data
from xpmlp.runners.step import State, Task, step, told, total_weight


def _meaning(function: Any) -> Any:
    # Two partials of one function with the same arguments do the same; rows with parameters hold partials.
    if isinstance(function, functools.partial):
        return function.func, function.args, tuple(sorted(function.keywords.items()))
    return function


class _SameArithmetic:
    """A task as a key: equal to another that the same program can serve. Its arrays are arguments of the program."""

    def __init__(self, task: Task) -> None:
        self.task = replace(task, factors=None, decays=None)
        network, optimizer, loss = task.network, task.optimizer, task.network.loss
        self.key = (
            (network.layout, network.activations, network.dropout, loss.name),
            tuple(map(_meaning, (loss.value, loss.derivative, loss.value_from_scores, loss.derivative_from_scores))),
            (optimizer.name, optimizer.step, tuple(optimizer.parameters.items()), optimizer.weight_decay),
            (task.l2, task.clip_norm),
        )

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _SameArithmetic) and self.key == other.key


class _Part(NamedTuple):
    """Batches of one size: which samples, and the optimizer's scalars for each."""

    rows: Any  # (batches, batch) or (batches, m, batch); None for all samples, in the order they have
    rates: Any  # (batches, scalars)


@functools.lru_cache(maxsize=64)
def _program(same: _SameArithmetic) -> Callable[..., Any]:
    # The slots are donated. The parameters are not: who keeps those of the best epoch then need not copy them.
    @functools.partial(jax.jit, donate_argnums=1)
    def epoch(p: Array, slots: Any, samples: Any, parts: tuple[_Part, ...], arrays: Any, drop: Any) -> Any:
        task = replace(same.task, factors=arrays[0], decays=arrays[1])

        def body(carry: Any, part: _Part) -> Any:
            p, slots, total, seen, t = carry
            x, y, w = samples
            if part.rows is not None:
                x, y, w = _take(x, part.rows, 2), _take(y, part.rows, 2), _take(w, part.rows, 1)
            dropped = None if drop is None else Drop(drop[0], t)
            p, slots, loss = step(task, p, slots, tuple(part.rates), x, y, w, dropped)
            weight = total_weight(x, w)
            return (p, slots, total + loss * weight, seen + weight, t + 1), None

        nothing = jax.numpy.zeros(p.shape[:-1], p.dtype)
        carry = (p, slots, nothing, nothing, 0 if drop is None else drop[1])
        for part in parts:
            if len(part.rates) == 1:
                alone = _Part(None if part.rows is None else part.rows[0], part.rates[0])
                carry, _ = body(carry, alone)
            else:
                carry, _ = jax.lax.scan(body, carry, part)
        p, slots, total, seen, _ = carry
        return p, slots, told(total * reciprocal(seen), p)

    return epoch  # type: ignore[no-any-return]  # jax.jit is untyped


def _take(values: Array | None, rows: Array, ndim: int) -> Array | None:
    # Rows of `values`, which has `ndim` axes where all networks share it; `rows` is (batch,) or (m, batch).
    if values is None:
        return None
    if rows.ndim == 1:
        return jax.numpy.take(values, rows, axis=values.ndim - ndim)
    return jax.vmap(lambda own, chosen: own[chosen])(values, rows) if values.ndim > ndim else values[rows]


class Runner:
    """Executes an epoch as one program; Ctrl-C is heard when it ends."""

    name = "jax"
    reason = ""

    def __init__(self, task: Task, data: Data, seed: Array | None = None) -> None:
        self.task, self.data, self.seed = task, data, seed
        self.program = _program(_SameArithmetic(task))

    def epoch(
        self,
        state: State,
        order: HostArray | None,
        rate_of: Callable[[int], float],
        interrupted: Callable[[], bool] = lambda: False,  # noqa: ARG002  # a compiled epoch cannot ask
    ) -> tuple[State, Array]:
        """One epoch; see `eager.Runner.epoch`."""
        data, optimizer = self.data, self.task.optimizer
        p, slots, t = state
        rates = [optimizer.rates(t + 1 + i, rate_of(i), **optimizer.parameters) for i in range(data.n_batches)]
        table = np.asarray(rates, dtype=p.dtype)
        if data.n_batches == 1:
            parts: list[_Part] = [_Part(None, table)]
        else:
            order = np.arange(data.n) if order is None else order
            whole = data.n // data.batch_size
            edge = whole * data.batch_size
            rows = order[..., :edge].reshape((*order.shape[:-1], whole, data.batch_size)).astype(np.int32)
            parts = [_Part(np.moveaxis(rows, -2, 0), table[:whole])]
            if edge < data.n:
                parts.append(_Part(order[None, ..., edge:].astype(np.int32), table[whole:]))
        drop = None if self.seed is None else (self.seed, np.full((1, 1), (t + 1) % 2**31, dtype=np.int32))
        samples, arrays = (data.x, data.y, data.w), (self.task.factors, self.task.decays)
        p, slots, loss = self.program(p, slots, samples, tuple(parts), arrays, drop)
        return State(p, slots, t + data.n_batches), loss
