"""The front door: what must hold of an argument, said in our words, before any array library can complain.

Every message says what must hold, what came, and what to do.
"""

import difflib
import inspect
import math
import numbers
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from functools import partial
from typing import Any, TypeVar

import numpy as np
from array_api_compat import is_numpy_array

from xpmlp._typing import Array
from xpmlp.backends import Place, array_namespace, backend_of, place_of
from xpmlp.backends.kinds import oddity

Row = TypeVar("Row")


def choose(table: Mapping[str, Row], name: object, kind: str) -> Row:
    """The row of `table` that `name` names; a row itself passes through; ValueError with a suggestion for the rest."""
    if any(isinstance(name, type(row)) for row in table.values()):
        return name  # type: ignore[return-value]  # just seen to be a row
    names = {alias: row for row in table.values() for alias in (row.name, *getattr(row, "aliases", ()))}  # type: ignore[attr-defined]
    if isinstance(name, str) and name in names:
        return names[name]
    raise ValueError(unknown(kind, name, names))


def unknown(kind: str, name: object, known: Iterable[str]) -> str:
    """The text for a name that does not exist, with the nearest that does and the sorted list of all."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1) if isinstance(name, str) else []
    hint = f" did you mean {near[0]!r}?" if near else ""
    return f"unknown {kind} {name!r};{hint} Choose one of {', '.join(known)}."


def genuine(row: Any, table: Mapping[str, Any]) -> bool:
    """Whether `row` still is the row of `table` that it is named after: every function in it is the table's.

    Whoever takes a short cut for a row (a column, a fused kernel, a name in a file) asks this first: a row that was
    made with `dataclasses.replace` keeps its name, and does what its functions do. A function that is bound to
    parameters must be bound to those that the row names.
    """
    original = table.get(row.name)
    if row is original:
        return True
    if original is None or type(row) is not type(original):
        return False
    for column in fields(row):
        own, known = getattr(row, column.name), getattr(original, column.name)
        if (callable(own) or callable(known)) and not _same_function(own, known, getattr(row, "parameters", {})):
            return False
    return True


def by_name(row: Any, table: Mapping[str, Any], find: Callable[..., Any]) -> Any:
    """How a pickle makes a genuine row again: `find`, its name and its parameters. None of a row of somebody's own."""
    if not genuine(row, table):
        return None
    given = dict(getattr(row, "parameters", {}))
    if getattr(row, "weight_decay", 0.0):
        given["weight_decay"] = row.weight_decay
    again = find(row.name, **given)
    numbers_differ = any(
        getattr(row, it.name) != getattr(again, it.name) for it in fields(row) if not callable(getattr(row, it.name))
    )
    return None if numbers_differ else (partial(find, row.name, **given), ())


def _same_function(own: Any, known: Any, parameters: Mapping[str, Any]) -> bool:
    if not (isinstance(own, partial) and isinstance(known, partial)):
        return own is known
    # huber with another delta is still huber, if the row says so
    bound, usual = own.keywords, known.keywords
    told = all(bound[name] == parameters.get(name, usual.get(name)) for name in bound)
    return own.func is known.func and own.args == known.args and set(bound) == set(usual) and told


def known_parameters(row: Any, names: Iterable[str], kind: str) -> None:
    """ValueError for a parameter that the row does not have."""
    for name in names:
        if name not in row.parameters:
            takes = ", ".join(row.parameters) or "none"
            raise ValueError(f"{kind} {row.name!r} has no parameter {name!r}; its parameters: {takes}.")


def number(
    value: object,
    name: str,
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
) -> float:
    """`value` as a Python float (NumPy scalars change dtypes in arithmetic), if it is finite and inside the bounds."""
    bounds = [
        text
        for bound, text in (
            (above, f"above {above:g}" if above is not None else ""),
            (least, f"at least {least:g}" if least is not None else ""),
            (below, f"below {below:g}" if below is not None else ""),
            (most, f"at most {most:g}" if most is not None else ""),
        )
        if bound is not None
    ]
    what = f"{name} must be a finite number" + (" " + " and ".join(bounds) if bounds else "")
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
        raise TypeError(f"{what}; got {value!r} of type {type(value).__name__}.")
    result = float(value)
    inside = (
        math.isfinite(result)
        and (above is None or result > above)
        and (least is None or result >= least)
        and (below is None or result < below)
        and (most is None or result <= most)
    )
    if not inside:
        raise ValueError(f"{what}; got {value!r}.")
    return result


def integer(value: object, name: str, *, least: int) -> int:
    """`value` as a Python int, if it is a whole number of at least `least`."""
    what = f"{name} must be a whole number of at least {least}"
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{what}; got {value!r} of type {type(value).__name__}.")
    if value < least:
        raise ValueError(f"{what}; got {value!r}.")
    return int(value)


def option(value: object, name: str, options: tuple[str, ...]) -> str:
    """`value`, if it is one of `options`."""
    if value not in options:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, options))}; got {value!r}.")
    return str(value)


def layer_sizes(sizes: object) -> tuple[int, ...]:
    """The sizes n_0 ... n_K of a network as a tuple of Python ints."""
    if isinstance(sizes, (str, bytes)) or not isinstance(sizes, Iterable):
        raise TypeError(f"layer sizes must be a sequence such as [2, 4, 3, 1]; got {sizes!r}.")
    sizes = list(sizes)
    if len(sizes) < 2:
        raise ValueError(f"a network needs at least an input and an output layer, as in [2, 1]; got {sizes!r}.")
    return tuple(integer(n, f"layer size {k}", least=1) for k, n in enumerate(sizes))


def array(
    x: Any,
    name: str,
    place: Place,
    dtype: str,
    *,
    width: int | None = None,
    networks: int | None = None,
    where: str = "enter this network",
    like: str = "the parameters",
    cast: bool = True,
) -> Array:
    """`x` as a finite floating array of shape (batch, width), or (m, batch, width), on `place`, with `dtype`.

    Parameters
    ----------
    x : array of floating dtype, or nested lists of numbers
        Lists become arrays on `place`; arrays must live there already.
    name : str
        What the messages call it.
    width : int or None
        The number of columns that must be there; a 1-D `x` is read as one column where `width` is 1.
    networks : int or None
        The number m of networks that a leading axis may count.
    cast : bool
        Without, `x` keeps its dtype, and is only known to fit into `dtype`.
    """
    x = _shaped(floating(x, name, place, dtype, like=like), name, place.xp, width, networks, where)
    if math.prod(x.shape) == 0:
        raise ValueError(f"{name} must hold at least one sample and one column; got shape {tuple(x.shape)}.")
    if not cast:
        finite(x, name, place.xp)
        demand_no_loss(x, name, place.xp, dtype)
        return x
    return narrowed(x, name, place.xp, dtype)


def narrowed(x: Array, name: str, xp: Any, dtype: str) -> Array:
    """`x` as `dtype`, finite before and after; a column that is not 0 does not become 0 either.

    Raises
    ------
    ValueError
        If `x` holds NaN or infinity, or numbers that `dtype` cannot tell from infinity, or a whole column from 0.
    """
    finite(x, name, xp)
    demand_no_loss(x, name, xp, dtype)
    return xp.astype(x, getattr(xp, dtype), copy=False)


def demand_no_loss(x: Array, name: str, xp: Any, dtype: str) -> None:
    """ValueError where finite numbers would become infinite as `dtype`, or a column that is not 0 would become 0."""
    wanted = getattr(xp, dtype)
    if x.dtype == wanted:
        return
    bounds = xp.finfo(wanted)
    if not xp.isdtype(x.dtype, "real floating") or xp.finfo(x.dtype).bits <= bounds.bits or not math.prod(x.shape):
        return
    # Of each column, without an array as large as x.
    largest = xp.maximum(xp.max(x, axis=-2), -xp.min(x, axis=-2)) if x.ndim > 1 else xp.abs(x)
    if bool(xp.any(largest > float(bounds.max))):
        raise ValueError(
            f"{name} reaches {float(xp.max(largest)):.3g}, and {dtype} ends at {float(bounds.max):.3g}; scale it, or "
            'train with dtype="float64".'
        )
    if x.ndim > 1 and bool(xp.any((largest > 0) & (largest < float(bounds.smallest_normal)))):
        least = float(xp.min(xp.where(largest > 0, largest, xp.max(largest))))
        raise ValueError(
            f"a column of {name} holds nothing larger than {least:.3g}, which {dtype} cannot tell from 0; scale it, or "
            'train with dtype="float64".'
        )


def floating(x: Any, name: str, place: Place, dtype: str, *, like: str = "the parameters") -> Array:
    """`x` as an array of real floating numbers on `place`, of any shape; lists become `dtype`, arrays keep theirs."""
    x = plain(x, name, place, dtype)
    here = place_of(**{name: x})
    if getattr(x, "requires_grad", False):
        x = x.detach()  # the derivatives here are written by hand: a graph of PyTorch's would only grow
    if here.backend != place.backend or here.device_name != place.device_name:
        raise ValueError(
            f"{name} is {here.describe()}, {like} are {place.describe(plural=True)}; move one with "
            f'xpmlp.to_backend({name}, "{place.backend.name}"'
            + (f', device="{place.device_name}")' if place.device_name != "cpu" else ")")
            + "."
        )
    if not place.xp.isdtype(x.dtype, "real floating"):
        raise TypeError(
            f"{name} must be an array of real floating numbers; got dtype {_dtype_name(x.dtype)}. "
            f'Convert it first, on NumPy with {name}.astype("{dtype}").'
        )
    return x


def plain(x: Any, name: str, place: Place, dtype: str) -> Array:
    """`x` as an array of some library, lists as NumPy's on `place`; TypeError where it only looks like an array."""
    if odd := oddity(x, name):
        raise TypeError(odd)
    if isinstance(x, (list, tuple)):
        return _from_lists(x, name, place, dtype)
    place_of(**{name: x})
    return x


def numbers_of_any_kind(x: Any, dtype: str) -> Any:
    """`x` with whole numbers and truth values as `dtype`, if that holds them exactly; all else as it came."""
    if backend_of(x) is None:
        return x
    xp = array_namespace(x)
    if not xp.isdtype(x.dtype, ("integral", "bool")):
        return x
    cast = xp.astype(x, getattr(xp, dtype))
    return cast if bool(xp.all(xp.astype(cast, x.dtype) == x)) else x


def finite(x: Array, name: str, xp: Any) -> None:
    """ValueError where `x` holds NaN or infinity; one read from the device."""
    if is_numpy_array(x) and x.size > 2**16:  # in two passes less, and without an array of truth values
        with np.errstate(all="ignore"):
            if math.isfinite(np.add.reduce(x, axis=None)):
                return
    if not bool(xp.all(xp.isfinite(x))):
        raise ValueError(f"{name} must be finite; it contains NaN or infinity. Drop or impute these samples first.")


def sample_weight(w: Any, name: str, place: Place, dtype: str, n: int) -> Array | None:
    """Weights as a non-negative finite array of shape (n,) on `place`, or None."""
    if w is None:
        return None
    w = floating(w, name, place, dtype)
    if tuple(w.shape) != (n,):
        raise ValueError(f"{name} must hold one weight per sample, shape ({n},); got {tuple(w.shape)}.")
    finite(w, name, place.xp)
    if bool(place.xp.any(w < 0)):
        raise ValueError(f"{name} must not be negative; got a weight of {float(place.xp.min(w)):g}.")
    scale = weight_scale(float(place.xp.max(w)))
    return place.xp.astype(w if scale == 1.0 else w * scale, getattr(place.xp, dtype), copy=False)


def weight_scale(largest: float) -> float:
    """What weights are multiplied with: 1, but for weights of a size whose sums and casts would be 0 or infinite.

    A loss sum(w l) / sum(w) knows no scale; a penalty divided by sum(w) does, and must be multiplied, too.
    """
    if largest == 0.0 or 1e-18 < largest < 1e18:
        return 1.0
    return 1.0 / max(largest, 1e-300)  # the reciprocal of less may be infinite


def pair(value: object, kind: str, first: str, second: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """A user's own pair of functions, or TypeError; `first` and `second` say what each is to take, as in "f(z)"."""
    if isinstance(value, tuple) and len(value) == 2 and all(callable(function) for function in value):
        for function, form in zip(value, (first, second), strict=True):
            wanted = form.count(",") + 1
            if not takes(function, wanted):
                name = getattr(function, "__name__", repr(function))
                raise TypeError(
                    f"{kind} is a pair of functions ({first}, {second}); {name} does not take {wanted} "
                    f"argument{'s' if wanted > 1 else ''}. Write it as {form}, and use of them what it needs."
                )
        return value
    raise TypeError(f"{kind} must be a name or a pair of functions ({first}, {second}); got {value!r}.")


def takes(function: Callable[..., Any], wanted: int) -> bool:
    """Whether `function` can be called with so many arguments; where that cannot be found out, it can."""
    inputs = getattr(function, "nin", None)  # of a NumPy ufunc: what comes after its inputs would be written into
    if isinstance(inputs, int):
        return inputs == wanted
    try:
        inspect.signature(function).bind(*[None] * wanted)
    except TypeError:
        return False
    except ValueError:
        return True
    return True


def functions(value: object, name: str) -> tuple[Callable[..., Any], ...]:
    """A sequence of functions as a tuple, or TypeError."""
    if isinstance(value, (tuple, list)) and all(callable(function) for function in value):
        return tuple(value)
    raise TypeError(f"{name} must be a sequence of functions; got {value!r}.")


def inputs_and_targets(value: object, name: str) -> tuple[Any, Any]:
    """A pair (X, y) of whatever two things, or TypeError."""
    if isinstance(value, (tuple, list)) and len(value) == 2:
        return value[0], value[1]
    raise TypeError(f"{name} must be a pair (X, y); got {type(value).__name__}.")


def _from_lists(x: object, name: str, place: Place, dtype: str) -> Array:
    try:
        values = np.asarray(x)
    except ValueError:
        raise ValueError(f"{name} must be rectangular: every row needs the same number of columns.") from None
    if values.dtype.kind not in "iuf":  # a list of Python ints is how people type numbers; an integer array is not
        raise TypeError(f"{name} must hold real numbers; got dtype {values.dtype}.")
    return place.asarray(values.astype(dtype))


def _shaped(x: Array, name: str, xp: Any, width: int | None, networks: int | None, where: str) -> Array:
    columns = "columns" if width is None else width
    wanted = f"(batch, {columns})" if networks is None else f"(batch, {columns}) or ({networks}, batch, {columns})"
    if x.ndim == 1 and width == 1:
        return xp.reshape(x, (-1, 1))
    fits = x.ndim == 2 or (x.ndim == 3 and networks is not None and x.shape[0] == networks)
    if not fits or (width is not None and x.shape[-1] != width):
        cure = ""
        if x.ndim == 1 and width is not None and x.shape[0] == width:
            cure = f" One sample alone needs {name}[None, :]."
        elif x.ndim == 1:
            cure = f" One feature alone needs {name}[:, None]."
        elif x.ndim > 2 and width is not None and math.prod(x.shape[1:]) == width:
            cure = f" Lay the numbers of each sample in one row: {name}.reshape({x.shape[0]}, -1)."
        raise ValueError(f"{name} must have shape {wanted} to {where}; got {tuple(x.shape)}.{cure}")
    return x


def _dtype_name(dtype: object) -> str:
    return getattr(dtype, "name", None) or str(dtype).rpartition(".")[2]  # "torch.int32", "array_api_strict.int32"
