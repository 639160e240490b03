"""Models for other runtimes: ONNX, written node by node with onnx.helper.

To export another activation, write its row of ACTIVATIONS here: from the name of z to the name of a; another part, its
row of PARTS. The nodes are of the standard domain, in opset 17, and of those kinds that runtimes compute in float64 as
well as in float32. Of members the graph has the mean of their outputs, as `predict` does.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from xpmlp import checks
from xpmlp.backends import HostArray
from xpmlp.io import storage
from xpmlp.network import Network, Parameters
from xpmlp.network.activations import ACTIVATIONS as ROWS
from xpmlp.network.activations import GELU_CUBIC, GELU_SCALE, LEAKY_SLOPE, SELU_ALPHA, SELU_SCALE, Activation
from xpmlp.network.parts import EPSILON, Part
from xpmlp.network.parts import PARTS as PART_ROWS

OPSET, ML_OPSET, IR_VERSION = 17, 3, 8
ML = "ai.onnx.ml"  # the domain of what is no arithmetic: labels
LARGEST = 2**31 - 1  # bytes of a protobuf message


class Graph:
    """The nodes of a model, and names for what flows between them.

    Parameters
    ----------
    dtype : {"float32", "float64"}
        Of its arithmetic.
    named : function
        From a name to one that is free, where the nodes join those of a larger model.
    """

    def __init__(self, dtype: str, named: Callable[[str], str] = str) -> None:
        try:
            import onnx
        except ImportError as error:
            raise ImportError("to_onnx needs onnx; install it with pip install 'onnx>=1.17'.") from error
        self.onnx: Any = onnx
        self.dtype = checks.option(dtype, "dtype", ("float32", "float64"))
        self.named = named
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []
        self.numbers: dict[float, str] = {}

    def op(self, kind: str, *inputs: str | float, name: str | None = None, **attributes: Any) -> str:
        """Add a node; the name of its output. Numbers among the inputs become constants."""
        output = self.named(name or f"{kind}_{len(self.nodes)}")
        names = [value if isinstance(value, str) else self.number(value) for value in inputs]
        self.nodes.append(self.onnx.helper.make_node(kind, names, [output], **attributes))
        return output

    def constant(self, name: str, values: HostArray) -> str:
        """An array that belongs to the model."""
        name = self.named(name)
        self.initializers.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def free(self, name: str) -> str:
        """A name for one more constant."""
        return f"{name}_{len(self.initializers)}"

    def number(self, value: float) -> str:
        """A number of the model's dtype."""
        if value not in self.numbers:
            self.numbers[value] = self.constant(f"number_{len(self.numbers)}", np.asarray(value, dtype=self.dtype))
        return self.numbers[value]

    def whole(self, name: str, values: Sequence[int]) -> str:
        """Whole numbers, for what takes them as an input: axes, bounds."""
        return self.constant(self.free(name), np.asarray(values, dtype=np.int64))

    def write(
        self,
        path: str | os.PathLike[str],
        inputs: list[tuple[str, Any, Any]],
        outputs: list[tuple[str, Any, Any]],
    ) -> None:
        """Check the model and write it to a file; inputs and outputs are (name, dtype, shape)."""
        make = self.onnx.helper

        def info(name: str, dtype: Any, shape: Any) -> Any:
            kind = make.np_dtype_to_tensor_dtype(np.dtype(dtype)) if dtype != "text" else self.onnx.TensorProto.STRING
            return make.make_tensor_value_info(name, kind, shape)

        graph = make.make_graph(
            self.nodes,
            "xpmlp",
            [info(*each) for each in inputs],
            [info(*output) for output in outputs],
            initializer=self.initializers,
        )
        model = make.make_model(
            graph,
            opset_imports=[make.make_opsetid("", OPSET)]
            + [make.make_opsetid(ML, ML_OPSET)] * any(node.domain == ML for node in self.nodes),
            ir_version=IR_VERSION,
            producer_name="xpmlp",
        )
        if model.ByteSize() > LARGEST:
            raise ValueError(f"an ONNX file may have {LARGEST:,} bytes; this model would have {model.ByteSize():,}.")
        self.onnx.checker.check_model(model, full_check=True)
        with storage.replacing(path) as file:
            file.write(model.SerializeToString())


# --- Activations ---


def _relu(g: Graph, z: str) -> str:
    return g.op("Max", z, 0.0)


def _negative_part(g: Graph, z: str) -> str:
    # e^min(z, 0) - 1, of elu and selu
    return g.op("Sub", g.op("Exp", g.op("Min", z, 0.0)), 1.0)


def _selu(g: Graph, z: str) -> str:
    negative = g.op("Mul", _negative_part(g, z), SELU_SCALE * SELU_ALPHA)
    return g.op("Add", g.op("Mul", _relu(g, z), SELU_SCALE), negative)


def _softplus(g: Graph, z: str) -> str:
    # max(z, 0) + log(1 + exp(-|z|))
    return g.op("Add", _relu(g, z), g.op("Log", g.op("Add", g.op("Exp", g.op("Neg", g.op("Abs", z))), 1.0)))


def _gelu(g: Graph, z: str) -> str:
    cubic = g.op("Mul", g.op("Mul", z, g.op("Mul", z, z)), GELU_CUBIC)
    t = g.op("Tanh", g.op("Mul", g.op("Add", z, cubic), GELU_SCALE))
    return g.op("Mul", g.op("Mul", z, 0.5), g.op("Add", t, 1.0))


ACTIVATIONS: dict[str, Callable[[Graph, str], str]] = {
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


def _activation(row: Activation) -> Callable[[Graph, str], str]:
    if row.name not in ACTIVATIONS or not checks.genuine(row, ROWS):
        raise ValueError(
            f"ONNX has no word for the activation {row.name!r}, which is a function of your own; "
            f"choose one of {', '.join(sorted(ACTIVATIONS))}."
        )
    return ACTIVATIONS[row.name]


# --- Parts ---


def _piecewise(g: Graph, part: Part, own: dict[str, HostArray], x: str, n: int) -> str:
    F, d = len(part.parameters["edges"]), part.parameters["width"]
    left, scale, low, high = (g.constant(g.free("bins"), it) for it in part.constants(np.zeros(1, g.dtype)))
    several = own["bins"].ndim > 3  # of m networks
    z = g.op("Transpose", _columns(g, x, 0, F), perm=[1, 0])  # (F, batch)
    z = g.op("Unsqueeze", z, g.whole("axis", [2]))
    code = g.op("Min", g.op("Max", g.op("Mul", g.op("Sub", z, left), scale), low), high)  # (F, batch, T)
    slope, offset = (g.constant(g.free(name), own[name][..., None, :]) for name in ("slope", "offset"))
    o = g.op("MatMul", code, g.constant(g.free("bins"), own["bins"]))  # (..., F, batch, d)
    o = g.op("Add", g.op("Add", o, g.op("Mul", z, slope)), offset)
    o = g.op("Transpose", o, perm=[0, 2, 1, 3] if several else [1, 0, 2])
    o = g.op("Reshape", o, g.whole("shape", [0, 0, F * d] if several else [0, F * d]))
    if n == F:
        return o
    rest = _columns(g, x, F, n)
    if several:  # as many times as there are networks
        rest = g.op("Add", rest, g.constant(g.free("zeros"), np.zeros((len(own["bins"]), 1, 1), g.dtype)))
    return g.op("Concat", o, rest, axis=-1)


def _mean(g: Graph, x: str, axis: int, n: int, keepdims: int) -> str:
    # By a sum: ReduceMean says its axes in one way up to opset 17 and in another since, and nodes join other models
    return g.op("Div", g.op("ReduceSum", x, g.whole("axis", [axis]), keepdims=keepdims), float(n))


def _columns(g: Graph, x: str, start: int, stop: int) -> str:
    return g.op("Slice", x, g.whole("start", [start]), g.whole("stop", [stop]), g.whole("axis", [1]))


def _layer_norm(g: Graph, part: Part, own: dict[str, HostArray], z: str, n: int) -> str:  # noqa: ARG001
    centred = g.op("Sub", z, _mean(g, z, -1, n, keepdims=1))
    variance = _mean(g, g.op("Mul", centred, centred), -1, n, keepdims=1)
    normed = g.op("Div", centred, g.op("Sqrt", g.op("Add", variance, EPSILON)))
    gain, shift = (g.constant(g.free(name), own[name]) for name in ("gain", "shift"))
    return g.op("Add", g.op("Mul", normed, gain), shift)


def _member_scale(g: Graph, part: Part, own: dict[str, HostArray], x: str, n: int) -> str:  # noqa: ARG001
    return g.op("Mul", x, g.constant(g.free("scale"), own["scale"]))


# From the part, its arrays, the name of what it takes and how many inputs that has, to the name of what it makes
PARTS: dict[str, Callable[[Graph, Part, dict[str, HostArray], str, int], str]] = {
    "piecewise": _piecewise,
    "layer_norm": _layer_norm,
    "member_scale": _member_scale,
}


def _through_parts(g: Graph, network: Network, p: Parameters, k: int, x: str) -> str:
    n = network.n_inputs if k == 0 else network.layout.sizes[k]
    for part in network.parts[k] if k < len(network.parts) else ():
        row = PART_ROWS.get(part.name)
        if part.name not in PARTS or row is None or row.forward is not part.forward:
            raise ValueError(f"ONNX has no word for the part {part.name!r}; choose of {', '.join(sorted(PARTS))}.")
        own = {name: np.asarray(array, dtype=g.dtype) for name, array in part.own(p.own[k]).items()}
        x = PARTS[part.name](g, part, own, x, n)
        n += part.adds
    return x


# --- Models ---


def network_to_onnx(path: str | os.PathLike[str], network: Network, p: Parameters, dtype: str = "float32") -> None:
    """Write a network: input "X" (batch, n_inputs), output "yhat" (batch, n_K), or (m, batch, n_K) of m networks."""
    g = Graph(dtype)
    yhat = g.op("Identity", outputs_of(g, "X", network, p), name="yhat")
    lead = [int(p.W[1].shape[0])] if p.W[1].ndim == 3 and not network.members else []
    g.write(
        path, [("X", dtype, ["batch", network.n_inputs])], [(yhat, dtype, [*lead, "batch", network.layout.sizes[-1]])]
    )


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
    g = Graph(dtype)
    answers = answers_of(g, "X", network, p, labels=labels, quantiles=quantiles)
    g.write(path, [("X", dtype, ["batch", network.n_inputs])], named_answers(g, answers))


def named_answers(g: Graph, answers: Sequence["Answer"]) -> list[tuple[str, Any, Any]]:
    """Answers as the outputs of a model."""
    return [(g.op("Identity", name, name=what), kind, ["batch", *rest]) for what, name, kind, rest in answers]


class Answer(NamedTuple):
    """Something that a model answers with, one entry or row per sample."""

    what: str  # "variable"; "label", "probabilities"
    name: str  # in the graph
    dtype: Any  # NumPy's; "text"
    shape: list[int]  # of each sample's


def answers_of(
    g: Graph,
    x: str,
    network: Network,
    p: Parameters,
    *,
    labels: tuple[str, HostArray] | None = None,
    quantiles: Sequence[float] = (),
    scales: Sequence[HostArray] = (),
) -> list[Answer]:
    """Draw what an estimator answers to the inputs named `x`; see `estimator_to_onnx`.

    `scales` are (centre, scale, lowest, highest) of numbers that the network has in other units: shapes (n_K,) or (1,).
    """
    if labels is not None and labels[0] != "multilabel":
        classes_for_onnx(labels[1])  # refuses, before anything is drawn, what ONNX has no type for
    yhat = outputs_of(g, x, network, p)
    n = network.layout.sizes[-1]
    if labels is not None:
        return _classify(g, yhat, *labels)
    if scales:
        centre, scale, low, high = (g.constant(g.free("units"), np.asarray(it, dtype=g.dtype)) for it in scales)
        yhat = g.op("Min", g.op("Max", g.op("Add", g.op("Mul", yhat, scale), centre), low), high)
    if len(quantiles) > 1:  # sorted, so that they do not cross
        yhat = _sorted(g, yhat, np.argsort(np.argsort(quantiles)))
    return [Answer("variable", yhat, g.dtype, [n])]


def outputs_of(g: Graph, x: str, network: Network, p: Parameters) -> str:
    """Draw the forward pass from the inputs named `x`; the name of the outputs."""
    W, b = p.W, p.b
    functions = [_activation(row) for row in network.activations]
    a = _through_parts(g, network, p, 0, x)
    for k, function in enumerate(functions, start=1):
        weights = g.constant(f"W{k}", np.asarray(W[k], dtype=g.dtype))
        biases = g.constant(f"b{k}", np.asarray(b[k], dtype=g.dtype))
        if W[k].ndim == 2 and not network.members:
            z = g.op("Gemm", a, weights, biases, name=f"z{k}")
        else:  # m networks, or members: (m, batch, n)
            z = g.op("Add", g.op("MatMul", a, weights), biases, name=f"z{k}")
        a = function(g, _through_parts(g, network, p, k, z))
    return _mean(g, a, 0, network.members, keepdims=0) if network.members else a


def _sorted(g: Graph, yhat: str, ranks: HostArray) -> str:
    count = g.constant("count", np.asarray([len(ranks)], dtype=np.int64))
    values, places = g.named("sorted"), g.named("sorted_from")
    g.nodes.append(g.onnx.helper.make_node("TopK", [yhat, count], [values, places], axis=1, largest=0, sorted=1))
    return g.op("Gather", values, g.constant("ranks", ranks.astype(np.int64)), axis=1)


def _classify(g: Graph, yhat: str, kind: str, classes: HostArray) -> list[Answer]:
    whole = g.onnx.TensorProto.INT64
    if kind == "multilabel":
        label = g.op("Cast", g.op("Greater", yhat, 0.5), to=whole)
        return [
            Answer("label", label, np.int64, [len(classes)]),
            Answer("probabilities", yhat, g.dtype, [len(classes)]),
        ]
    known, dtype = classes_for_onnx(classes)
    if kind == "binary":
        index = g.op("Cast", g.op("Greater", yhat, 0.5), to=whole)
        index = g.op("Reshape", index, g.constant("flat", np.asarray([-1], dtype=np.int64)))
        if len(classes) == 1:  # predicted whatever the probability of all others, which has a column
            index = g.op("Sub", index, index)
        probabilities = g.op("Concat", g.op("Sub", 1.0, yhat), yhat, axis=1)
    else:
        index = g.op("ArgMax", yhat, axis=1, keepdims=0)
        probabilities = yhat
    label = g.op("Gather", g.constant("classes", known), index, axis=0)
    return [
        Answer("label", label, dtype, []),
        Answer("probabilities", probabilities, g.dtype, [max(len(classes), 2)]),
    ]


def classes_for_onnx(classes: HostArray) -> tuple[HostArray, Any]:
    """Classes as an array that ONNX can hold, and its dtype there: NumPy's, or "text".

    Raises
    ------
    ValueError
        If ONNX has no type for them.
    """
    kind = classes.dtype.kind
    if kind == "O":
        values = [value.item() if isinstance(value, np.generic) else value for value in classes.tolist()]
        known = {frozenset({str}): "U", frozenset({int}): "i", frozenset({float}): "f", frozenset({bool}): "b"}
        kind = known.get(frozenset(type(value) for value in values), "O")
        classes = np.asarray(values, dtype=object)
    if kind == "U":
        words = [str(value) for value in classes.tolist()]
        for word in words:
            if any("\ud800" <= letter <= "\udfff" for letter in word):
                raise ValueError(
                    f"ONNX holds text as UTF-8, which has no letter for the half of a pair in the label {word!r}; fit "
                    "on other names, or on integers."
                )
        return np.asarray(words, dtype=object), "text"
    if kind in "iu":
        bounds = np.iinfo(np.int64)
        for value in classes.tolist():
            if not bounds.min <= value <= bounds.max:
                raise ValueError(
                    f"ONNX holds whole numbers as int64, up to {bounds.max}, and one of the labels is {value}; fit on "
                    "smaller integers, or on text: y.astype(str)."
                )
        return classes.astype(np.int64), np.int64
    if kind == "b":
        return classes.astype(bool), bool
    if kind == "f":
        return classes.astype(np.float64), np.float64
    raise ValueError(f"ONNX has no type for labels such as {classes.tolist()[:3]}; fit on integers or on text.")
