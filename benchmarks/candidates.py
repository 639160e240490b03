"""Who is timed, and on what: the workloads, and one function per candidate that does a whole fit.

To add a candidate, write a function of a workload and its data that returns a function `fit()`, and one row of
CANDIDATES. `fit()` goes from NumPy arrays (float32 inputs, integer labels) to a trained model and returns the mean loss
of the last epoch as the candidate itself reports it, or None. What a user pays once (imports, a library's first call)
belongs outside `fit`; what every fit pays (drawing weights, encoding labels, moving data) belongs inside.

All of them: float32, Adam at 1e-3, ReLU, softmax with cross entropy, L2 of 1e-4 as scikit-learn means it
(alpha / (2 batch) * sum(W^2)), the samples shuffled in every epoch, the short last batch used, no early stop.
"""

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

LEARNING_RATE, BETA_1, BETA_2, EPSILON = 1e-3, 0.9, 0.999, 1e-8
ALPHA = 1e-4
NEVER = 10**9  # epochs without improvement

Fit = Callable[[], float | None]


class AbsentError(Exception):
    """A candidate that cannot run here; the message says why."""


@dataclass(frozen=True)
class Workload:
    """The shape of a training: rows x columns, the hidden layers, classes, samples per batch, passes over the data."""

    name: str
    rows: int
    columns: int
    hidden: tuple[int, ...]
    classes: int
    batch: int
    epochs: int

    @property
    def sizes(self) -> tuple[int, ...]:
        """Units of each layer, the input first."""
        return (self.columns, *self.hidden, self.classes)

    @property
    def batches(self) -> list[int]:
        """The sizes of the batches of one epoch; the last may be short."""
        whole, rest = divmod(self.rows, self.batch)
        return [self.batch] * whole + ([rest] if rest else [])

    def small(self) -> "Workload":
        """The same in a moment, to see that everything runs: its times mean nothing."""
        rows = min(self.rows, 150)
        return replace(
            self, rows=rows, hidden=tuple(max(n // 16, 3) for n in self.hidden), batch=min(self.batch, 64), epochs=2
        )


WORKLOADS = {
    row.name: row
    for row in (
        Workload("circles", 1_000, 2, (4, 3), 2, batch=1_000, epochs=200),
        Workload("batches", 1_000, 2, (4, 3), 2, batch=200, epochs=60),
        Workload("digits", 1_797, 64, (100,), 10, batch=200, epochs=40),
        Workload("small", 2_000, 20, (64, 64), 2, batch=32, epochs=10),
        Workload("tabular", 50_000, 54, (256, 128), 7, batch=256, epochs=2),
        Workload("images", 12_000, 784, (512, 256), 10, batch=128, epochs=2),
        Workload("wide", 4_096, 1_024, (2_048, 2_048), 10, batch=1_024, epochs=1),
    )
}


class Samples(NamedTuple):
    """Random inputs with labels that can be learned, so that the losses can be compared."""

    X: np.ndarray  # (rows, columns) float32
    labels: np.ndarray  # (rows,) int64


def samples_of(workload: Workload) -> Samples:
    """The class of a sample is the direction, of as many as there are classes, along which it lies farthest out."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((workload.rows, workload.columns), dtype=np.float32)
    scores = X @ rng.standard_normal((workload.columns, workload.classes), dtype=np.float32)
    return Samples(X, scores.argmax(axis=1))


# --- Ours ---


def xpmlp_estimator(
    workload: Workload, samples: Samples, backend: str | None = None, compiled: str | None = None
) -> Fit:
    """The estimator that a user of scikit-learn types, with Numba where that is installed; `compiled` is a setting."""
    model = estimator(workload, backend)
    settings = need("xpmlp", "config_context")
    if compiled is not None:
        need("numba")  # without it, this is the same as the candidate that has no say in it

    def fit() -> float:
        with settings(compiled=compiled), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # ConvergenceWarning: the number of epochs is given
            return float(model().fit(samples.X, samples.labels).loss_)

    return fit


def estimator(workload: Workload, backend: str | None) -> Callable[[], Any]:
    """A function that makes the unfitted estimator."""
    if backend is not None:
        need(backend)
    MLPClassifier = need("xpmlp", "MLPClassifier")
    return functools.partial(MLPClassifier, **_scikit_learn_parameters(workload), backend=backend)


def _scikit_learn_parameters(workload: Workload) -> dict[str, Any]:
    return {
        "hidden_layer_sizes": workload.hidden,
        "alpha": ALPHA,
        "batch_size": workload.batch,
        "learning_rate_init": LEARNING_RATE,
        "max_iter": workload.epochs,
        "tol": 0.0,
        "n_iter_no_change": NEVER,
        "random_state": 0,
    }


def xpmlp_core(workload: Workload, samples: Samples, backend: str = "numpy") -> Fit:
    """`MLP.fit`: no estimator around it."""
    need(backend)
    xpmlp = need("xpmlp")

    def fit() -> float:
        targets = np.eye(workload.classes, dtype=np.float32)[samples.labels]
        net = core(workload, backend)
        net.fit(
            xpmlp.to_backend(samples.X, backend),
            xpmlp.to_backend(targets, backend),
            epochs=workload.epochs,
            batch_size=workload.batch,
            l2=ALPHA,
        )
        return float(net.history["loss"][-1])

    return fit


def core(workload: Workload, backend: str = "numpy", **more: Any) -> Any:
    """The untrained network."""
    MLP = need("xpmlp", "MLP")
    return MLP(workload.sizes, loss="cross_entropy", dtype="float32", random_state=0, backend=backend, **more)


# --- The peers ---


def scikit_learn_model(workload: Workload) -> Any:
    """scikit-learn's own, unfitted."""
    return need("sklearn.neural_network", "MLPClassifier")(**_scikit_learn_parameters(workload))


def scikit_learn(workload: Workload, samples: Samples) -> Fit:
    """scikit-learn's MLPClassifier, whose stop at tol is out of reach."""
    need("sklearn")

    def fit() -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # ConvergenceWarning
            return float(scikit_learn_model(workload).fit(samples.X, samples.labels).loss_)

    return fit


def torch_module(workload: Workload) -> Any:
    """`nn.Sequential` of Linear and ReLU; it ends in scores."""
    nn = need("torch", "nn")
    layers: list[Any] = []
    for n_in, n_out in zip(workload.sizes[:-1], workload.sizes[1:], strict=True):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def torch_loop(workload: Workload, samples: Samples, compiled: bool = False) -> Fit:
    """The loop of every PyTorch tutorial, with care: fused Adam, batches by index, one read of the loss an epoch.

    Adam's weight_decay adds alpha / batch * parameter to the gradient: our L2, on the biases too (and the loss that is
    reported lacks the penalty). Data in one full batch is not shuffled.
    """
    torch = need("torch")

    def fit() -> float:
        torch.manual_seed(0)
        x, y = torch.from_numpy(samples.X), torch.from_numpy(samples.labels)
        model = torch_module(workload)
        optimizer = torch.optim.Adam(
            model.parameters(), lr=LEARNING_RATE, weight_decay=ALPHA / workload.batch, fused=True
        )
        criterion = torch.nn.CrossEntropyLoss()
        scores = torch.compile(model) if compiled else model
        mean = 0.0
        for _ in range(workload.epochs):
            total = torch.zeros(())
            for rows in torch.randperm(workload.rows).split(workload.batch):
                x_batch, y_batch = (x, y) if len(rows) == workload.rows else (x[rows], y[rows])
                optimizer.zero_grad()
                loss = criterion(scores(x_batch), y_batch)
                loss.backward()
                optimizer.step()
                total += loss.detach() * len(rows)
            mean = total.item() / workload.rows
        return mean

    return fit


def jax_program(workload: Workload, samples: Samples) -> Fit:
    """A plain JAX program: `value_and_grad`, an epoch in one jitted scan with donated state, the loss read per epoch.

    The order is drawn by NumPy (a permutation in JAX is a sort); data in one full batch is not shuffled. The jitted
    function is made once, so only the first fit of a shape compiles.
    """
    jnp = need("jax.numpy")
    epoch = _jax_epoch()

    def fit() -> float:
        rng = np.random.default_rng(0)
        x, y = jnp.asarray(samples.X), jnp.asarray(samples.labels, dtype=jnp.int32)
        params = []
        for n_in, n_out in zip(workload.sizes[:-1], workload.sizes[1:], strict=True):
            bound = np.sqrt(6.0 / (n_in + n_out))
            params.append((jnp.asarray(rng.uniform(-bound, bound, (n_in, n_out)), jnp.float32), jnp.zeros(n_out)))
        m = [(jnp.zeros_like(W), jnp.zeros_like(b)) for W, b in params]
        v = [(jnp.zeros_like(W), jnp.zeros_like(b)) for W, b in params]
        state = (params, m, v, jnp.zeros((), jnp.int32))
        mean = 0.0
        for _ in range(workload.epochs):
            order = None
            if workload.batch < workload.rows:
                order = jnp.asarray(rng.permutation(workload.rows).astype(np.int32))
            state, loss = epoch(state, x, y, order, workload.batch)
            mean = float(loss)
        state[0][0][0].block_until_ready()
        return mean

    return fit


@functools.cache
def _jax_epoch() -> Callable[..., Any]:
    jax, jnp = need("jax"), need("jax.numpy")

    def loss_of(params: Any, x: Any, y: Any) -> Any:
        a = x
        for W, b in params[:-1]:
            a = jax.nn.relu(a @ W + b)
        W, b = params[-1]
        log_p = jax.nn.log_softmax(a @ W + b)
        cross_entropy = -jnp.mean(jnp.sum(jax.nn.one_hot(y, log_p.shape[1]) * log_p, axis=1))
        return cross_entropy + 0.5 * ALPHA / x.shape[0] * sum(jnp.sum(W * W) for W, _ in params)

    def step(state: Any, x: Any, y: Any) -> Any:
        params, m, v, t = state
        loss, g = jax.value_and_grad(loss_of)(params, x, y)
        t = t + 1
        rate = LEARNING_RATE * jnp.sqrt(1 - BETA_2**t) / (1 - BETA_1**t)
        m = jax.tree.map(lambda m, g: BETA_1 * m + (1 - BETA_1) * g, m, g)
        v = jax.tree.map(lambda v, g: BETA_2 * v + (1 - BETA_2) * g * g, v, g)
        params = jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) + EPSILON), params, m, v)
        return (params, m, v, t), loss

    @functools.partial(jax.jit, static_argnums=4, donate_argnums=0)
    def epoch(state: Any, x: Any, y: Any, order: Any, batch: int) -> Any:
        if order is None:
            return step(state, x, y)
        n = x.shape[0]
        whole = n // batch * batch
        rows = order[:whole].reshape(-1, batch)
        state, losses = jax.lax.scan(lambda state, rows: step(state, x[rows], y[rows]), state, rows)
        total = batch * jnp.sum(losses)
        if whole < n:
            state, loss = step(state, x[order[whole:]], y[order[whole:]])
            total += loss * (n - whole)
        return state, total / n

    return epoch


def skorch(workload: Workload, samples: Samples) -> Fit:
    """The NeuralNetClassifier of skorch around the same module, silent, on all of the data."""
    torch, NeuralNetClassifier = need("torch"), need("skorch", "NeuralNetClassifier")

    def fit() -> float:
        torch.manual_seed(0)
        net = NeuralNetClassifier(
            torch_module(workload),
            criterion=torch.nn.CrossEntropyLoss,
            optimizer=torch.optim.Adam,
            optimizer__lr=LEARNING_RATE,
            optimizer__weight_decay=ALPHA / workload.batch,
            optimizer__fused=True,
            max_epochs=workload.epochs,
            batch_size=workload.batch,
            iterator_train__shuffle=True,
            train_split=None,
            verbose=0,
        )
        net.fit(samples.X, samples.labels)
        return float(net.history[-1, "train_loss"])

    return fit


def floor(workload: Workload, samples: Samples) -> Fit:
    """The bare products of every step, into arrays made beforehand: forward, dW, and da without da[0]."""
    rng = np.random.default_rng(0)

    def drawn(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    pairs = list(zip(workload.sizes[:-1], workload.sizes[1:], strict=True))
    W = [drawn(n_in, n_out) for n_in, n_out in pairs]
    dW = [np.empty_like(w) for w in W]
    x = samples.X[: workload.batch]
    a = [drawn(workload.batch, n) for n in workload.sizes[1:]]
    z = [np.empty_like(a_k) for a_k in a]
    da = [np.empty_like(a_k) for a_k in a]

    def fit() -> None:
        for _ in range(workload.epochs):
            for n in workload.batches:
                inputs = [x[:n], *(a_k[:n] for a_k in a[:-1])]
                for k in range(len(W)):
                    np.matmul(inputs[k], W[k], out=z[k][:n])
                for k in reversed(range(len(W))):
                    np.matmul(inputs[k].T, a[k][:n], out=dW[k])
                    if k > 0:
                        np.matmul(a[k][:n], W[k].T, out=da[k - 1][:n])

    return fit


def need(module: str, attribute: str | None = None) -> Any:
    """A module or something from it; AbsentError where that is not there."""
    import importlib

    try:
        found = importlib.import_module(module)
        return found if attribute is None else getattr(found, attribute)
    except (ImportError, AttributeError) as error:
        raise AbsentError(str(error)) from error


class Candidate(NamedTuple):
    """A row of CANDIDATES."""

    name: str
    title: str
    prepare: Callable[[Workload, Samples], Fit]
    default: bool = True


CANDIDATES = {
    row.name: row
    for row in (
        Candidate("floor", "floor: bare products", floor),
        Candidate("xpmlp", "xpmlp estimator, NumPy", xpmlp_estimator),
        Candidate("no-numba", "xpmlp estimator, no Numba", functools.partial(xpmlp_estimator, compiled="never")),
        Candidate("numba", "xpmlp estimator, Numba", functools.partial(xpmlp_estimator, compiled="always")),
        Candidate("xpmlp-jax", "xpmlp estimator, JAX", functools.partial(xpmlp_estimator, backend="jax")),
        Candidate("xpmlp-torch", "xpmlp estimator, torch", functools.partial(xpmlp_estimator, backend="torch")),
        Candidate("core", "xpmlp core, NumPy", xpmlp_core),
        Candidate("core-jax", "xpmlp core, JAX", functools.partial(xpmlp_core, backend="jax"), default=False),
        Candidate("core-torch", "xpmlp core, torch", functools.partial(xpmlp_core, backend="torch"), default=False),
        Candidate("scikit-learn", "scikit-learn", scikit_learn),
        Candidate("torch", "plain PyTorch, eager", torch_loop),
        Candidate(
            "torch-compile", "plain PyTorch, compile", functools.partial(torch_loop, compiled=True), default=False
        ),
        Candidate("jax", "plain JAX, jit and scan", jax_program),
        Candidate("skorch", "skorch", skorch, default=False),
    )
}
