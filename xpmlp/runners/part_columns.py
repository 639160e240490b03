"""Parts in place, for libraries whose functions take `out`: see network/parts.py for what they are.

Shapes as in runners/columns.py, and for piecewise z (F, batch), E (F, T, batch), o and g (F, d, batch), with a leading
axis of m networks. Results are those of network/parts.py, to rounding.
"""

from typing import Any

from xpmlp._typing import Array
from xpmlp.network.parts import EPSILON, Part
from xpmlp.runners.columns import Columns, PartColumn, Room

Own = dict[str, Array]


def piecewise(columns: Columns, part: Part, own: Own, x: Array, room: Room) -> tuple[Array, Any]:
    xp, slope = columns.xp, own["slope"]
    F, d = slope.shape[-2:]
    z = x[..., :F, :]
    E = _code(columns, part, z, room)
    lead = x.shape[:-2] or slope.shape[:-2]
    u = room("u", (*lead, x.shape[-2] + part.adds, x.shape[-1]))
    o = u[..., : F * d, :].reshape(*lead, F, d, x.shape[-1])
    line = room("line", tuple(o.shape))
    columns.matmul(own["bins"].mT, E, o)
    xp.multiply(slope[..., None], z[..., None, :], out=line)
    o += line
    o += own["offset"][..., None]
    u[..., F * d :, :] = x[..., F:, :]
    return u, (z, E)


def _code(columns: Columns, part: Part, z: Array, room: Room) -> Array:
    xp, constants = columns.xp, part.constants(z)  # each (F, 1, T)
    E = room("code", (*z.shape[:-1], constants[0].shape[-1], z.shape[-1]))
    if columns.code is not None and z.ndim == 2:
        columns.code(z, *constants, E)
        return E
    left, scale, low, high = (constant.mT for constant in constants)
    xp.subtract(z[..., None, :], left, out=E)
    E *= scale
    # Two bounds for all, which is a third of the time of bounds for each bin; the open ones are looked at apart.
    numbers, last = part.last_bins(z)
    above, below = E[..., numbers, last, :], xp.minimum(E[..., 0, :], high[:, 0, :])
    xp.clip(E, 0.0, 1.0, out=E)
    E[..., 0, :] = below
    E[..., numbers, last, :] = xp.maximum(above, low[numbers, last, :])
    return E


def piecewise_backward(columns: Columns, part: Part, own: Own, d: Own, note: Any, du: Array, room: Room) -> Array:
    z, E = note
    F, width = own["slope"].shape[-2:]
    g = du[..., : F * width, :].reshape(*du.shape[:-2], F, width, du.shape[-1])
    columns.matmul(g, z[..., None], d["slope"][..., None])  # sum over rows of z_f g_f
    columns.row_sums(g, room.ones, d["offset"])
    columns.matmul(E, g.mT, d["bins"])  # E_f.T @ g_f
    return None


def layer_norm(columns: Columns, part: Part, own: Own, z: Array, room: Room) -> tuple[Array, Any]:
    xp, axis, shape = columns.xp, room.units, tuple(z.shape)
    u, n = room("u", shape), room("n", shape)
    xp.subtract(z, xp.mean(z, axis, keepdims=True), out=u)
    xp.multiply(u, u, out=n)
    r = 1.0 / xp.sqrt(xp.mean(n, axis, keepdims=True) + EPSILON)
    xp.multiply(u, r, out=n)
    xp.multiply(n, own["gain"], out=u)
    u += own["shift"]
    return u, (n, r)


def layer_norm_backward(columns: Columns, part: Part, own: Own, d: Own, note: Any, du: Array, room: Room) -> Array:
    xp, (n, r), axis = columns.xp, note, room.units
    product = room("product", tuple(n.shape))
    xp.multiply(du, n, out=product)
    columns.row_sums(product, room.ones, d["gain"][..., 0])
    columns.row_sums(du, room.ones, d["shift"][..., 0])
    du *= own["gain"]  # dn
    product *= own["gain"]
    of_n = xp.mean(product, axis, keepdims=True)
    du -= xp.mean(du, axis, keepdims=True)
    xp.multiply(n, of_n, out=product)
    du -= product
    du *= r
    return du


def member_scale(columns: Columns, part: Part, own: Own, x: Array, room: Room) -> tuple[Array, Any]:
    u = room("u", (x.shape[0], room.members, x.shape[-1]))
    columns.xp.multiply(x if x.ndim == 3 else x[:, None, :], own["scale"], out=u)
    return u, x


def member_scale_backward(columns: Columns, part: Part, own: Own, d: Own, note: Any, du: Array, room: Room) -> Array:
    x, scale = note, own["scale"]
    if x.ndim == 3:
        product = room("product", tuple(x.shape))
        columns.xp.multiply(du, x, out=product)
        columns.row_sums(product, room.ones, d["scale"][..., 0])
        du *= scale
        return du
    dx = room("dx", (x.shape[0], 1, x.shape[-1]))
    columns.matmul(du, x[..., None], d["scale"])  # sum over rows of x du, of each member
    columns.matmul(scale.mT, du, dx)  # sum over members of scale du
    return dx[:, 0, :]


PARTS = {
    "piecewise": PartColumn(piecewise, piecewise_backward, vectors=False),
    "layer_norm": PartColumn(layer_norm, layer_norm_backward),
    "member_scale": PartColumn(member_scale, member_scale_backward),
}
