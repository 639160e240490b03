"""A CuPy with two cards, on the CPU: arrays know where they were made, and every call on arrays elsewhere is noted.

CuPy makes results on the current device, not on that of the operands. What is asked for on the second card must
therefore run while the second card is the current one, all of it.
"""

import contextlib
import sys
import types
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from xpmlp.backends import BACKENDS, State, places

current = [0]
strangers: set[str] = set()
"""Calls that ran on another device than that of their operands."""


class Device:
    """A card; within it, it is the current one."""

    def __init__(self, number: int) -> None:
        self.id = number

    def __enter__(self) -> "Device":
        current.append(self.id)
        return self

    def __exit__(self, *_: object) -> None:
        current.pop()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and self.id == other.id

    __hash__ = None  # type: ignore[assignment]  # as CuPy's


class ndarray(np.ndarray):  # noqa: N801 - as CuPy calls it
    """An array on the card that was current when it was made; views stay where they are."""

    def __array_finalize__(self, of: Any) -> None:
        self._on = getattr(of, "_on", current[-1])

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        note(ufunc.__name__, (*inputs, *(out or ())))
        if out is not None:
            options["out"] = tuple(map(plain, out))
        result = getattr(ufunc, method)(*map(plain, inputs), **options)
        return out[0] if out is not None else made(result)

    def __getitem__(self, key: Any) -> Any:
        item = super().__getitem__(key)
        if isinstance(item, np.ndarray):
            return item
        return super().__getitem__((*(key if isinstance(key, tuple) else (key,)), ...))  # a number stays on its card

    def __setitem__(self, key: Any, value: Any) -> None:
        note("a copy", (self, value))
        super().__setitem__(key, plain(value))

    @property
    def device(self) -> Device:  # type: ignore[override]
        return Device(self._on)

    def get(self, order: str = "C") -> Any:
        return np.array(plain(self), order=order)  # type: ignore[call-overload]


def plain(it: Any) -> Any:
    return it.view(np.ndarray) if isinstance(it, ndarray) else it


def made(result: Any) -> Any:
    if isinstance(result, tuple):
        return tuple(map(made, result))
    if not isinstance(result, np.ndarray | np.generic):
        return result
    array = np.array(result).view(ndarray)
    array._on = current[-1]
    return array


def note(name: str, operands: Any) -> None:
    for it in operands:
        if isinstance(it, ndarray) and it._on != current[-1]:
            strangers.add(f"{name} on cuda:{current[-1]} of an array on cuda:{it._on}")


class Library(types.ModuleType):
    """The functions of NumPy, which make arrays of this library on the current card."""

    VIEWS = frozenset({"reshape", "matrix_transpose", "permute_dims", "broadcast_to", "squeeze", "moveaxis"})

    def __getattr__(self, name: str) -> Any:
        function = getattr(np, name)
        if not callable(function) or isinstance(function, type) or name in ("isdtype", "finfo", "iinfo", "result_type"):
            return function

        def call(*arguments: Any, device: Any = None, **options: Any) -> Any:
            with contextlib.nullcontext() if device is None else Device(device.id):
                if name not in self.VIEWS and name != "asarray":
                    flat = [it for part in arguments for it in (part if isinstance(part, list | tuple) else (part,))]
                    note(name, flat)
                result = function(*arguments, **options)
                same = any(result is it for it in arguments) and isinstance(result, ndarray)
                return result if name in self.VIEWS or same else made(plain(result))

        return call


xp = Library("two_cards")


@contextlib.contextmanager
def in_place_of_cupy(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """The library in the place of CuPy; what has run on the wrong card."""
    row = replace(
        BACKENDS["cupy"],
        module="two_cards",
        owns=lambda it: isinstance(it, ndarray),
        runner="eager",
        replaced=(),
        from_numpy=lambda array, _xp, device: xp.asarray(np.array(array), device=device),
        find_device=lambda name: Device(int((name or "cuda:0").partition(":")[2] or 0)),
        devices=lambda: ["cuda:0", "cuda:1"],
        lacks=lambda _device: set(),
    )
    monkeypatch.setitem(sys.modules, "two_cards", xp)
    monkeypatch.setitem(BACKENDS, "cupy", row)
    monkeypatch.setitem(places._NAMESPACES, ndarray, xp)
    monkeypatch.setattr(places, "array_api_compat", types.SimpleNamespace(device=lambda it: it.device))
    monkeypatch.setattr(places, "probe", lambda *_: types.SimpleNamespace(state=State.OK))
    numpy = BACKENDS["numpy"]  # the row itself: places that were made before hold it
    owns = numpy.owns
    object.__setattr__(numpy, "owns", lambda it: owns(it) and not isinstance(it, ndarray))
    strangers.clear()
    assert current == [0]
    try:
        yield strangers
    finally:
        object.__setattr__(numpy, "owns", owns)
