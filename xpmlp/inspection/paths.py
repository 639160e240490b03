"""The chain rule from L back to one weight or bias: its partial derivatives by name, and what each sample adds.

With `d` for the partial derivative, the layers between a weight and the loss are a chain of

    dL/dz[l+1] -> da[l]: dz[l+1]/da[l] = W[l+1]     -> dz[l]: da[l]/dz[l] = f_l'(z[l])     -> W[k]: dz[k]/dW[k] = a[k-1]

The dL/dW at the end is a total derivative: the product along a path, added over all paths. Parts of a layer stand in
between, as dL/du[l] -> dL/dz[l]. Of members the path goes through one of them, and what they share is their sum.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from xpmlp import checks
from xpmlp.backends import HostArray
from xpmlp.inspection.passes import Pass


@dataclass(frozen=True)
class Partial:
    """One partial derivative along the path, in the sample that the path is told for."""

    name: str  # "da[1]/dz[1]"
    formula: str  # "tanh'(z[1])"
    value: HostArray


@dataclass(frozen=True)
class Path:
    """The chain rule from L back to one weight or bias, for the sample that weighs most in it."""

    label: str  # "W[2][0, 1]"
    derivative: float  # dL/dw
    sample: int
    shares: HostArray  # what each sample adds to it, shape (batch,), or (k, batch) of a weight that members share
    partials: tuple[Partial, ...]  # from L down; their product, summed over the units between, is shares[sample]
    lines: tuple[str, ...]
    member: int | None = None  # that the path is told for

    def __str__(self) -> str:
        return "\n".join(self.lines)


def path_to(batch: Pass, k: int, i: int | None, j: int, member: int | None = None) -> Path:
    """From L back to W[k][i, j], or to b[k][j] where i is None; of members through `member`, or who weighs most."""
    if batch.members:
        return _of_members(batch, k, i, j, member)
    shares = _shares(batch, k, i, j)
    derivative = float(batch.db[k][j] if i is None else batch.dW[k][i, j])
    return _told(batch, k, i, j, shares, derivative)


def _of_members(batch: Pass, k: int, i: int | None, j: int, member: int | None) -> Path:
    shares = np.stack([_shares(batch.of_member(m), k, i, j) for m in range(batch.members)])
    m = int(np.argmax(np.max(np.abs(shares), axis=1))) if member is None else member
    if i is not None and k < batch.K:
        return _told(batch.of_member(m), k, i, j, shares, float(batch.dW[k][i, j]), m)
    derivative = float(batch.db[k][m, 0, j] if i is None else batch.dW[k][m, i, j])
    return _told(batch.of_member(m), k, i, j, shares[m], derivative, m)


def _shares(batch: Pass, k: int, i: int | None, j: int) -> HostArray:
    shares: HostArray = batch.dz[k][:, j] * (1.0 if i is None else batch.a[k - 1][:, i])
    return shares


def _told(
    batch: Pass, k: int, i: int | None, j: int, all_shares: HostArray, derivative: float, member: int | None = None
) -> Path:
    # `batch` is that of one network, or of one member
    shares = all_shares if member is None or all_shares.ndim == 1 else all_shares[member]
    s = int(np.argmax(np.abs(shares)))
    own = "" if member is None or all_shares.ndim == 2 else f"{member}, "
    label = f"b[{k}][{own}{j}]" if i is None else f"W[{k}][{own}{i}, {j}]"
    of_member = "" if member is None else f" of member {member}"
    lines = [
        f"The chain rule from L back to {label}, in sample {s}{of_member}, which weighs most",
        f"    dL/dz[{batch.K}]: dz[{batch.K}][{s}] = {_vector(batch.dz[batch.K][s])}",
        *_down(batch, k, s),
        *(_to_unit(batch, k, j, s) if k < batch.K else ()),
    ]
    if i is not None:
        lines += [
            f"    dz[{k}]/dW[{k}] = a[{k - 1}][{s}, {i}] = {batch.a[k - 1][s, i]:.6g}",
            f"    this sample adds a[{k - 1}][{s}, {i}] * dz[{k}][{s}, {j}]"
            f" = {batch.a[k - 1][s, i]:.4g} * {batch.dz[k][s, j]:.4g} = {shares[s]:.6g}",
        ]
    else:
        lines.append(f"    dz[{k}]/db[{k}] = 1, so this sample adds dz[{k}][{s}, {j}] = {shares[s]:.6g}")
    everyone = f"all {len(shares)} samples" + (
        f" of all {len(all_shares)} members" if all_shares.ndim == 2 else of_member
    )
    lines.append(f"    {everyone}: d{label} = {derivative:.6g}")
    return Path(label, derivative, s, all_shares, tuple(_partials(batch, k, i, j, s)), tuple(lines), member)


def _down(batch: Pass, k: int, s: int) -> Iterator[str]:
    # The layers above the next one, as vectors
    for l in range(batch.K - 1, k, -1):
        yield f"    dL/da[{l}] = dL/dz[{l + 1}] dz[{l + 1}]/da[{l}]:"
        yield f"        da[{l}][{s}] = dz[{l + 1}][{s}] @ W[{l + 1}].T = {_vector(batch.da[l][s])}"
        into, value = batch.into(l), batch.d_into(l)
        yield f"    dL/d{into} = dL/da[{l}] da[{l}]/d{into}:"
        yield f"        d{into}[{s}] = da[{l}][{s}] * {batch.name(l)}'({into}[{s}]) = {_vector(value[s])}"
        if batch.parts_of(l):
            yield f"    dL/dz[{l}] = dL/du[{l}] du[{l}]/dz[{l}], {_through(batch, l)}:"
            yield f"        dz[{l}][{s}] = {_vector(batch.dz[l][s])}"


def _to_unit(batch: Pass, k: int, j: int, s: int) -> Iterator[str]:
    # The one unit of layer k, its sum over the paths term by term
    pairs = list(zip(batch.dz[k + 1][s], batch.W[k + 1][j], strict=True))
    terms = " + ".join(f"{dz + 0.0:.3g} * {w:.3g}" for dz, w in pairs[:3]) + (" + ..." if len(pairs) > 3 else "")
    yield f"    da[{k}][{s}, {j}] = sum over l of dz[{k + 1}][{s}, l] * W[{k + 1}][{j}, l], dz/da = W:"
    yield f"        = {terms} = {batch.da[k][s, j]:.6g}"
    into, value = batch.into(k), batch.d_into(k)
    if not batch.has_jacobian(k):
        yield f"    da[{k}]/d{into} = {batch.name(k)}'({batch.u[k][s, j]:.4g}) = {batch.slope[k][s, j]:.6g}"
    yield f"    d{into}[{s}, {j}] = da[{k}][{s}, {j}] * {batch.name(k)}' = {value[s, j]:.6g}"
    if batch.parts_of(k):
        yield f"    dz[{k}][{s}, {j}] = {batch.dz[k][s, j]:.6g}, {_through(batch, k)}"


def _through(batch: Pass, k: int) -> str:
    return "through " + ", then ".join(it.part.name for it in reversed(batch.parts_of(k)))


def _partials(batch: Pass, k: int, i: int | None, j: int, s: int) -> Iterator[Partial]:
    yield Partial(f"dL/dz[{batch.K}]", f"dz[{batch.K}][{s}]", batch.dz[batch.K][s])
    for l in range(batch.K - 1, k - 1, -1):
        # Of the last layer before the weight only its unit j lies on a path
        W = batch.W[l + 1] if l > k else batch.W[l + 1][j]
        where = "" if l > k else f"[{j}]"
        yield Partial(f"dz[{l + 1}]/da[{l}]", f"W[{l + 1}]{where}", W)
        at = s if l > k else (s, j)
        if not batch.has_jacobian(l):
            into = batch.into(l)
            yield Partial(f"da[{l}]/d{into}", f"{batch.name(l)}'({into})", np.asarray(batch.slope[l][at]))
        if not any(it.part.mixes for it in batch.parts_of(l)):
            for it in reversed(batch.parts_of(l)):
                scale = it.own["scale"] if l > k else it.own["scale"][j]
                yield Partial(f"d{it.makes}/d{it.takes}", it.label("scale"), np.asarray(scale))
    if i is None:
        yield Partial(f"dz[{k}]/db[{k}]", "1", np.asarray(1.0))
    else:
        yield Partial(f"dz[{k}]/dW[{k}]", f"a[{k - 1}][{s}, {i}]", np.asarray(batch.a[k - 1][s, i]))


def target_of(sizes: tuple[int, ...], weight: Sequence[int]) -> tuple[int, int | None, int]:
    """(k, i, j) of W[k][i, j], or (k, None, j) of b[k][j]; ValueError where there is no such element."""
    indices = [checks.integer(index, "an index of weight", least=0) for index in weight]
    if len(indices) not in (2, 3):
        raise ValueError(f"weight must be (k, i, j) for W[k][i, j] or (k, j) for b[k][j]; got {tuple(weight)}.")
    k = indices[0]
    if not 1 <= k < len(sizes):
        raise ValueError(f"weight must name a layer k of 1 to {len(sizes) - 1}; got {k}.")
    for index, size in zip(indices[1:], sizes[k - 1 : k + 1] if len(indices) == 3 else sizes[k : k + 1], strict=True):
        if index >= size:
            raise ValueError(f"weight must lie in layer {k}, W ({sizes[k - 1]}, {sizes[k]}); got {tuple(weight)}.")
    return k, indices[1] if len(indices) == 3 else None, indices[-1]


def _vector(row: HostArray) -> str:
    return "[" + " ".join(f"{number + 0.0:.4g}" for number in row[:3]) + (" ...]" if len(row) > 3 else "]")
