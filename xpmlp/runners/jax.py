"""The JAX runner: an epoch is one compiled program, a scan of steps over its batches and the short last one.

What is compiled is kept from fit to fit: tasks that do the same arithmetic share one program, and JAX keeps one
executable of it for each shape.
"""

import contextlib
import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from xpmlp._typing import Array
from xpmlp.backends import HostArray
from xpmlp.network import Drop, reciprocal
from xpmlp.network.parameters import Layout
from xpmlp.optim.optimizers import Rates, clip
from xpmlp.runners.eager import Data
from xpmlp.runners.step import State, Task, arithmetic, gradients, step, total_weight


class _SameArithmetic:
    """A task as a key: equal to another that the same program can serve. Its arrays are arguments of the program."""

    def __init__(self, task: Task) -> None:
        self.task = replace(task, factors=None, decays=None)
        self.key = arithmetic(task)

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _SameArithmetic) and self.key == other.key


# Parameters from which on a step has W and b apart: XLA copies what is cut out of a flat vector or put together to one,
# which costs small networks less than more kernels do. Microseconds a step, flat and apart: digits (7,510 parameters)
# 79 and 84, tabular (47,879) 509 and 485, images (537,000) 2,290 and 2,030.
APART = 2**14


@functools.lru_cache(maxsize=64)
def _program(same: _SameArithmetic) -> Callable[..., Any]:
    layout = same.task.network.layout
    cut, join, take_step = (layout.unpack, _joined(layout), _step) if layout.size >= APART else (_same, _same, step)

    # The slots are donated. The parameters are not: who keeps those of the best epoch then need not copy them.
    @functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
    def epoch(batch: int, p: Array, slots: Any, samples: Any, order: Any, rates: Array, arrays: Any, drop: Any) -> Any:
        def body(carry: Any, part: tuple[Any, Array]) -> Any:
            p, slots, total, seen, t = carry
            rows, scalars = part
            x, y, w = samples
            if rows is not None:
                x, y, w = _take(x, rows, 2), _take(y, rows, 2), _take(w, rows, 1)
            dropped = None if drop is None else Drop(drop[0], t)
            p, slots, loss, _ = take_step(task, p, slots, tuple(scalars), x, y, w, dropped)
            weight = total_weight(x, w)
            return (p, slots, total + loss * weight, seen + weight, t + 1), None

        factors, decays = (None if array is None else cut(array) for array in arrays)
        task = replace(same.task, factors=factors, decays=decays)
        nothing = jax.numpy.zeros(p.shape[:-1], p.dtype)
        carry = (cut(p), tuple(map(cut, slots)), nothing, nothing, 0 if drop is None else drop[1])
        if order is None:  # one batch of all samples, in the order they have
            carry, _ = body(carry, (None, rates[0]))
        else:
            whole, rest = divmod(order.shape[-1], batch)
            edge = whole * batch
            rows = order[..., :edge].reshape((*order.shape[:-1], whole, batch))
            carry, _ = jax.lax.scan(body, carry, (jax.numpy.moveaxis(rows, -2, 0), rates[:whole]))
            if rest:
                carry, _ = body(carry, (order[..., edge:], rates[whole]))
        p, slots, total, seen, _ = carry
        p = join(p)
        return p, tuple(map(join, slots)), total * reciprocal(seen)

    return epoch  # type: ignore[no-any-return]  # jax.jit is untyped


def _step(task: Task, p: Any, slots: Any, rates: Rates, x: Array, y: Array, w: Any, drop: Drop | None) -> Any:
    """`step.step` where everything that is one flat vector there is in parts, by name and layer."""
    layout = task.network.layout
    loss, d = gradients(task, p, x, y, w, drop)
    if task.clip_norm is not None:
        d = layout.unpack(clip(layout.pack(d), task.clip_norm))
    for name, k, *_ in layout.segments:
        value, new = task.optimizer.apply(
            p.at(name, k),
            d.at(name, k),
            tuple(slot.at(name, k) for slot in slots),
            rates,
            None if task.factors is None else task.factors.at(name, k),
            None if task.decays is None else task.decays.at(name, k),
        )
        for slot, of_slot in zip((p, *slots), (value, *new), strict=True):
            slot.put(name, k, of_slot)
    return p, slots, loss, total_weight(y, w)


def _joined(layout: Layout) -> Callable[[Any], Array]:
    def join(p: Any) -> Array:
        # As `layout.pack`: its `concat` takes XLA on two cores 100 milliseconds for 6.3 million numbers, this takes 5.
        lead = p.W[1].shape[:-2]
        flat = jax.numpy.zeros((*lead, layout.size), p.W[1].dtype)
        for name, k, start, stop, *_ in layout.segments:
            part = p.at(name, k).reshape((*lead, stop - start))
            flat = jax.lax.dynamic_update_slice_in_dim(flat, part, start, axis=-1)
        return flat

    return join


def _same(whole: Array) -> Array:
    return whole


def _take(values: Array | None, rows: Array, ndim: int) -> Array | None:
    # Rows of `values`, which has `ndim` axes where all networks share it; `rows` is (batch,) or (m, batch).
    if values is None:
        return None
    if rows.ndim == 1:
        return jax.numpy.take(values, rows, axis=values.ndim - ndim, mode="clip")  # no row is out of bounds
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
        rates = [optimizer.scalars(t + 1 + i, rate_of(i)) for i in range(data.n_batches)]
        if data.is_one_batch:
            order = None
        else:
            order = np.arange(data.n, dtype=np.int32) if order is None else order.astype(np.int32)
        drop = None if self.seed is None else (self.seed, np.full((1, 1), (t + 1) % 2**31, dtype=np.int32))
        samples, arrays = (data.x, data.y, data.w), (self.task.factors, self.task.decays)
        table = np.asarray(rates, dtype=p.dtype)
        high = self.task.precision == "high"  # elsewhere the row of BACKENDS asks for "highest"
        with jax.default_matmul_precision("high") if high else contextlib.nullcontext():
            p, slots, loss = self.program(data.batch_size, p, slots, samples, order, table, arrays, drop)
        return State(p, slots, t + data.n_batches), loss
