"""What an estimator's arguments must not be, said before scikit-learn or NumPy meet them, in sentences of ours."""

import numbers
import re
from typing import Any

import numpy as np

from xpmlp.backends import HostArray
from xpmlp.backends.kinds import LOOK_ALIKES, NO_ARRAYS, oddity

# What to do about what scikit-learn's checks find, by a phrase of their message and by what the argument is: X, y or w
# (weights); "" is any. {name} is what it is called.
ADVICE: tuple[tuple[str, str, str], ...] = (
    ("contains NaN", "y", "Drop these samples: what they should be is not known."),
    ("contains NaN", "w", "Drop these samples, or give them the weight 0."),
    ("contains NaN", "X", "Drop these samples or impute them first, for instance with sklearn.impute.SimpleImputer."),
    ("contains infinity", "w", "Every sample needs a finite weight."),
    ("contains infinity", "", "Drop these samples, or scale or clip the column that holds them first."),
    ("could not convert", "X", "Encode strings first, for instance with sklearn.preprocessing.OneHotEncoder."),
    ("could not convert", "", "Convert it first, for instance with numpy.asarray({name}, dtype=float)."),
    ("Complex data", "X", "Pass the real and the imaginary part as columns of their own."),
    ("Complex data", "", "Pass its real part."),
    ("inconsistent numbers of samples", "", "X, y and the weights need one entry per sample."),
    ("0 sample(s)", "", "Pass at least one sample."),
    ("0 feature(s)", "", "Pass at least one column."),
    ("Sparse data was passed", "", "Call its toarray() first."),
    (
        "Unknown label type: continuous",
        "",
        "Numbers on a scale are for a regressor; classes are integers, strings or booleans.",
    ),
    ("Unknown label type", "", "Classes are integers, strings or booleans, all of one type."),
)

# What NumPy says of its own business, and nobody outside understands.
RAW = (
    *("could not be promoted", "setting an array element", "argument must be a string or a real number"),
    *("Cannot cast array data", "not supported between instances", "inhomogeneous", "must be real number"),
)


def advised(error: Exception, name: str = "") -> str:
    """The message of an error of scikit-learn's, NumPy's or the core's, with what to do about it.

    `name` is that of the argument, where it is known; otherwise the message says it, or it is X.
    """
    text = re.sub(r"np\.(?:str|bytes)_\((.*?)\)", r"\1", str(error).strip())  # a cell, as its reader knows it
    name = name or next((name for name in ("y", "X") if f"Input {name} " in text or f"{name} " in text[:4]), "X")
    kind = "w" if "weight" in name else name[0]
    if any(phrase in text for phrase in RAW):
        return (
            f"{name} cannot be read as numbers, one {'number' if kind == 'w' else 'row of the same length'} per sample."
        )
    for phrase, of, advice in ADVICE:
        if phrase in text and of in ("", kind):
            first = text.splitlines()[0].rstrip(". ")
            if phrase == "could not convert":
                first = f"{name} must hold numbers: {first}"
            elif phrase == "Complex data":
                first = f"{first}: {name} must hold real numbers"
            return f"{first}. {advice.format(name=name)}"
    return text


def odd_inputs(X: Any, name: str = "X") -> str:
    """Why X cannot be inputs; "" where it may be."""
    if hasattr(X, "toarray"):
        return ""
    found = oddity(X, name, (*NO_ARRAYS, *LOOK_ALIKES))
    if found or not isinstance(X, np.ndarray) or X.dtype != object:
        return found
    return _odd_objects(X, name)


def odd_targets(y: Any, name: str = "y", *, numeric: bool) -> str:
    """Why y cannot be targets; "" where it may be. Text is for classes."""
    if type(y) is np.ndarray and y.dtype.kind in "biuf":  # what nearly everybody passes
        return ""
    if hasattr(y, "toarray"):  # a sparse 0/1 matrix of several labels
        return ""
    found = oddity(y, name, (*NO_ARRAYS, *LOOK_ALIKES))
    if found:
        return found
    values = y if isinstance(y, np.ndarray) else _as_objects(y)
    if values is None or values.ndim == 0:
        return "" if values is None else f"{name} must hold one target per sample; got a single {type(y).__name__}."
    if values.dtype.kind in "Mm":
        return oddity(values, name)
    if values.dtype.kind == "c":
        return f"{name} must hold real numbers. Complex data not supported; got dtype {values.dtype}."
    if numeric and values.dtype.kind in "SU":
        text = f"could not convert text such as {str(values.flat[0])!r}"
        return f"{name} must hold numbers: {text}. Convert it first: {name}.astype(float)."
    return _odd_objects(values, name, numeric=numeric, classes=not numeric) if values.dtype == object else ""


def odd_classes(classes: Any, name: str = "classes") -> str:
    """Why the argument `classes` of partial_fit cannot be a list of labels; "" where it may be."""
    if classes is not None and (not hasattr(classes, "__len__") or isinstance(classes, type)):
        return f"{name} must be a list of all labels; got a {type(classes).__name__}."
    return odd_targets(classes, name, numeric=False)


def _as_objects(values: Any) -> HostArray | None:
    try:
        if hasattr(values, "to_numpy"):
            return np.asarray(values.to_numpy())
        if isinstance(values, (list, tuple)):
            kinds = {type(value) for value in values}
            mixed = len(kinds) > 1 and not all(issubclass(kind, numbers.Number) for kind in kinds)
            return np.asarray(values, dtype=object) if mixed else np.asarray(values)
    except (ValueError, TypeError):
        return None
    return None if not np.isscalar(values) else np.asarray(values)


def _odd_objects(values: HostArray, name: str, *, numeric: bool = True, classes: bool = False) -> str:
    """The same of an array of objects, which may hold anything."""
    flat = values.ravel().tolist()
    if any(value is None for value in flat):
        what = "label" if classes else "number"
        return f"{name} holds None, which is no {what}; drop these samples, or name what it means."
    kinds = {_kind_of(value) for value in flat}
    if "date" in kinds:
        return oddity(np.zeros(0, dtype="M8[s]"), name)
    if classes and len(kinds) > 1:
        several = ", ".join(sorted(kinds))
        return f"{name} holds labels of several types ({several}); make them one type, as in map(str, {name})."
    if not classes and numeric and "text" in kinds:
        text = next(value for value in flat if _kind_of(value) == "text")
        return "" if name == "X" else f"{name} must hold numbers; got text such as {text!r}."
    if "other" in kinds and not classes:
        odd = next(value for value in flat if _kind_of(value) == "other")
        what = "an argument must be a string of digits or a number"
        return f"{name} must hold numbers: {what}, and a {type(odd).__name__} is neither."
    return ""


def _kind_of(value: Any) -> str:
    if isinstance(value, (str, bytes)):
        return "text"
    if isinstance(value, (bool, np.bool_, numbers.Number)) or hasattr(value, "__float__"):
        return "number"
    module = type(value).__module__.partition(".")[0]
    return "date" if module == "datetime" or type(value).__name__ in ("Timestamp", "Timedelta", "NaTType") else "other"
