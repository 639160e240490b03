"""Arithmetic as IEEE 754 has it, whatever a program has told NumPy to say of it."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np

Function = TypeVar("Function", bound=Callable[..., object])


def unwarned(function: Function) -> Function:
    """`function`, in which an underflow is 0, an overflow infinity and 0 / 0 NaN, without a word.

    The tail of a softmax is right to be 0, and the derivative of a saturated output is right to be infinite: neither is
    for `numpy.seterr(all="raise")`, by which a user looks for a NaN elsewhere. What must be finite is looked at after.
    """
    guarded: Function = np.errstate(all="ignore")(function)
    return guarded
