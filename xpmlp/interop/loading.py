"""Back from files: `load` a model that was saved, `resume` a training that was stopped."""

import os
from pathlib import Path
from typing import Any

from xpmlp._typing import Array
from xpmlp.backends import select
from xpmlp.io import storage
from xpmlp.io.description import optimizer_of, schedule_of
from xpmlp.mlp import MLP, mlp_of, serialization
from xpmlp.mlp.fitting import Options
from xpmlp.training import checkpoints

_PARAMETERS = {"max_iter", "max_time", "max_fun", "verbose"}  # of an estimator, which a run may go on with others


def load(path: str | os.PathLike[str], *, backend: str | None = None, device: str | None = None) -> Any:
    """The model in a file that `save` wrote, or in a checkpoint.

    Parameters
    ----------
    path : path
        A file may come from anybody: it holds numbers and names, and what is not as it should be is refused.
    backend, device : str, optional
        Where the model is to live; by default on NumPy, wherever it was saved from. These become the parameters
        `backend` and `device` of an estimator.

    Raises
    ------
    FileFormatError
        If the file is not whole, was changed, is of a newer format, or is not one of these files.

    Examples
    --------
    >>> import os, tempfile, xpmlp
    >>> path = os.path.join(tempfile.mkdtemp(), "net.safetensors")
    >>> xpmlp.MLP([2, 3, 1], random_state=0).save(path)
    >>> xpmlp.load(path)
    MLP: 13 parameters, float64 on NumPy on cpu, loss squared_error
      layer 1  W (2, 3)  b (3,)  relu               9
      layer 2  W (3, 1)  b (1,)  identity           4
    """
    place = None if backend is None and device is None else select(backend, device)
    document, arrays = storage.read(path)
    with storage.believing(path):
        if document["kind"] == "mlp":
            return mlp_of(serialization.of_stored(document, arrays, place or select(None)))
        if document["kind"] in ("MLPClassifier", "MLPRegressor"):
            from xpmlp.estimators import MLPClassifier, MLPRegressor
            from xpmlp.estimators.serialization import of_stored

            cls: Any = MLPClassifier if document["kind"] == "MLPClassifier" else MLPRegressor
            return of_stored(cls, document, arrays, place)
        if document["kind"] in ("TabularClassifier", "TabularRegressor"):
            from xpmlp.estimators.tabular import TabularClassifier, TabularRegressor
            from xpmlp.estimators.tabular.serialization import of_stored as table_model_of

            kind: Any = TabularClassifier if document["kind"] == "TabularClassifier" else TabularRegressor
            return table_model_of(kind, document, arrays, place)
        raise ValueError(f"it holds a {document['kind']!r}, which this version of xpmlp does not know.")


def resume(
    path: str | os.PathLike[str],
    X: Array,
    y: Array,
    *,
    backend: str | None = None,
    device: str | None = None,
    **arguments: Any,
) -> Any:
    """Go on with the training whose checkpoints are in a folder, and return the fitted model.

    Parameters
    ----------
    path : path
        What `fit` was given as `checkpoint`.
    X, y : array
        The same samples again: a checkpoint does not hold them.
    **arguments
        What else `fit` was given and a file cannot hold: sample_weight, validation_data, callbacks, functions of your
        own. Also `epochs` (of an estimator `max_iter`), where it is to be another number. The rest is remembered.

    Raises
    ------
    FileFormatError
        If there is no checkpoint, or it is not whole.
    ValueError
        If the samples are others, or a function is missing.
    """
    where = checkpoints.last_of(path)
    model = load(where, backend=backend, device=device)
    document, _ = storage.read(where)
    if not isinstance(model, MLP):
        callbacks = arguments.pop("callbacks", None)
        model.set_params(callbacks=callbacks, **{name: arguments.pop(name) for name in _PARAMETERS & set(arguments)})
        with storage.believing(where):
            remembered = {"checkpoint_every": document["run"]["arguments"]["checkpoint_every"]}
        return model.fit(X, y, **remembered | {"checkpoint": Path(path), "resume": True} | arguments)
    with storage.believing(where):
        known = document["run"]["arguments"]
        if unknown := set(known) - set(Options._fields):
            raise ValueError(f"fit has no arguments {sorted(unknown)}.")
        remembered = {name: value for name, value in known.items() if name not in arguments}
        own = {name: value["own"] for name, value in remembered.items() if isinstance(value, dict) and "own" in value}
        for name, revive in (("optimizer", optimizer_of), ("schedule", schedule_of)):
            if isinstance(remembered.get(name), dict) and name not in own:
                remembered[name] = revive(remembered[name])
    for name, function in own.items():
        raise ValueError(f"{name} was a function of your own, {function!r}; hand it over again as {name}=.")
    return model.fit(X, y, **remembered | {"checkpoint": Path(path), "resume": True} | arguments)
