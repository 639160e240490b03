"""The chain rule from L back to one weight or bias: its partial derivatives by name, and what each sample adds.

With `d` for the partial derivative, the layers between a weight and the loss are a chain of

    dL/dz[l+1] -> da[l]: dz[l+1]/da[l] = W[l+1]     -> dz[l]: da[l]/dz[l] = f_l'(z[l])     -> W[k]: dz[k]/dW[k] = a[k-1]

The dL/dW at the end is a total derivative: the product along a path, added over all paths.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from xpmlp import checks
from xpmlp.backends import HostArray
from xpmlp.inspection.equations import Pass


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
    shares: HostArray  # what each sample adds to the derivative, shape (batch,)
    partials: tuple[Partial, ...]  # from L down; their product, summed over the units between, is shares[sample]
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(self.lines)


def path_to(batch: Pass, k: int, i: int | None, j: int) -> Path:
    """From L back to W[k][i, j], or to b[k][j] where i is None."""
    shares = batch.dz[k][:, j] * (1.0 if i is None else batch.a[k - 1][:, i])
    s = int(np.argmax(np.abs(shares)))
    label = f"b[{k}][{j}]" if i is None else f"W[{k}][{i}, {j}]"
    derivative = float(batch.db[k][j] if i is None else batch.dW[k][i, j])
    lines = [
        f"The chain rule from L back to {label}, in sample {s}, which weighs most",
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
    lines.append(f"    all {len(shares)} samples: d{label} = {derivative:.6g}")
    return Path(label, derivative, s, shares, tuple(_partials(batch, k, i, j, s)), tuple(lines))


def _down(batch: Pass, k: int, s: int) -> Iterator[str]:
    # The layers above the next one, as vectors
    for l in range(batch.K - 1, k, -1):
        yield f"    dL/da[{l}] = dL/dz[{l + 1}] dz[{l + 1}]/da[{l}]:"
        yield f"        da[{l}][{s}] = dz[{l + 1}][{s}] @ W[{l + 1}].T = {_vector(batch.da[l][s])}"
        yield f"    dL/dz[{l}] = dL/da[{l}] da[{l}]/dz[{l}]:"
        yield f"        dz[{l}][{s}] = da[{l}][{s}] * {batch.name(l)}'(z[{l}][{s}]) = {_vector(batch.dz[l][s])}"


def _to_unit(batch: Pass, k: int, j: int, s: int) -> Iterator[str]:
    # The one unit of layer k, its sum over the paths term by term
    pairs = list(zip(batch.dz[k + 1][s], batch.W[k + 1][j], strict=True))
    terms = " + ".join(f"{dz + 0.0:.3g} * {w:.3g}" for dz, w in pairs[:3]) + (" + ..." if len(pairs) > 3 else "")
    yield f"    da[{k}][{s}, {j}] = sum over l of dz[{k + 1}][{s}, l] * W[{k + 1}][{j}, l], dz/da = W:"
    yield f"        = {terms} = {batch.da[k][s, j]:.6g}"
    if not batch.has_jacobian(k):
        yield f"    da[{k}]/dz[{k}] = {batch.name(k)}'({batch.z[k][s, j]:.4g}) = {batch.slope[k][s, j]:.6g}"
    yield f"    dz[{k}][{s}, {j}] = da[{k}][{s}, {j}] * {batch.name(k)}' = {batch.dz[k][s, j]:.6g}"


def _partials(batch: Pass, k: int, i: int | None, j: int, s: int) -> Iterator[Partial]:
    yield Partial(f"dL/dz[{batch.K}]", f"dz[{batch.K}][{s}]", batch.dz[batch.K][s])
    for l in range(batch.K - 1, k - 1, -1):
        # Of the last layer before the weight only its unit j lies on a path
        W = batch.W[l + 1] if l > k else batch.W[l + 1][j]
        where = "" if l > k else f"[{j}]"
        yield Partial(f"dz[{l + 1}]/da[{l}]", f"W[{l + 1}]{where}", W)
        at = s if l > k else (s, j)
        if not batch.has_jacobian(l):
            yield Partial(f"da[{l}]/dz[{l}]", f"{batch.name(l)}'(z[{l}])", np.asarray(batch.slope[l][at]))
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
