"""What is timed beside whole fits on dense data, by section and case, and who takes part in it.

`prepare` makes of a section, a case and a candidate a function that does the work once and returns a number or None;
it is None itself where a candidate has no part in a case.
"""

import importlib
import importlib.util
import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from candidates import CANDIDATES, WORKLOADS, need, samples_of

Work = Callable[[], float | None]


class Section(NamedTuple):
    """A table: cases by rows, candidates by columns, and how much slower scikit-learn must be than we are."""

    title: str
    cases: dict[str, Any]
    candidates: tuple[str, ...]
    goals: dict[str, float]
    make: Callable[[Any, str, bool], Work | None]
    unit: tuple[str, float] = ("s", 1.0)  # of a call, and how many calls are one measurement
    over: str = "scikit-learn"
    under: str = "xpmlp"


def prepare(section: str, case: str, candidate: str, quick: bool) -> Work | None:
    """See the head of this file."""
    if section == "fits":
        workload = WORKLOADS[case].small() if quick else WORKLOADS[case]
        return CANDIDATES[candidate].prepare(workload, samples_of(workload))
    chosen = SECTIONS[section]
    return chosen.make(chosen.cases[case], candidate, quick)


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def _estimator(candidate: str, kind: str, **options: Any) -> Any:
    """An unfitted estimator of scikit-learn or ours; None of anybody else."""
    module = {"scikit-learn": "sklearn.neural_network"}.get(candidate, "xpmlp")
    return getattr(importlib.import_module(module), kind)(random_state=0, **options)


def _fit(candidate: str, kind: str, X: Any, y: Any, **options: Any) -> Work:
    """A whole fit of a fresh estimator; `numba` and `xpmlp` differ in whether epochs are compiled."""
    settings = importlib.import_module("xpmlp").config_context
    compiled = {"numba": "always", "xpmlp": "never", "without": "never"}.get(candidate)
    if candidate == "numba":
        need("numba")

    def fit() -> float:
        with settings(compiled=compiled), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # ConvergenceWarning: the number of epochs is given
            return float(_estimator(candidate, kind, **options).fit(X, y).loss_)

    return fit


def _labels(X: Any, classes: int) -> np.ndarray:
    scores = np.asarray(X @ _rng().standard_normal((X.shape[1], max(classes, 1)), dtype=np.float32))
    return scores.argmax(axis=1) if classes else scores[:, 0]


NEVER_STOPS = {"tol": 0.0, "n_iter_no_change": 10**9}


# --- Sparse X ---


def _sparse(columns: int, density: float, dtype: str, quick: bool) -> Any:
    rows = 200 if quick else 4_000
    found = importlib.import_module("scipy.sparse").random(rows, columns, density, "csr", dtype, random_state=0)
    return found.astype(dtype)


def _sparse_fit(case: Any, candidate: str, quick: bool) -> Work | None:
    columns, density, units, dtype = case
    X = _sparse(columns, density, dtype, quick)
    y, W = _rng().integers(0, 4, X.shape[0]), _rng().standard_normal((columns, units)).astype(dtype)
    if candidate != "floor":
        return _fit(candidate, "MLPClassifier", X, y, hidden_layer_sizes=(units,), max_iter=1)

    def products() -> None:
        for start in range(0, X.shape[0], 200):
            x = X[start : start + 200]
            z = x @ W
            x.T @ z

    return products


def _sparse_predict(case: Any, candidate: str, quick: bool) -> Work | None:
    columns, density, units, dtype = case
    X = _sparse(columns, density, dtype, quick)
    if candidate == "floor":
        W = _rng().standard_normal((columns, units)).astype(dtype)
        return lambda: _nothing(X @ W)
    return _predicting(_fitted(candidate, X[:100], _rng().integers(0, 4, 100), (units,)), X)


# --- Predictions ---


def _fitted(candidate: str, X: Any, y: Any, hidden: tuple[int, ...]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ConvergenceWarning
        return _estimator(candidate, "MLPClassifier", hidden_layer_sizes=hidden, max_iter=1).fit(X, y)


def _predicting(model: Any, X: Any, calls: int = 1) -> Work:
    def predict() -> None:
        for _ in range(calls):
            model.predict_proba(X)

    return predict


def _nothing(_: Any) -> None:
    return None


def _predict(case: Any, candidate: str, quick: bool) -> Work | None:
    sizes, rows, dtype = case
    rows = min(rows, 64) if quick else rows
    calls = (3 if quick else ROW_CALLS) if rows == 1 else 1
    sizes = tuple(min(n, 64) for n in sizes) if quick else sizes
    X = _rng().standard_normal((rows, sizes[0])).astype(dtype)
    if candidate in ("floor", "torch", "jax"):
        W = [_rng().standard_normal(pair).astype(dtype) for pair in pairwise(sizes)]
        made = {"floor": _bare_forward, "torch": _torch_forward, "jax": _jax_forward}[candidate](W, X)

        def forward() -> None:
            for _ in range(calls):
                made()

        return forward
    some = _rng().standard_normal((200, sizes[0])).astype(dtype)
    return _predicting(_fitted(candidate, some, np.arange(200) % max(sizes[-1], 3), sizes[1:-1]), X, calls)


def _bare_forward(W: list[np.ndarray], X: np.ndarray) -> Callable[[], None]:
    at_once = min(512, len(X))
    rooms = [np.empty((at_once, w.shape[1]), X.dtype) for w in W]

    def forward() -> None:
        for start in range(0, len(X), at_once):
            h = X[start : start + at_once]
            for w, room in zip(W, rooms, strict=True):
                h = np.matmul(h, w, out=room[: len(h)])

    return forward


def _torch_forward(W: list[np.ndarray], X: np.ndarray) -> Callable[[], Any]:
    torch = need("torch")
    layers: list[Any] = []
    for w in W:
        linear = torch.nn.Linear(*w.shape)
        linear.weight.data, linear.bias.data = (
            torch.from_numpy(w.T.copy()),
            torch.zeros(w.shape[1], dtype=linear_type(w)),
        )
        layers += [linear, torch.nn.ReLU()]
    net = torch.nn.Sequential(*layers[:-1], torch.nn.Softmax(dim=1))

    def forward() -> Any:
        with torch.inference_mode():
            return net(torch.from_numpy(X)).numpy()

    return forward


def linear_type(w: np.ndarray) -> Any:
    return getattr(need("torch"), w.dtype.name)


def _jax_forward(W: list[np.ndarray], X: np.ndarray) -> Callable[[], Any] | None:
    jax, jnp = need("jax"), need("jax.numpy")
    jax.config.update("jax_enable_x64", True)
    weights = [jnp.asarray(w) for w in W]

    @jax.jit
    def forward(weights: Any, x: Any) -> Any:
        for w in weights[:-1]:
            x = jax.nn.relu(x @ w)
        return jax.nn.softmax(x @ weights[-1])

    return lambda: np.asarray(forward(weights, jnp.asarray(X)))


ROW_CALLS = 200


# --- L-BFGS ---


def _lbfgs(case: Any, candidate: str, quick: bool) -> Work | None:
    rows, columns, hidden, classes, iterations, dtype = case
    rows, iterations = (min(rows, 100), 2) if quick else (rows, iterations)
    if columns == 64:
        X = importlib.import_module("sklearn.datasets").load_digits().data[:rows] / 16.0
    else:
        X = _rng().standard_normal((rows, columns))
    X = X.astype(dtype)
    if candidate == "floor":
        return _bare_steps((columns, *hidden, max(classes, 1)), X, 512, iterations)
    kind = "MLPClassifier" if classes else "MLPRegressor"
    options = {"solver": "lbfgs", "max_iter": iterations, "tol": 1e-12}
    y = _labels(X.astype(np.float32), classes) if columns != 8 else np.sin(X[:, 0]) + X[:, 1]
    return _fit(candidate, kind, X, y, hidden_layer_sizes=hidden, **options)


def _bare_steps(sizes: tuple[int, ...], X: np.ndarray, batch: int, epochs: int) -> Work:
    """The products of training: forward, dW, and da without da[0], over batches in order."""
    batch = min(batch, len(X))
    W = [_rng().standard_normal(pair).astype(X.dtype) for pair in pairwise(sizes)]
    dW = [np.empty_like(w) for w in W]
    a = [_rng().standard_normal((batch, n)).astype(X.dtype) for n in sizes[1:]]
    z, da = [np.empty_like(it) for it in a], [np.empty_like(it) for it in a]

    def run() -> None:
        for start in [*range(0, len(X), batch)] * epochs:
            x = X[start : start + batch]
            n = len(x)
            inputs = [x, *(it[:n] for it in a[:-1])]
            for k in range(len(W)):
                np.matmul(inputs[k], W[k], out=z[k][:n])
            for k in reversed(range(len(W))):
                np.matmul(inputs[k].T, a[k][:n], out=dW[k])
                if k > 0:
                    np.matmul(a[k][:n], W[k].T, out=da[k - 1][:n])

    return run


# --- Early stopping, partial_fit ---


def _stopping(case: Any, candidate: str, quick: bool) -> Work | None:
    rows, columns, hidden, classes, batch, epochs = case
    X = _rng().standard_normal((rows, columns), dtype=np.float32)
    options = {"hidden_layer_sizes": hidden, "batch_size": batch, "max_iter": 2 if quick else epochs, **NEVER_STOPS}
    if candidate == "floor":
        return _bare_steps((columns, *hidden, max(classes, 1)), X, batch, options["max_iter"])
    kind = "MLPClassifier" if classes else "MLPRegressor"
    early = candidate != "without"
    return _fit(candidate, kind, X, _labels(X, classes), early_stopping=early, **options)


def _partial(case: Any, candidate: str, quick: bool) -> Work | None:
    rows, columns, hidden, classes = case
    calls = 3 if quick else PARTIAL_CALLS
    X = _rng().standard_normal((rows, columns), dtype=np.float32)
    y = _labels(X, classes)
    if candidate == "floor":
        return _bare_steps((columns, *hidden, classes), X, rows, calls)
    if candidate == "torch":
        return _torch_steps((columns, *hidden, classes), X, y, calls)
    model = _estimator(candidate, "MLPClassifier", hidden_layer_sizes=hidden)
    model.partial_fit(X, y, classes=np.arange(classes))

    def run() -> None:
        for _ in range(calls):
            model.partial_fit(X, y)

    return run


PARTIAL_CALLS = 30


def _torch_steps(sizes: tuple[int, ...], X: np.ndarray, y: np.ndarray, steps: int) -> Work:
    torch = need("torch")
    layers: list[Any] = []
    for n_in, n_out in pairwise(sizes):
        layers += [torch.nn.Linear(n_in, n_out), torch.nn.ReLU()]
    net, criterion = torch.nn.Sequential(*layers[:-1]), torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(net.parameters(), weight_decay=1e-4 / len(X), fused=True)

    def run() -> float:
        for _ in range(steps):
            optimizer.zero_grad()
            loss = criterion(net(torch.from_numpy(X)), torch.from_numpy(y))
            loss.backward()
            optimizer.step()
        return loss.item()

    return run


# --- Members and parts ---


def _tables(case: Any, candidate: str, quick: bool) -> Work | None:
    rows, columns, hidden, options = case
    rows = 100 if quick else rows
    X = _rng().standard_normal((rows, columns), dtype=np.float32)
    y = (X[:, :1] > 0.0).astype(np.float32)
    xpmlp = importlib.import_module("xpmlp")
    options = dict(options)
    if options.pop("coded", False):
        edges = tuple(tuple(np.linspace(-2.0, 2.0, 9)) for _ in range(columns))
        options["parts"] = {0: importlib.import_module("xpmlp.network.parts").part("piecewise", edges=edges, width=4)}
    backend = {"xpmlp-torch": "torch"}.get(candidate, "numpy")
    need(backend)
    if candidate == "networks":  # as many that share nothing
        options = {"n_networks": options.get("members", 1)}
    X, y = (xpmlp.to_backend(it, backend) for it in (X, y))

    def fit() -> float:
        net = xpmlp.MLP(
            [columns, *hidden, 1],
            loss="binary_cross_entropy",
            dtype="float32",
            random_state=0,
            backend=backend,
            **options,
        )
        net.fit(X, y, epochs=1 if quick else 2, batch_size=256)
        return float(np.mean(net.history["loss"][-1]))

    return fit


def _sparse_cases() -> dict[str, Any]:
    shapes = ((10_000, 0.002, 64), (10_000, 0.005, 100), (2_000, 0.01, 100), (1_000, 0.05, 100), (1_000, 0.5, 100))
    return {f"{c:,} x {d:g}, {u}, f{t[-2:]}": (c, d, u, t) for c, d, u in shapes for t in ("float32", "float64")}


def _predict_cases() -> dict[str, Any]:
    shapes = (((20, 64, 2), 100_000), ((54, 256, 128, 7), 100_000), ((784, 256, 128, 10), 20_000))
    shapes += (((1_024, 2_048, 2_048, 10), 5_000),)
    return {_named(s, t): (s, n, t) for s, n in shapes for t in ("float32", "float64")}


def _named(sizes: tuple[int, ...], dtype: str) -> str:
    return f"{'-'.join(map(str, sizes))}, f{dtype[-2:]}"


SPARSE, PREDICT = _sparse_cases(), _predict_cases()
ROWS = {
    _named(s, t): (s, 1, t)
    for s in ((20, 64, 2), (64, 100, 10), (54, 256, 128, 7))
    for t in ("float32", "float64")
}  # fmt: skip
SECTIONS = {
    "sparse": Section(
        "Sparse X: one epoch, 4,000 rows, batches of 200 (columns x density, units)",
        SPARSE,
        ("floor", "xpmlp", "scikit-learn"),
        {name: 0.95 if case[1] > 0.05 else 1.5 if case[3] == "float32" else 1.15 for name, case in SPARSE.items()},
        _sparse_fit,
    ),
    "sparse predict": Section(
        "Sparse X: predict_proba of 4,000 rows (columns x density, units)",
        SPARSE,
        ("floor", "xpmlp", "scikit-learn"),
        {name: 0.65 if case[1] < 0.005 else 0.8 for name, case in SPARSE.items()},
        _sparse_predict,
    ),
    "predict": Section(
        "predict_proba of 100,000 rows, 20,000 (784) and 5,000 (1,024)",
        PREDICT,
        ("floor", "xpmlp", "scikit-learn", "torch", "jax"),
        dict.fromkeys(PREDICT, 0.98)
        | {"20-64-2, f32": 1.25, "20-64-2, f64": 1.6, "54-256-128-7, f32": 1.2, "54-256-128-7, f64": 2.0},
        _predict,
    ),
    "row": Section(
        "predict_proba of one row",
        ROWS,
        ("floor", "xpmlp", "scikit-learn", "torch", "jax"),
        dict.fromkeys(ROWS, 2.0),
        _predict,
        ("us", 1e6 / ROW_CALLS),
    ),
    "lbfgs": Section(
        "L-BFGS with the same iterations (floor: the products of one call an iteration)",
        {
            "digits, 48, f32": (1_797, 64, (100,), 10, 48, "float32"),
            "digits, 48, f64": (1_797, 64, (100,), 10, 48, "float64"),
            "20,000 x 54, 6, f32": (20_000, 54, (256, 128), 7, 6, "float32"),
            "20,000 x 54, 6, f64": (20_000, 54, (256, 128), 7, 6, "float64"),
            "200 x 8-32, 200, f32": (200, 8, (32,), 0, 200, "float32"),
            "200 x 8-32, 200, f64": (200, 8, (32,), 0, 200, "float64"),
        },
        ("floor", "xpmlp", "scikit-learn"),
        {
            "digits, 48, f32": 1.5,
            "digits, 48, f64": 1.5,
            "20,000 x 54, 6, f32": 1.4,
            "20,000 x 54, 6, f64": 1.4,
            "200 x 8-32, 200, f32": 0.9,
            "200 x 8-32, 200, f64": 0.9,
        },
        _lbfgs,
    ),
    "stopping": Section(
        "Early stopping that never stops, float32 (without: no validation set)",
        {
            "circles": (1_000, 2, (4, 3), 2, 200, 60),
            "digits": (1_797, 64, (100,), 10, 200, 30),
            "regression": (2_000, 8, (32,), 0, 200, 60),
        },
        ("floor", "xpmlp", "without", "numba", "scikit-learn"),
        {"circles": 3.5, "digits": 2.4, "regression": 3.2},
        _stopping,
    ),
    "partial_fit": Section(
        "partial_fit, one batch a call, float32",
        {"50 x 2-32": (50, 2, (32,), 2), "200 x 64-100-10": (200, 64, (100,), 10)},
        ("floor", "xpmlp", "scikit-learn", "torch"),
        {},
        _partial,
        ("us", 1e6 / PARTIAL_CALLS),
    ),
    "members": Section(
        "Members and parts: two epochs of an MLP, float32, batches of 256 (networks: as many alone)",
        {
            "plain": (20_000, 20, (128, 128), {}),
            "piecewise": (20_000, 20, (128, 128), {"coded": True}),
            "layer norm": (20_000, 20, (128, 128), {"parts": {1: "layer_norm", 2: "layer_norm"}}),
            "8 members": (20_000, 20, (128, 128), {"members": 8}),
        },
        ("xpmlp", "xpmlp-torch", "networks"),
        {},
        _tables,
        over="networks",
    ),
}
