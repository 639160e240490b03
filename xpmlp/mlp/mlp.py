"""MLP: the network as an object, with every derivative on show; the tutorial's class grown up."""

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np

from xpmlp import checks
from xpmlp._typing import Array
from xpmlp.backends import at_home, select, warn
from xpmlp.backends.transfer import to_numpy
from xpmlp.distributed import Group
from xpmlp.io import storage
from xpmlp.mlp import serialization
from xpmlp.mlp.content import Content, build_network, layers_in_words
from xpmlp.mlp.fitting import Options, fit_network, plain_descent
from xpmlp.mlp.observers import predicted
from xpmlp.mlp.passes import Passes
from xpmlp.network.initializers import initializer as find_initializer
from xpmlp.network.losses import loss as find_loss
from xpmlp.training import Fitted, evaluate, plain, rows_at_once
from xpmlp.training.seeds import seed_sequence


class MLP(Passes):
    """A multilayer perceptron whose every z, a, dz, da, dW and db can be looked at.

    The verbs of the tutorial, `initialize`, `forward`, `backward`, `update`, act on one batch; `fit` and `predict` do
    the whole work. Lists are indexed by layer: `net.W[2]` belongs to layer 2, [0] is the input.

    Parameters
    ----------
    sizes : sequence of int
        n_0, ..., n_K: the numbers of inputs, of units in each hidden layer, and of outputs.
    activations : str, pair, or sequence of these
        One for each of the K layers; or one alone for the hidden layers, and the output takes the loss's link
        (softmax for cross_entropy, and so on). A pair is a function f(z) of your own and its derivative f'(z, a).
    loss : str, Loss, or pair
        A name of LOSSES, `xpmlp.loss(name, ...)` with parameters, or a pair `value(y, yhat)`, one number per sample,
        and `derivative(y, yhat)`.
    initializer : str or Initializer, optional
        By default each layer takes the one that suits its activation: He for ReLU and its kin, LeCun for SELU, Glorot
        for the rest. Biases begin at zero.
    dropout : float or sequence of float
        The probability with which a hidden unit is left out of a training step; one for all hidden layers or one each.
    parts : dict from int to part or sequence of parts, optional
        What stands before the first layer (0) or between z[k] and f_k (k): names of PARTS, or `part(name, ...)` of
        `xpmlp.network.parts` with its constants.
    members : int, optional
        Train k members that share the weights, each with biases, parts and a last layer of its own, on the mean of
        their losses; `predict` gives the mean of their outputs. Every z and a gains a leading axis of k.
    n_networks : int, optional
        Train m independent networks at once: every array gains a leading axis of m. Network i is the network that
        `MLP(..., random_state=net.seeds[i])` is alone.
    backend, device : str, optional
        Where the network lives. What cannot run here falls back to NumPy with a `BackendFallbackWarning`.
    dtype : {"float64", "float32"}
        Of parameters and arithmetic; float32 where the device has no float64.
    random_state : int or numpy.random.SeedSequence, optional
        The same seed is the same network, and the same batches, on every backend.

    Attributes
    ----------
    z, a, W, b : list of array
        As of the last `forward`; shapes (batch, n_k), (batch, n_k), (n_{k-1}, n_k), (n_k,).
    dz, da, dW, db : list of array
        dL/dz and so on, as of the last `backward`.
    history : dict of str to list
        One entry per epoch of every `fit` so far: "loss", "learning_rate", and what else was asked for.

    Examples
    --------
    >>> import numpy as np
    >>> from xpmlp import MLP
    >>> net = MLP([2, 4, 3, 1], activations=["relu", "relu", "sigmoid"], loss="binary_cross_entropy", random_state=42)
    >>> X, y = np.array([[0.0, 1.0], [1.0, 0.5]]), np.array([0.0, 1.0])
    >>> yhat = net.forward(X)
    >>> net.backward(y)
    >>> net.update(0.5)
    >>> net.dW[2].shape
    (4, 3)
    """

    def __init__(
        self,
        sizes: Sequence[int],
        activations: Any = "relu",
        loss: Any = "squared_error",
        *,
        initializer: Any = None,
        dropout: float | Sequence[float] = 0.0,
        parts: Mapping[int, Any] | None = None,
        members: int | None = None,
        n_networks: int | None = None,
        backend: str = "numpy",
        device: str | None = None,
        dtype: str = "float64",
        random_state: int | np.random.SeedSequence | None = None,
    ) -> None:
        self.network = build_network(checks.layer_sizes(sizes), activations, find_loss(loss), dropout, parts, members)
        self.initializer = None if initializer is None else find_initializer(initializer)
        self.n_networks = None if n_networks is None else checks.integer(n_networks, "n_networks", least=1)
        if members is not None and n_networks is not None:
            raise ValueError(
                "members share their weights and n_networks share nothing: one MLP has the one or the other. "
                "Leave n_networks out, or train MLPs with members one by one."
            )
        if dtype not in ("float64", "float32"):
            raise ValueError(f"dtype must be 'float64' or 'float32'; got {dtype!r}.")
        self.place = select(backend, device)
        self.dtype = self.place.dtype_name(dtype)
        self.random_state = seed_sequence(random_state)
        self.initialize()

    def __getstate__(self) -> dict[str, Any]:
        # Pickles and copies hold NumPy arrays, so that they can be opened where this network's library is not.
        state = self.__dict__ | {"_trace": None, "_gradients": None}
        return serialization.pickled(state | {"_p": np.array(self.place.backend.to_numpy(self._p), copy=True)})

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(serialization.revived(state))
        self.dtype = self.place.dtype_name(self.dtype)
        self._p = self.place.asarray(self._p, self.dtype)

    def __repr__(self) -> str:
        many = "" if self.n_networks is None else f"{self.n_networks} networks of "
        members = f" of {self.network.members} members" if self.network.members else ""
        count = f"{many}{self.layout.n_parameters:,} parameters{members}"
        first = f"MLP: {count}, {self.dtype} on {self.place}, loss {self.network.loss.name}"
        return "\n".join([first, *layers_in_words(self.network)])

    # --- The whole work ---

    @at_home("training", "Train with a smaller batch_size, or on fewer samples.")
    def fit(
        self,
        X: Array,
        y: Any = None,
        *,
        epochs: int = 100,
        batch_size: int | None = 32,
        optimizer: Any = "adam",
        learning_rate: float | None = None,
        schedule: Any = "constant",
        l2: float = 0.0,
        clip_norm: float | None = None,
        learning_rate_factors: Sequence[float] | Mapping[str, float] | None = None,
        average: float = 0.0,
        precision: str = "highest",
        shuffle: bool = True,
        drop_last: bool = False,
        sample_weight: Array | None = None,
        validation_data: tuple[Array, Array] | None = None,
        validation_fraction: float = 0.1,
        early_stopping: bool = False,
        patience: int = 10,
        tol: float = 0.0,
        metric: str | Callable[[Array, Array], float] | None = None,
        callbacks: Sequence[Callable[["MLP", int, dict[str, Any]], object]] = (),
        progress: bool = False,
        on_divergence: str = "restore",
        max_time: float | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 1,
        resume: bool = False,
        overwrite: bool = False,
        group: Group | None = None,
    ) -> Self:
        """Train from the present weights on.

        Parameters
        ----------
        X : array of shape (n, n_0), or (m, n, n_0), or `xpmlp.shards.Shards`
            Shards are data larger than memory; they hold y and the weights themselves.
        y : array of shape (n, n_K), (n,) for one output, or with a leading axis of m
            Targets in the loss's domain: 0 and 1 for binary_cross_entropy, one-hot for cross_entropy.
        epochs : int
            Passes over the data.
        batch_size : int or None
            Samples per step, the last step of an epoch may have fewer; None is all of them.
        optimizer : str or Optimizer
            A name of OPTIMIZERS or `xpmlp.optimizer(name, ...)` with parameters; or "lbfgs", for small data: then an
            epoch is one iteration on all samples, and its steps find their own length.
        learning_rate : float, optional
            By default the optimizer's own.
        schedule : str, Schedule or function
            A name of SCHEDULES, `xpmlp.schedule(name, ...)`, or a function from `Progress` to a factor.
        l2 : float
            L gains l2 / 2 * sum(W^2) / n for a batch of n samples: weights only, never biases.
        clip_norm : float, optional
            Scale the gradient down to this norm wherever it is larger; a good first value is 1.
        learning_rate_factors : sequence of K floats, or dict from name to float, optional
            The rate of each layer is the learning rate times its factor; 0 freezes the layer. By name: "W", "b", a part
            ("piecewise") or one of its arrays ("piecewise.bins"), in place of the part's own factor.
        average : float
            The epochs over which an exponential average of the weights reaches back; 0 keeps none. The average is then
            what is judged after each epoch and what the network ends with; of equal epochs the last is the best.
        precision : {"highest", "high"}
            "high" allows CuPy to round the factors of float32 products to TF32 (10 bits) on cards that have it;
            sums, losses and updates stay in float32. Elsewhere it changes nothing.
        drop_last : bool
            Leave the samples that fill no batch out of an epoch, others in each where they are shuffled.
        sample_weight : array of shape (n,), optional
            The loss is then sum(w l) / sum(w).
        validation_data : pair (X, y), optional
            Its loss (and metric) is recorded after each epoch. Beside shards it may be shards.
        validation_fraction : float
            With early_stopping and no validation_data: the share of the samples, or of each shard, that is held out.
        early_stopping : bool
            Watch the validation loss, stop when it has not fallen by `tol` for more than `patience` epochs (with
            `average` neither that of the average nor that of the weights themselves), and end with the best epoch's.
        metric : "accuracy" or function (y, yhat) -> float, optional
            Recorded after each epoch, on the training data too: a forward pass over all of it. Of shards "accuracy"
            alone, and of those that are held out.
        callbacks : sequence of functions (net, epoch, logs)
            Called after each epoch; one that returns True stops training. Parameters that it sets are trained on. What
            the method `measure(net)` of one that has it returns joins the history.
        progress : bool
            Show a progress bar (needs tqdm).
        on_divergence : {"restore", "raise"}
            When a loss or weight is no longer finite: put the best finite weights back and warn, or raise
            `DivergenceError` and leave the network as it was.
        max_time : float, optional
            Seconds after which no new epoch begins.
        checkpoint : path, optional
            A folder. `last.safetensors` there is the whole state after an epoch, `best.safetensors` the network with
            the lowest loss so far (on validation data, where there are any); `xpmlp.load` reads both.
        checkpoint_every : int
            Epochs between two checkpoints; there is always one at the end.
        resume : bool
            Go on from `last`, if it is there, as if training had never stopped: with the same data and arguments the
            outcome is the same, on NumPy bit for bit. `epochs` may be another number. See also `xpmlp.resume`.
        overwrite : bool
            Let a checkpoint go that another run, on other data or with other arguments, has left in the folder.
        group : Group, optional
            Several processes that train on shards together, of `xpmlp.distributed`.

        Raises
        ------
        ValueError, TypeError
            For arguments that do not fit; the network is then as it was before.
        MemoryError
            Where memory runs out, on every backend; the network is then as it was before.
        Exception
            Whatever a callback raises; the network keeps what it has learned by then.
        """
        options = Options(**{name: value for name, value in locals().items() if name in Options._fields})
        before = dict(vars(self))
        try:
            fitted, self._content = fit_network(self._content, X, y, options, self._as_of, lambda: self._p)
        except BaseException:  # nothing that fails before there is something to keep changes anything
            vars(self).clear()
            vars(self).update(before)
            raise
        self._descent = plain_descent(options, self.history)
        if fitted.error is not None:
            note = f"Training ended here; the network keeps what it had learned in {fitted.epochs} epochs."
            fitted.error.add_note(note)
            raise fitted.error
        for message, category in fitted.notes:
            warn(message, category)
        return self

    @at_home("predicting")
    def predict(self, X: Array, *, average: bool = False) -> Array:
        """The outputs for the inputs `X`, shape (n, n_K) or (m, n, n_K); in blocks, so that memory stays bounded.

        Parameters
        ----------
        average : bool
            The mean over the m networks, shape (n, n_K): an ensemble.
        """
        X = self._door.inputs(X, whole=False)
        yhat = predicted(self.network, self._p, X)
        return self.place.xp.mean(yhat, axis=0) if average and self.n_networks is not None else yhat

    @at_home("evaluating")
    def evaluate(self, X: Array, y: Array, sample_weight: Array | None = None) -> Any:
        """The loss on `X` and `y`, without any penalty: a float, or a NumPy array of shape (m,)."""
        rows = rows_at_once(self.network, self.place, self.n_networks)
        samples = self._door.samples(X, y, sample_weight, whole=False)
        data = samples.looked_at(self.place, self.dtype, rows)
        return plain(evaluate(self.network, self._p, data).loss)

    def to_backend(self, backend: str, *, device: str | None = None) -> "MLP":
        """A copy of this network that lives on another backend; this one stays as it is."""
        place = select(backend, device)
        other = copy.copy(self)
        other.place, other.dtype = place, place.dtype_name(self.dtype)
        other._p = place.asarray(np.array(self.place.backend.to_numpy(self._p), copy=True), other.dtype)
        other._orders, other.history = copy.deepcopy(self._orders), copy.deepcopy(self.history)
        other._trace = other._gradients = None
        return other

    def to_device(self, device: str) -> "MLP":
        """A copy of this network on another device of its backend."""
        return self.to_backend(self.place.backend.name, device=device)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write this network to one safetensors file, which `xpmlp.load` reads on any backend.

        Weights and biases, the history, the state of the random generators, and what the network is, as JSON: no code.
        Killed, out of space or forbidden, it leaves the file that was there.

        Raises
        ------
        ValueError
            If an activation, the loss or the initializer is a function of your own, which a file cannot hold, or if a
            parameter is not finite.
        OSError
            If the file cannot be written.

        Examples
        --------
        >>> import os, tempfile, xpmlp
        >>> path = os.path.join(tempfile.mkdtemp(), "net.safetensors")
        >>> xpmlp.MLP([2, 3, 1], random_state=0).save(path)
        >>> xpmlp.load(path).W[1].shape
        (2, 3)
        """
        p = np.asarray(self.place.backend.to_numpy(self._p))
        if not np.all(np.isfinite(p)):
            raise ValueError("the parameters must be finite to be saved; they hold NaN or infinity.")
        storage.write(path, *serialization.stored(self._content, p, self.history, self._orders))

    def to_onnx(self, path: str | os.PathLike[str], *, dtype: str = "float32") -> None:
        """Write the forward pass as an ONNX model: "X" of any number of rows in, "yhat" out; needs onnx.

        Parameters
        ----------
        dtype : {"float32", "float64"}
            Of inputs and arithmetic; "float32" is what runtimes are made for.

        Raises
        ------
        ImportError
            If onnx is not installed.
        ValueError
            If an activation is a function of your own.
        """
        from xpmlp.interop.onnx import network_to_onnx

        network_to_onnx(path, self.network, self.layout.unpack(to_numpy(self._p)), dtype)

    def to_torch(self) -> Any:
        """The network as a `torch.nn.Sequential` with weights of its own, ready to be trained on; needs PyTorch.

        It gives what `predict` gives. Of members its last module takes their mean, and `module[:-1]` gives each.

        Raises
        ------
        ImportError
            If PyTorch is not installed.
        ValueError
            If an activation or a part is a function of your own.
        """
        from xpmlp.interop.torch import sequential

        return sequential(self.network, self.layout.unpack(to_numpy(self._p)))

    def _as_of(self, now: Fitted) -> Self:
        # During a fit: this network as it is after an epoch.
        self._p, self.history = now.p, now.history
        return self


def content_of(net: MLP) -> Content:
    """All that the object consists of, as a value."""
    return net._content


def descent_of(net: MLP) -> tuple[float, tuple[float, ...] | None] | None:
    """The rate, and its factors by layer, of the plain gradient descent it was last trained by, if it was."""
    return net._descent


def mlp_of(content: Content, cls: type[MLP] = MLP) -> MLP:
    """The object that consists of this."""
    net = cls.__new__(cls)
    net._content = content
    return net
