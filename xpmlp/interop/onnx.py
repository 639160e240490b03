"""Models for other runtimes: ONNX, written node by node with onnx.helper.

To export another activation, write its row of ACTIVATIONS here: from the name of z to the name of a. The nodes are of
the standard domain, in opset 17, and of those kinds that runtimes compute in float64 as well as in float32.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from xpmlp import checks
from xpmlp.backends import HostArray
from xpmlp.io import storage
from xpmlp.network import Network, Parameters
from xpmlp.network.activations import ACTIVATIONS as ROWS
from xpmlp.network.activations import GELU_CUBIC, GELU_SCALE, LEAKY_SLOPE, SELU_ALPHA, SELU_SCALE, Activation

OPSET, IR_VERSION = 17, 8
LARGEST = 2**31 - 1  # bytes of a protobuf message


class _Graph:
    """The nodes of a model, and names for what flows between them."""

    def __init__(self, dtype: str) -> None:
        try:
            import onnx
        except ImportError as error:
            raise ImportError("to_onnx needs onnx; install it with pip install 'onnx>=1.17'.") from error
        self.onnx: Any = onnx
        self.dtype = checks.option(dtype, "dtype", ("float32", "float64"))
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.numbers: dict[float, str] = {}

    def op(self, kind: str, *inputs: str | float, name: str | None = None, **attributes: Any) -> str:
        """Add a node; the name of its output. Numbers among the inputs become constants."""
        output = name or f"{kind}_{len(self.nodes)}"
        names = [value if isinstance(value, str) else self.number(value) for value in inputs]
        self.nodes.append(self.onnx.helper.make_node(kind, names, [output], **attributes))
        return output

    def constant(self, name: str, values: HostArray) -> str:
        """An array that belongs to the model."""
        self.initializers.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def number(self, value: float) -> str:
        """A number of the model's dtype."""
        if value not in self.numbers:
            constant = np.asarray(value, dtype=self.dtype)
            self.numbers[value] = f"number_{len(self.numbers)}"
            self.initializers.append(self.onnx.numpy_helper.from_array(constant, self.numbers[value]))
        return self.numbers[value]

    def write(
        self, path: str | os.PathLike[str], x: tuple[str, list[Any]], outputs: list[tuple[str, Any, Any]]
    ) -> None:
        """Check the model and write it to a file; `outputs` are (name, dtype, shape)."""
        make = self.onnx.helper

        def info(name: str, dtype: Any, shape: Any) -> Any:
            kind = make.np_dtype_to_tensor_dtype(np.dtype(dtype)) if dtype != "text" else self.onnx.TensorProto.STRING
            return make.make_tensor_value_info(name, kind, shape)

        graph = make.make_graph(
            self.nodes,
            "xpmlp",
            [info(x[0], self.dtype, x[1])],
            [info(*output) for output in outputs],
            initializer=self.initializers,
        )
        model = make.make_model(
            graph,
            opset_imports=[make.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="xpmlp",
        )
        if model.ByteSize() > LARGEST:
            raise ValueError(f"an ONNX file may have {LARGEST:,} bytes; this model would have {model.ByteSize():,}.")
        self.onnx.checker.check_model(model, full_check=True)
        with storage.replacing(path) as file:
            file.write(model.SerializeToString())


# --- Activations ---


def _relu(g: _Graph, z: str) -> str:
    return g.op("Max", z, 0.0)


def _negative_part(g: _Graph, z: str) -> str:
    # e^min(z, 0) - 1, of elu and selu
    return g.op("Sub", g.op("Exp", g.op("Min", z, 0.0)), 1.0)


def _selu(g: _Graph, z: str) -> str:
    negative = g.op("Mul", _negative_part(g, z), SELU_SCALE * SELU_ALPHA)
    return g.op("Add", g.op("Mul", _relu(g, z), SELU_SCALE), negative)


def _softplus(g: _Graph, z: str) -> str:
    # max(z, 0) + log(1 + exp(-|z|))
    return g.op("Add", _relu(g, z), g.op("Log", g.op("Add", g.op("Exp", g.op("Neg", g.op("Abs", z))), 1.0)))


def _gelu(g: _Graph, z: str) -> str:
    cubic = g.op("Mul", g.op("Mul", z, g.op("Mul", z, z)), GELU_CUBIC)
    t = g.op("Tanh", g.op("Mul", g.op("Add", z, cubic), GELU_SCALE))
    return g.op("Mul", g.op("Mul", z, 0.5), g.op("Add", t, 1.0))


ACTIVATIONS: dict[str, Callable[[_Graph, str], str]] = {
    "identity": lambda _, z: z,
    "sigmoid": lambda g, z: g.op("Sigmoid", z),
    "tanh": lambda g, z: g.op("Tanh", z),
    "relu": _relu,
    "leaky_relu": lambda g, z: g.op("Max", z, g.op("Mul", z, LEAKY_SLOPE)),
    "elu": lambda g, z: g.op("Add", _relu(g, z), _negative_part(g, z)),
    "selu": _selu,
    "softplus": _softplus,
    "silu": lambda g, z: g.op("Mul", z, g.op("Sigmoid", z)),
    "gelu": _gelu,
    "mish": lambda g, z: g.op("Mul", z, g.op("Tanh", _softplus(g, z))),
    "exp": lambda g, z: g.op("Exp", z),
    "softmax": lambda g, z: g.op("Softmax", z, axis=-1),
}


def _activation(row: Activation) -> Callable[[_Graph, str], str]:
    if row.name not in ACTIVATIONS or not checks.genuine(row, ROWS):
        raise ValueError(
            f"ONNX has no word for the activation {row.name!r}, which is a function of your own; "
            f"choose one of {', '.join(sorted(ACTIVATIONS))}."
        )
    return ACTIVATIONS[row.name]


# --- Models ---


def network_to_onnx(path: str | os.PathLike[str], network: Network, p: Parameters, dtype: str = "float32") -> None:
    """Write a network: input "X" (batch, n_0), output "yhat" (batch, n_K), or (m, batch, n_K) of m networks."""
    g = _Graph(dtype)
    yhat = g.op("Identity", _forward(g, network, p), name="yhat")
    lead = [int(p.W[1].shape[0])] if p.W[1].ndim == 3 else []
    sizes = network.layout.sizes
    g.write(path, ("X", ["batch", sizes[0]]), [(yhat, dtype, [*lead, "batch", sizes[-1]])])


def estimator_to_onnx(
    path: str | os.PathLike[str],
    network: Network,
    p: Parameters,
    dtype: str = "float32",
    *,
    labels: tuple[str, HostArray] | None = None,
    quantiles: Sequence[float] = (),
) -> None:
    """Write an estimator: a classifier where there are `labels`, (kind, classes), and a regressor otherwise."""
    g = _Graph(dtype)
    yhat = _forward(g, network, p)
    n = network.layout.sizes[-1]
    if labels is None:
        if len(quantiles) > 1:  # sorted, so that they do not cross
            yhat = _sorted(g, yhat, np.argsort(np.argsort(quantiles)))
        outputs = [(g.op("Identity", yhat, name="variable"), dtype, ["batch", n])]
    else:
        outputs = _classify(g, yhat, *labels)
    g.write(path, ("X", ["batch", network.layout.sizes[0]]), outputs)


def _forward(g: _Graph, network: Network, p: Parameters) -> str:
    W, b = p.W, p.b
    functions = [_activation(row) for row in network.activations]
    a = "X"
    for k, function in enumerate(functions, start=1):
        weights = g.constant(f"W{k}", np.asarray(W[k], dtype=g.dtype))
        biases = g.constant(f"b{k}", np.asarray(b[k], dtype=g.dtype))
        if W[k].ndim == 2:
            z = g.op("Gemm", a, weights, biases, name=f"z{k}")
        else:  # m networks: (m, batch, n)
            z = g.op("Add", g.op("MatMul", a, weights), biases, name=f"z{k}")
        a = function(g, z)
    return a


def _sorted(g: _Graph, yhat: str, ranks: HostArray) -> str:
    count = g.constant("count", np.asarray([len(ranks)], dtype=np.int64))
    values = f"sorted_{len(g.nodes)}"
    g.nodes.append(
        g.onnx.helper.make_node("TopK", [yhat, count], [values, f"{values}_at"], axis=1, largest=0, sorted=1)
    )
    return g.op("Gather", values, g.constant("ranks", ranks.astype(np.int64)), axis=1)


def _classify(g: _Graph, yhat: str, kind: str, classes: HostArray) -> list[tuple[str, Any, Any]]:
    whole = g.onnx.TensorProto.INT64
    if kind == "multilabel":
        g.op("Cast", g.op("Greater", yhat, 0.5), to=whole, name="label")
        g.op("Identity", yhat, name="probabilities")
        shape = ["batch", len(classes)]
        return [("label", np.int64, shape), ("probabilities", g.dtype, shape)]
    known, dtype = _classes(classes)
    if kind == "binary":
        index = g.op("Cast", g.op("Greater", yhat, 0.5), to=whole)
        index = g.op("Reshape", index, g.constant("flat", np.asarray([-1], dtype=np.int64)))
        if len(classes) == 1:
            g.op("Sub", 1.0, yhat, name="probabilities")
            index = g.op("Sub", index, index)
        else:
            g.op("Concat", g.op("Sub", 1.0, yhat), yhat, axis=1, name="probabilities")
    else:
        index = g.op("ArgMax", yhat, axis=1, keepdims=0)
        g.op("Identity", yhat, name="probabilities")
    g.op("Gather", g.constant("classes", known), index, axis=0, name="label")
    return [("label", dtype, ["batch"]), ("probabilities", g.dtype, ["batch", len(classes)])]


def _classes(classes: HostArray) -> tuple[HostArray, Any]:
    kind = classes.dtype.kind
    if kind == "O":
        types = {type(value) for value in classes.tolist()}
        kind = {frozenset({str}): "U", frozenset({int}): "i", frozenset({bool}): "b"}.get(frozenset(types), "O")
    if kind == "U":
        return classes.astype(object), "text"
    if kind in "iu":
        return classes.astype(np.int64), np.int64
    if kind == "b":
        return classes.astype(bool), bool
    if kind == "f":
        return classes.astype(np.float64), np.float64
    raise ValueError(f"ONNX has no type for labels such as {classes.tolist()[:3]}; fit on integers or on text.")
