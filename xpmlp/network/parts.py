"""Parts: what may stand before the first layer, or between z[k] and f_k, with arrays of its own in the flat vector.

    piecewise      o_f = z_f slope_f + offset_f + E_f bins_f, for each of the first F inputs; the rest passes through
                   E_ft = clip((z_f - e_t) / (e_{t+1} - e_t), 0, 1), the first bin open below, the last open above
    layer_norm     u = gain n + shift,   n = (z - mean(z)) / sqrt(var(z) + 1e-5), over the units of each sample
    member_scale   u_i = x * scale_i, for each member i of networks that share their weights

To add one, write its functions and one row of PARTS. `forward(part, own, x)` returns what it makes of x and a note for
`backward(part, own, note, du, inputs)`, which returns dx (None unless `inputs`) and the derivatives of its arrays;
`own` holds the arrays by name. Vectors are of shape (n,); of m networks (m, 1, n), of k members (k, 1, n).
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from array_api_compat import is_jax_array

from xpmlp import checks
from xpmlp._typing import Array
from xpmlp.backends import HostArray, array_namespace, device_of
from xpmlp.network.parameters import Other

Own = dict[str, Array]
Shape = tuple[int, ...]
EPSILON = 1e-5  # of layer_norm, as in PyTorch


@dataclass(frozen=True)
class Part:
    """A row of PARTS, or one with its constants filled in.

    Parameters
    ----------
    shapes : function
        (part, n, lead) to the shape of each of its arrays: n is the number of its inputs, `lead` (k, 1) of k members
        that have vectors of their own, () of one network.
    forward, backward : function
        See the head of this file.
    first : function
        (part, name, shape, rng) to the first values of an array, drawn on the host.
    decays : frozenset of str
        The arrays that the penalty and weight decay take part in.
    rate : float
        The factor on the learning rate of its arrays.
    parameters : dict
        Its constants: numbers, and tuples of them.
    """

    name: str
    shapes: Callable[["Part", int, Shape], dict[str, Shape]]
    forward: Callable[["Part", Own, Array], tuple[Array, Any]]
    backward: Callable[["Part", Own, Any, Array, bool], tuple[Array | None, Own]]
    first: Callable[["Part", str, Shape, Any], HostArray | float]
    decays: frozenset[str] = frozenset()
    rate: float = 1.0
    parameters: dict[str, Any] = field(default_factory=dict)
    before: bool = True  # whether it may stand before the first layer
    hidden: bool = True  # whether it may stand in a hidden layer
    members: bool = False  # whether it is of members only, and makes their inputs differ
    mixes: bool = True  # False where it multiplies each unit by its array "scale"
    # What `explain_step` shows, in words; {x} is what it takes, {du} the derivative of what it makes.
    formula: str = ""
    within: dict[str, tuple[int, str]] = field(default_factory=dict)  # by name: place in the note, and formula
    derivative_formulas: dict[str, str] = field(default_factory=dict)  # by array; of what it takes by "x"

    def __repr__(self) -> str:
        return f"<part {self.name}>"

    def __getstate__(self) -> dict[str, Any]:
        """Without what is derived from the constants."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    @property
    def adds(self) -> int:
        """How many outputs it has more than inputs."""
        return len(self.parameters["edges"]) * (self.parameters["width"] - 1) if "edges" in self.parameters else 0

    @property
    def codes(self) -> int:
        """How many numbers the code of a sample has, the bins of all inputs taken together."""
        edges = self.parameters.get("edges", ())
        return len(edges) * max((len(row) - 1 for row in edges), default=0)

    @property
    def key(self) -> tuple[Any, ...]:
        """What it computes, as something that can be hashed."""
        return (self.name, self.forward, self.backward, tuple(sorted(self.parameters.items())))

    def others(self, k: int, n: int, lead: Shape) -> list[Other]:
        """Its arrays in the flat vector, in layer k, where it has n inputs."""
        shapes = self.shapes(self, n, lead)
        return [Other(f"{self.name}.{name}", k, shape, name in self.decays) for name, shape in shapes.items()]

    def own(self, arrays: Own) -> Own:
        """Its arrays, among all that a layer has of its own."""
        start = self.name + "."
        return {name.removeprefix(start): array for name, array in arrays.items() if name.startswith(start)}

    def named(self, own: Own) -> Own:
        """The reverse of `own`."""
        return {f"{self.name}.{name}": array for name, array in own.items()}

    def constants(self, like: Array) -> tuple[Array, ...]:
        """The constants of `piecewise`, where `like` is and of its dtype, made once."""
        return self._made_once(_bins, like, like.dtype)

    def last_bins(self, like: Array) -> tuple[Array, ...]:
        """The number of each input of `piecewise`, and of its last bin: an index, where `like` is, made once."""
        return self._made_once(_last_bins, like, array_namespace(like).int64)

    def _made_once(self, make: Callable[[Any], tuple[HostArray, ...]], like: Array, dtype: Any) -> tuple[Array, ...]:
        made: dict[Any, tuple[Array, ...]] = self.__dict__.setdefault("_made", {})
        # Within a compiled program of JAX, arrays of NumPy become constants; its own would be of that program only.
        there = None if is_jax_array(like) else (array_namespace(like).__name__, str(device_of(like)))
        key = (make.__name__, str(dtype), there)
        if key not in made:
            host = make(self.parameters["edges"])
            if there is None:
                made[key] = tuple(array.astype(dtype) for array in host)
            else:
                where = {"dtype": dtype, "device": device_of(like)}
                made[key] = tuple(array_namespace(like).asarray(array, **where) for array in host)
        return made[key]


def _bins(edges: tuple[tuple[float, ...], ...]) -> tuple[HostArray, ...]:
    """Left edge, 1 / width, lowest and highest code of every bin, of shape (F, 1, T); 0 where there is none."""
    T = max(len(row) for row in edges) - 1
    left, scale, low, high = (np.zeros((len(edges), 1, T)) for _ in range(4))
    for f, row in enumerate(edges):
        n, e = len(row) - 1, np.asarray(row)
        left[f, 0, :n], scale[f, 0, :n], high[f, 0, :n] = e[:-1], 1.0 / np.diff(e), 1.0
        low[f, 0, 0], high[f, 0, n - 1] = -np.inf, np.inf
    return left, scale, low, high


def _last_bins(edges: tuple[tuple[float, ...], ...]) -> tuple[HostArray, ...]:
    return np.arange(len(edges)), np.array([len(row) - 2 for row in edges])


def over_rows(value: Array) -> Array:
    """A sum over the batch, of the shape that the layout gives a vector."""
    return array_namespace(value).sum(value, axis=-2, keepdims=value.ndim > 2)


def piecewise_code(part: Part, z: Array) -> Array:
    """E of the head of this file, shape (..., F, batch, T), of z of shape (..., F, batch)."""
    xp = array_namespace(z)
    left, scale, low, high = part.constants(z)
    code = z[..., None] - left
    code *= scale
    return xp.minimum(xp.maximum(code, low), high)


def piecewise(part: Part, own: Own, x: Array) -> tuple[Array, Any]:
    # Gorishniy et al., arXiv:2203.05556, section 3.2, with the linear term of RealMLP: Holzmueller et al., 2407.04491
    xp = array_namespace(x)
    F, d = len(part.parameters["edges"]), part.parameters["width"]
    z = xp.matrix_transpose(x[..., :F])  # (..., F, batch)
    E = piecewise_code(part, z)
    o = xp.matmul(E, own["bins"])  # (..., F, batch, d)
    o = o + z[..., None] * own["slope"][..., None, :] + own["offset"][..., None, :]
    o = xp.moveaxis(o, -3, -2)
    o = xp.reshape(o, (*o.shape[:-2], F * d))
    rest = x[..., F:]
    if rest.ndim < o.ndim:
        rest = xp.broadcast_to(rest, (*o.shape[:-1], rest.shape[-1]))
    return xp.concat([o, rest], axis=-1), (z, E)


def piecewise_backward(part: Part, own: Own, note: Any, du: Array, inputs: bool) -> tuple[Array | None, Own]:
    xp, (z, E) = array_namespace(du), note
    F, d = len(part.parameters["edges"]), part.parameters["width"]
    g = xp.moveaxis(xp.reshape(du[..., : F * d], (*du.shape[:-1], F, d)), -2, -3)  # (..., F, batch, d)
    derivatives = {
        "slope": xp.matmul(z[..., None, :], g)[..., 0, :],  # sum over rows of z_f g_f
        "offset": xp.sum(g, axis=-2),
        "bins": xp.matmul(xp.matrix_transpose(E), g),  # E_f.T @ g_f
    }
    if not inputs:
        return None, derivatives
    _left, scale, low, high = part.constants(z)
    within = xp.astype((low < E) & (high > E), E.dtype) * scale
    dz = xp.sum(g * own["slope"][..., None, :], axis=-1)
    dz = dz + xp.sum(within * xp.matmul(g, xp.matrix_transpose(own["bins"])), axis=-1)
    return xp.concat([xp.matrix_transpose(dz), du[..., F * d :]], axis=-1), derivatives


def piecewise_shapes(part: Part, n: int, lead: Shape) -> dict[str, Shape]:
    F, d = len(part.parameters["edges"]), part.parameters["width"]
    if n < F:
        raise ValueError(f"piecewise has edges for {F} inputs; there are {n}.")
    T = max(len(row) for row in part.parameters["edges"]) - 1
    return {"slope": (F, d), "offset": (F, d), "bins": (F, T, d)}


def piecewise_first(part: Part, name: str, shape: Shape, rng: Any) -> HostArray | float:
    bound = part.parameters["width"] ** -0.5
    return 0.0 if name == "bins" else rng.uniform(-bound, bound, shape)


def layer_norm(part: Part, own: Own, z: Array) -> tuple[Array, Any]:
    # Ba et al., arXiv:1607.06450, equation 4
    xp = array_namespace(z)
    centred = z - xp.mean(z, axis=-1, keepdims=True)
    r = 1.0 / xp.sqrt(xp.mean(centred * centred, axis=-1, keepdims=True) + EPSILON)
    n = centred * r
    return n * own["gain"] + own["shift"], (n, r)


def layer_norm_backward(part: Part, own: Own, note: Any, du: Array, inputs: bool) -> tuple[Array | None, Own]:
    xp, (n, r) = array_namespace(du), note
    derivatives = {"gain": over_rows(du * n), "shift": over_rows(du)}
    if not inputs:
        return None, derivatives
    dn = du * own["gain"]
    dz = r * (dn - xp.mean(dn, axis=-1, keepdims=True) - n * xp.mean(dn * n, axis=-1, keepdims=True))
    return dz, derivatives


def member_scale(part: Part, own: Own, x: Array) -> tuple[Array, Any]:
    # Wen et al., arXiv:2002.06715, the input's half; Gorishniy et al., arXiv:2410.24210 ("mini")
    return x * own["scale"], x


def member_scale_backward(part: Part, own: Own, note: Any, du: Array, inputs: bool) -> tuple[Array | None, Own]:
    xp, x = array_namespace(du), note
    derivatives = {"scale": over_rows(du * x)}
    if not inputs:
        return None, derivatives
    dx = du * own["scale"]
    return xp.sum(dx, axis=0) if x.ndim < du.ndim else dx, derivatives


def member_scale_first(part: Part, name: str, shape: Shape, rng: Any) -> HostArray:
    groups = part.parameters["groups"] or range(shape[-1])
    if len(groups) != shape[-1]:
        raise ValueError(f"groups of member_scale must name one for each of its {shape[-1]} inputs; got {len(groups)}.")
    drawn: HostArray = rng.normal(0.0, 1.0, (*shape[:-1], max(groups) + 1))
    return drawn[..., np.asarray(groups)]


PARTS: dict[str, Part] = {
    row.name: row
    for row in (
        Part(
            "piecewise",
            piecewise_shapes,
            piecewise,
            piecewise_backward,
            piecewise_first,
            rate=5.0,
            parameters={"edges": ((-1.0, 0.0, 1.0),), "width": 8},
            hidden=False,
            formula="o_f = {x}_f slope_f + offset_f + code_f @ bins_f for each number f, side by side; the rest of {x}",
            within={"code": (1, "clip(({x}_f - e_t) / (e_t+1 - e_t), 0, 1) for each bin t, open at both ends")},
            derivative_formulas={
                "slope": "sum over rows of {x}_f do_f, with do_f the columns of {du} that belong to f",
                "offset": "sum over rows of do_f",
                "bins": "code_f.T @ do_f",
                "x": "do_f . slope_f + code_f' * (do_f @ bins_f.T) for each number f; the rest of {du}",
            },
        ),
        Part(
            "layer_norm",
            lambda part, n, lead: {"gain": (*lead, n), "shift": (*lead, n)},
            layer_norm,
            layer_norm_backward,
            lambda part, name, shape, rng: float(name == "gain"),
            before=False,
            formula="gain * n + shift",
            within={
                "n": (0, "({x} - mean({x})) * r, the mean over the units of each sample"),
                "r": (1, f"1 / sqrt(mean(({{x}} - mean({{x}}))^2) + {EPSILON:g})"),
            },
            derivative_formulas={
                "gain": "sum over rows of {du} * n",
                "shift": "sum over rows of {du}",
                "x": "r * (dn - mean(dn) - n * mean(dn * n)), with dn = {du} * gain",
            },
        ),
        Part(
            "member_scale",
            lambda part, n, lead: {"scale": (*lead, n)},
            member_scale,
            member_scale_backward,
            member_scale_first,
            parameters={"groups": ()},
            members=True,
            mixes=False,
            formula="{x} * scale, of each member its own",
            derivative_formulas={"scale": "sum over rows of {x} * {du}", "x": "{du} * scale"},
        ),
    )
}


def part(value: object, **parameters: Any) -> Part:
    """The row for a name or a row, its constants set to those given.

    Parameters
    ----------
    edges : sequence of increasing sequences, of piecewise
        The edges of the bins of each of the first inputs, at least two each.
    width : int, of piecewise
        How many outputs a number becomes.
    groups : sequence of int, of member_scale
        The group of each input, counted from 0: inputs of one group begin with the same scale. () is each alone.

    Raises
    ------
    ValueError
        For an unknown name or parameter, or a value outside its bounds.

    Examples
    --------
    >>> from xpmlp.network.parts import part
    >>> part("piecewise", edges=[[0.0, 0.5, 1.0]], width=4).adds
    3
    """
    row = checks.choose(PARTS, value, "part")
    checks.known_parameters(row, parameters, "part")
    if "edges" in parameters:
        parameters["edges"] = tuple(tuple(map(float, edges)) for edges in parameters["edges"])
        for f, edges in enumerate(parameters["edges"]):
            steps = np.diff(edges)
            if len(edges) < 2 or not np.all(np.isfinite(edges)) or np.any(steps <= 0.0):
                raise ValueError(f"edges[{f}] must hold at least two finite numbers that increase; got {edges[:5]}.")
        if not parameters["edges"]:
            raise ValueError("edges must be those of at least one input; leave piecewise out where there is none.")
    if "width" in parameters:
        parameters["width"] = checks.integer(parameters["width"], "width", least=1)
    if "groups" in parameters:
        parameters["groups"] = tuple(
            checks.integer(group, "a group", least=0) for group in np.asarray(parameters["groups"]).tolist()
        )
    return replace(row, parameters=row.parameters | parameters) if parameters else row
