"""What the health of a training means, in words: `diagnose` turns records and loss curves into sentences.

To add a complaint, write a function from `Observed` to findings, and name it in COMPLAINTS.
"""

import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from xpmlp.backends import HostArray, at_home
from xpmlp.inspection.health import slope_of
from xpmlp.inspection.models import place_of_model
from xpmlp.inspection.observed import Observed
from xpmlp.network.activations import Activation


@dataclass(frozen=True)
class Finding:
    """One complaint."""

    kind: str  # "dead", "saturated", "vanishing", "exploding", "not finite", "overfitting", "too slow", ...
    evidence: str
    cure: str
    layer: int | None = None
    network: int | None = None
    since: int | None = None  # the epoch from which on it has been so; None for a single batch

    def __str__(self) -> str:
        who = "" if self.network is None else f"Network {self.network}: "
        return f"{who}{self.evidence}: {self.cure}."


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` found; print it to read it, or go through `findings`."""

    findings: tuple[Finding, ...]
    seen: str  # what was looked at
    missing: str = ""  # what could not be looked at, and how to change that

    @property
    def healthy(self) -> bool:
        """Whether there is nothing to complain about."""
        return not self.findings

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of the findings."""
        return tuple(finding.kind for finding in self.findings)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __len__(self) -> int:
        return len(self.findings)

    def __repr__(self) -> str:
        lines = [f"- {finding}" for finding in self.findings] or [f"Nothing to complain about ({self.seen})."]
        lines += [self.missing] if self.missing else []
        wrap = textwrap.TextWrapper(80, subsequent_indent="  " if self.findings else "", break_on_hyphens=False)
        return "\n".join(wrap.fill(line) for line in lines)


@at_home("diagnosing", of=place_of_model)
def diagnose(model: Any, X: Any = None, y: Any = None, sample_weight: Any = None) -> Diagnosis:
    """Say in sentences what is wrong with a training, each with its evidence and its cure.

    Parameters
    ----------
    model : MLP or estimator
        What a `Health` callback recorded while it was fitted is read (of an estimator, from its `callbacks`), and its
        loss curves.
    X, y, sample_weight : optional
        A batch, to look at the model as it is now; without y there are no gradients to look at. Of a model trained by
        plain gradient descent (`update`, optimizer "sgd") the rate is held against the `curvature` of the loss, too.

    Returns
    -------
    Diagnosis
        Its text is one sentence per complaint, or "Nothing to complain about". Complaints are rules of thumb: a network
        that has them may learn all the same, only worse than it could.

    Raises
    ------
    TypeError, ValueError
        If `model` is no model of xpmlp, or was not fitted, or if the batch does not fit it.

    Examples
    --------
    >>> import numpy as np, xpmlp
    >>> X = np.random.default_rng(0).normal(size=(200, 3))
    >>> net = xpmlp.MLP([3, 50, 50, 1], "tanh", initializer=xpmlp.normal(9.0), random_state=0)
    >>> for finding in xpmlp.diagnose(net, X, X[:, 0]):
    ...     print(finding.kind, finding.layer)
    saturated 1
    saturated 2
    """
    observed = Observed(model, X, y, sample_weight)
    findings = [finding for complain in COMPLAINTS for finding in complain(observed)]
    return Diagnosis(tuple(findings), observed.seen, observed.missing)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share > 0.02 else f"{100 * share:.2g} %"


def not_finite(observed: Observed) -> Iterator[Finding]:
    """Numbers that overflowed."""
    for j in observed.networks:
        loss = observed.curve("loss", j)
        bad = np.flatnonzero(~np.isfinite(loss))
        if bad.size:
            epoch = int(bad[0]) + 1
            yield Finding(
                "not finite",
                f"the loss was no longer finite in epoch {epoch}",
                "lower the learning rate, scale the inputs and targets to about unit variance, or clip the gradient "
                "(clip_norm=1.0)",
                network=observed.who(j),
                since=epoch,
            )


def unscaled_inputs(observed: Observed) -> Iterator[Finding]:
    """Inputs of a size that no initializer was made for."""
    largest = max((observed.last("largest_input", j) for j in observed.networks), default=0.0)
    if largest > 100.0:
        yield Finding(
            "unscaled inputs",
            f"the inputs reach {largest:.3g}, and initial weights are made for inputs of about 1",
            "scale each column to unit variance, for instance with sklearn.preprocessing.StandardScaler",
        )


def equal_units(observed: Observed) -> Iterator[Finding]:
    """Units of one layer that have the same weights, in and out: they get the same derivatives, and stay equal."""
    to_numpy = observed.model.place.backend.to_numpy
    W, b = (
        {k: np.asarray(to_numpy(layers[k]), dtype=float) for k in range(1, observed.K + 1)}
        for layers in (observed.model.W, observed.model.b)
    )
    of, several = observed.model.parameters.own, observed.model.n_networks is not None
    for j, k, _ in _hidden(observed):
        into, bias, out = (values[j] if several else values for values in (W[k], b[k], W[k + 1]))
        own = [np.asarray(to_numpy(array), dtype=float) for array in (of[k] if of else {}).values()]
        # Units down the rows; of members side by side
        own = [array[j] if several else array for array in own]
        given = [into.T, bias, *own, np.swapaxes(out, -2, -1)]
        parts = [given[0], *(np.reshape(it, (-1, into.shape[-1])).T for it in given[1:])]
        # To rounding, which may differ from column to column of a product.
        units = np.concatenate([part / (np.max(np.abs(part)) or 1.0) for part in parts], axis=1)
        if not np.all(np.isfinite(units)):
            continue
        n, different = len(units), len(np.unique(np.round(units, 6) + 0.0, axis=0))
        if different < n:
            which = f"all {n} units of layer {k}" if different == 1 else f"{n} units of layer {k} are {different}: some"
            yield Finding(
                "equal units",
                f"{which} have the same weights, in and out, and nothing tells them apart, so they get the same "
                f"derivatives and stay the same: the layer learns as if it had {different}",
                "begin with random weights (an initializer other than zeros, or initialize() with the usual one)",
                layer=k,
                network=observed.who(j),
            )


def dead_units(observed: Observed) -> Iterator[Finding]:
    """Units of ReLU and its kin that let nothing through, for any sample."""
    for j, k, row in _hidden(observed):
        share = observed.series(f"dead.{k}", j)
        since, when = observed.since(share >= 0.25)
        slope = slope_of(row, observed.model.place)
        if when and not slope.squashes and (slope.closes_below or slope.closes_above):
            other = "use leaky_relu" if row.name == "relu" else "use an activation without a flat side (leaky_relu)"
            yield Finding(
                "dead",
                f"{_percent(share[-1])} of layer {k}'s units are dead {when}, their slope is 0 for every sample, so "
                "they learn nothing",
                f"lower the learning rate or {other}",
                layer=k,
                network=observed.who(j),
                since=since,
            )


def saturated_units(observed: Observed) -> Iterator[Finding]:
    """Units of tanh, sigmoid and their kin that sit on a flat end."""
    for j, k, row in _hidden(observed):
        share = observed.series(f"saturation.{k}", j)
        since, when = observed.since(share >= 0.5)
        if when and slope_of(row, observed.model.place).squashes:
            yield Finding(
                "saturated",
                f"{_percent(share[-1])} of layer {k}'s {row.name} outputs are saturated {when}, |z| reaches "
                f"{observed.last(f'largest_z.{k}', j):.3g} where the slope is next to 0",
                "take smaller initial weights (glorot_uniform), scale the inputs, or lower the learning rate",
                layer=k,
                network=observed.who(j),
                since=since,
            )


def vanishing_gradients(observed: Observed) -> Iterator[Finding]:
    """Gradients that get lost on the way down."""
    # Where units are stuck, another sentence says so.
    stuck = {finding.network for finding in (*dead_units(observed), *saturated_units(observed))}
    for j in observed.networks:
        pulls = [_pull(observed, k, j) for k in range(1, observed.K + 1)]
        if observed.K == 1 or not pulls[0].size or observed.who(j) in stuck:
            continue
        k = int(np.argmin([pull[-1] for pull in pulls[:-1]])) + 1
        bottom, top = pulls[k - 1], pulls[-1]
        since, when = observed.since((bottom < 1e-3 * top) & (top > 0.0))
        if when:
            yield Finding(
                "vanishing",
                f"the gradient of layer {k} is {bottom[-1] / top[-1]:.1g} of that of layer {observed.K} {when} (each "
                "relative to its weights), so the lower layers hardly learn",
                "use relu or gelu with their own initializer, fewer layers, or larger initial weights",
                layer=k,
                network=observed.who(j),
                since=since,
            )


def exploding_gradients(observed: Observed) -> Iterator[Finding]:
    """Gradients or signals that grow without bound: from layer to layer, or from epoch to epoch."""
    cure = "lower the learning rate, take smaller initial weights, or clip the gradient (clip_norm=1.0)"
    for j in observed.networks:
        first, last = observed.series("largest_z.1", j), observed.series(f"largest_z.{max(observed.K - 1, 1)}", j)
        bottom, top = _pull(observed, 1, j), _pull(observed, observed.K, j)
        total = np.sqrt(sum(observed.series(f"gradient_norm.{k}", j) ** 2 for k in range(1, observed.K + 1)))
        known = np.flatnonzero(np.isfinite(total))
        start = float(np.median(total[known[:3]])) if known.size > 3 else float("nan")
        with np.errstate(all="ignore"):
            signals, signals_when = observed.since(last > 100.0 * first)
            down, down_when = observed.since((bottom > 1e3 * top) & (top > 0.0))
            grown, grown_when = observed.since(total > 100.0 * start)
        if signals_when:
            text = f"the signals grow from |z| = {first[-1]:.2g} in layer 1 to {last[-1]:.2g} in layer {observed.K - 1}"
            yield Finding("exploding", f"{text} {signals_when}", cure, network=observed.who(j), since=signals)
        elif down_when:
            text = f"the gradient of layer 1 is {bottom[-1] / top[-1]:.1g} times that of layer {observed.K} {down_when}"
            yield Finding("exploding", f"{text} (each relative to its weights)", cure, 1, observed.who(j), down)
        elif grown_when:
            text = f"the gradient is {total[-1] / start:.0f} times what it was in the first epochs {grown_when}"
            yield Finding("exploding", text, cure, network=observed.who(j), since=grown)


def too_fast(observed: Observed) -> Iterator[Finding]:
    """A learning rate that throws the weights about."""
    for j in observed.networks:
        evidence = ""
        ratios = np.array(
            [observed.series(f"update_ratio.{k}", j)[: observed.n_records] for k in range(1, observed.K + 1)]
        )
        recent = ratios[:, -3:] if ratios.shape[-1] > 3 else np.zeros((0, 1))
        steps = np.min(np.where(np.isnan(recent), np.inf, recent), axis=1)
        steps[np.isnan(recent).all(axis=1)] = 0.0  # weights of 0 that do not move
        if steps.size and np.max(steps) > 1.0:
            k = int(np.argmax(steps)) + 1
            evidence = (
                f"each epoch moves the weights of layer {k} by {_percent(steps[k - 1])} of their size, to the end"
            )
        loss = observed.curve("loss", j)
        late = loss[len(loss) // 2 :]
        if not evidence and len(late) >= 5 and np.all(np.isfinite(loss)):
            rises = np.diff(late)
            rises = rises[rises > 0.0]
            level = float(np.mean(np.abs(late)))
            often = len(rises) >= 0.3 * (len(late) - 1)
            if often and float(np.mean(rises)) > 0.2 * level and level > 0.05 * abs(loss[0]):
                evidence = (
                    f"the loss rose in {len(rises)} of the last {len(late) - 1} epochs, by "
                    f"{_percent(float(np.mean(rises)) / level)} on average"
                )
            best, now = int(np.argmin(loss)), float(np.median(loss[-3:]))
            left_behind = best < len(loss) - 3 and now > 1.3 * loss[best] > 0.0
            if not evidence and left_behind and now > 0.05 * loss[0]:
                evidence = f"the loss was lowest in epoch {best + 1} and is {now / loss[best]:.1f} times as large now"
        if evidence:
            cure = 'lower the learning rate, or let it fall (schedule="cosine")'
            yield Finding("too fast", evidence, cure, network=observed.who(j))


def too_sharp(observed: Observed) -> Iterator[Finding]:
    """A learning rate that the curvature of the loss does not bear, before the loss has risen."""
    for j in observed.networks:
        edge = observed.rate_times_curvature[j]
        # A training at as large a rate as it bears hovers about 2 (Cohen et al., arXiv:2103.00065): that is no illness
        if edge > 2.2:
            yield Finding(
                "too sharp",
                f"the learning rate times the largest curvature of the loss is {edge:.3g} on this batch, and above 2 "
                "plain gradient descent jumps over its valley, further at each step",
                f"divide the learning rate by {np.ceil(edge / 2.0):.0f} or more",
                network=observed.who(j),
            )


def too_slow(observed: Observed) -> Iterator[Finding]:
    """A learning rate with which training would take for ever."""
    for j in observed.networks:
        loss = observed.curve("loss", j)
        if len(loss) < 5 or not np.all(np.isfinite(loss)) or loss[0] <= 0.0:
            continue
        fall = 1.0 - (loss[-1] / loss[0]) ** (1.0 / (len(loss) - 1)) if loss[-1] > 0.0 else 1.0
        steady = np.mean(np.diff(loss) < 0.0) >= 0.9
        # A training that has converged has slowed down; one that crawls falls at the end as it did at the start.
        half = len(loss) // 2
        early, later = loss[0] - loss[half], loss[half] - loss[-1]
        if steady and 0.0 < fall < 2e-3 and later > 0.5 * early:
            yield Finding(
                "too slow",
                f"the loss falls in almost every epoch, but by {_percent(fall)} only, and no slower at the end than "
                "at the start",
                "raise the learning rate tenfold",
                network=observed.who(j),
            )


def overfitting(observed: Observed) -> Iterator[Finding]:
    """A validation loss that rises while the training loss falls."""
    for j in observed.networks:
        loss, held_out = observed.curve("loss", j), observed.curve("validation_loss", j)
        n = min(len(loss), len(held_out))
        if n < 5 or not np.all(np.isfinite(held_out)):
            continue
        loss, held_out = loss[-n:], held_out[-n:]
        best, late = int(np.argmin(held_out)), float(np.median(held_out[-3:]))
        if late > 1.1 * held_out[best] and loss[-1] < loss[best] and best < n - 3:
            first = len(observed.curve("loss", j)) - n
            yield Finding(
                "overfitting",
                f"the validation loss was lowest in epoch {first + best + 1} and is "
                f"{_percent(late / held_out[best] - 1)} higher now, while the training "
                f"loss fell from {loss[best]:.3g} to {loss[-1]:.3g}",
                "stop early (early_stopping=True), use dropout or a larger penalty, or a smaller network",
                network=observed.who(j),
                since=first + best + 1,
            )


def _hidden(observed: Observed) -> Iterator[tuple[int, int, Activation]]:
    for j in observed.networks:
        for k in range(1, observed.K):
            yield j, k, observed.model.network.activations[k - 1]


def _pull(observed: Observed, k: int, network: int) -> HostArray:
    """|dW[k]| / |W[k]|: layers of any size can be compared."""
    with np.errstate(all="ignore"):
        return observed.series(f"gradient_norm.{k}", network) / observed.series(f"weight_norm.{k}", network)


# What explains the others comes first.
COMPLAINTS: tuple[Callable[[Observed], Iterator[Finding]], ...] = (
    not_finite,
    unscaled_inputs,
    equal_units,
    exploding_gradients,
    vanishing_gradients,
    dead_units,
    saturated_units,
    too_fast,
    too_sharp,
    too_slow,
    overfitting,
)
