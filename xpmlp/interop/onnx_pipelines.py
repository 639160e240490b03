"""skl2onnx learns our estimators, so that it exports pipelines and meta-estimators that hold one.

The nodes are those of `to_onnx`; skl2onnx gives them names that are free in the larger model.
"""

from typing import Any

import numpy as np

from xpmlp.backends.transfer import to_numpy
from xpmlp.estimators import MLPClassifier, MLPRegressor
from xpmlp.estimators.conversion import parts_for_onnx
from xpmlp.estimators.tabular import TabularClassifier, TabularRegressor
from xpmlp.interop.onnx import ML, Graph, answers_of, classes_for_onnx
from xpmlp.interop.onnx_tables import column_of, demand_words, prepared
from xpmlp.network import Network, Parameters
from xpmlp.tabular.kinds import CategoryKind, LeftOut

LABEL_ENCODER = 2  # its version in ai.onnx.ml since which it has texts and whole numbers
# What callers of skl2onnx may ask of a classifier; those that calibrate one ask, too.
OPTIONS = {"zipmap": [True, False, "columns"], "nocl": [True, False], "output_class_labels": [False, True]}


def register_onnx() -> None:
    """Let skl2onnx export pipelines and meta-estimators with estimators of xpmlp in them.

    Call it once, before `skl2onnx.to_onnx`. The model answers as `to_onnx`'s, but for what skl2onnx does to the labels
    of every classifier: whole numbers for booleans and for floats.

    Raises
    ------
    ImportError
        If skl2onnx is not installed.

    Examples
    --------
    >>> import numpy as np, xpmlp
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> X = np.linspace(-1.0, 1.0, 40).reshape(20, 2)
    >>> clf = xpmlp.MLPClassifier(4, solver="lbfgs", random_state=0)
    >>> pipeline = make_pipeline(StandardScaler(), clf).fit(X, X[:, 0] > 0)
    >>> xpmlp.register_onnx()
    >>> import skl2onnx
    >>> model = skl2onnx.to_onnx(pipeline, X[:1].astype(np.float32), options={"zipmap": False})
    >>> [output.name for output in model.graph.output]
    ['label', 'probabilities']
    """
    try:
        from skl2onnx import update_registered_converter
    except ImportError as error:
        raise ImportError("register_onnx needs skl2onnx; install it with pip install skl2onnx.") from error
    for kind, shapes, options in (
        (MLPClassifier, _classifier_shapes, OPTIONS),
        (MLPRegressor, _regressor_shapes, None),
        (TabularClassifier, _classifier_shapes, OPTIONS),
        (TabularRegressor, _regressor_shapes, None),
    ):
        update_registered_converter(kind, f"Xpmlp{kind.__name__}", shapes, _convert, options=options)


def _regressor_shapes(operator: Any) -> None:
    operator.outputs[0].set_type(_floats(operator)([operator.inputs[0].get_first_dimension(), _n_outputs(operator)]))


def _classifier_shapes(operator: Any) -> None:
    from skl2onnx.common.data_types import Int64TensorType, StringTensorType

    n, estimator = operator.inputs[0].get_first_dimension(), operator.raw_operator
    kind, classes = _parts(estimator)[2]["labels"]
    each = [len(classes)] if kind == "multilabel" else []
    text = not each and not _numbered(operator.scope_inst, estimator) and classes_for_onnx(classes)[1] == "text"
    operator.outputs[0].set_type((StringTensorType if text else Int64TensorType)([n, *each]))
    operator.outputs[1].set_type(_floats(operator)([n, max(len(classes), 2) if not each else len(classes)]))


def _convert(scope: Any, operator: Any, container: Any) -> None:
    """Draw the estimator of `operator` into `container`."""
    estimator = operator.raw_operator
    network, p, tail = _parts(estimator)
    if "labels" in tail and tail["labels"][0] != "multilabel":
        kind, classes = tail["labels"]
        tail = tail | {"labels": (kind, _labels(classes, numbered=_numbered(scope, estimator)))}
    dtype = "float64" if _is_double(operator) else "float32"
    g = Graph(dtype, scope.get_unique_variable_name)
    element = g.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    if hasattr(estimator, "preparation_"):
        x = _prepared(g, operator)
    else:
        x = g.op("Cast", operator.inputs[0].full_name, to=element)
    for answer, output in zip(answers_of(g, x, network, p, **tail), operator.outputs, strict=True):
        g.nodes.append(g.onnx.helper.make_node("Identity", [answer.name], [output.full_name]))
    for initializer in g.initializers:
        values = g.onnx.numpy_helper.to_array(initializer)
        text = initializer.data_type == g.onnx.TensorProto.STRING
        flat = [value.encode() if isinstance(value, str) else value for value in values.ravel().tolist()]
        container.add_initializer(
            initializer.name, initializer.data_type, list(values.shape), flat if text else values.ravel()
        )
    for node in g.nodes:
        attributes = {item.name: g.onnx.helper.get_attribute_value(item) for item in node.attribute}
        name = scope.get_unique_operator_name(node.op_type)
        version = {"op_version": LABEL_ENCODER} if node.domain == ML else {}
        places = {"op_domain": node.domain, "name": name}
        container.add_node(node.op_type, list(node.input), list(node.output), **places, **version, **attributes)


def _parts(estimator: Any) -> tuple[Network, Parameters, dict[str, Any]]:
    """The network, its arrays on the host, and what its graph ends with."""
    if not hasattr(estimator, "preparation_"):
        return parts_for_onnx(estimator)
    net = estimator.network_
    return net.network, net.layout.unpack(to_numpy(net.parameters)), estimator._known_targets().onnx_tail


def _prepared(g: Graph, operator: Any) -> str:
    """Draw what the estimator does to a table: columns by name, or those of one matrix."""
    from skl2onnx.common.data_types import StringTensorType

    made, inputs = operator.raw_operator.preparation_, operator.inputs
    demand_words(made)
    by_name, matrix = {it.raw_name: it for it in inputs}, inputs[0] if len(inputs) == 1 else None
    columns = {}
    for i, kind in enumerate(made.kinds_):
        if isinstance(kind, LeftOut):
            continue
        given = by_name.get(kind.name, matrix)
        if given is None:
            raise ValueError(f"the model needs the column {kind.name!r} as an input; got {', '.join(by_name)}.")
        name = given.full_name if kind.name in by_name else column_of(g, given.full_name, i)
        text = isinstance(kind, CategoryKind)
        if not (text and isinstance(given.type, StringTensorType)):
            name = g.op("Cast", name, to=g.onnx.TensorProto.STRING if text else g.onnx.TensorProto.DOUBLE)
        columns[kind.name] = name
    return prepared(g, made, columns)


def _labels(classes: Any, *, numbered: bool) -> Any:
    """Classes as skl2onnx has those of every classifier: text or int64; their numbers where those are asked for."""
    if numbered:
        return np.arange(len(classes))
    known, dtype = classes_for_onnx(classes)
    if dtype == "text":
        return known
    return known.astype(np.int64)  # floats that are classes are whole numbers


def _numbered(scope: Any, estimator: Any) -> bool:
    return bool(scope.get_options(estimator, {"nocl": False})["nocl"])


def _n_outputs(operator: Any) -> int:
    return int(_parts(operator.raw_operator)[0].layout.sizes[-1])


def _is_double(operator: Any) -> bool:
    from skl2onnx.common.data_types import DoubleTensorType

    return isinstance(operator.inputs[0].type, DoubleTensorType)


def _floats(operator: Any) -> Any:
    from skl2onnx.common.data_types import DoubleTensorType, FloatTensorType

    return DoubleTensorType if _is_double(operator) else FloatTensorType
