"""Which targets a loss can follow, checked before anything is trained on them."""

from xpmlp._typing import Array
from xpmlp.backends import array_namespace
from xpmlp.network.losses import Loss


def check_targets(row: Loss, y: Array) -> Array:
    """The targets, if they lie in the domain of the loss, or ValueError.

    Soft targets whose rows sum to 1 within 1e-3 come back divided by their sums: value and derivatives from scores take
    a sum of exactly 1 for granted.
    """
    xp = array_namespace(y)
    if row.targets == "real":
        return y
    if bool(xp.any(y < 0)):
        raise ValueError(f"y must not be negative for the loss {row.name!r}; got a target of {float(xp.min(y)):g}.")
    if row.targets in ("probability", "distribution") and bool(xp.any(y > 1)):
        raise ValueError(
            f"y must lie between 0 and 1 for the loss {row.name!r}; got a target of {float(xp.max(y)):g}. "
            "Encode class labels first, as 0 and 1 or one-hot."
        )
    if row.targets == "distribution":
        sums = xp.sum(y, axis=-1, keepdims=True)
        off = float(xp.max(xp.abs(sums - 1.0)))
        if off > 1e-3:  # float16-born targets of many classes sum to 1 only this well
            raise ValueError(
                f"each row of y must sum to 1 for the loss {row.name!r} (one-hot or soft targets); one is {off:g} off."
            )
        return y if off == 0.0 else y / sums
    return y
