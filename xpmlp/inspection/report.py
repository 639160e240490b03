"""What `check_gradients` found, and how it reads."""

import math
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from xpmlp.inspection.slips import meaning_of

MOST_DIGITS = 64  # of a number in the text, so that it fits 80 columns


@dataclass(frozen=True)
class GradientRow:
    """What was found for one W[k] or b[k], or another array of a layer."""

    name: str  # "W" or "b", or as "piecewise.bins" of a part
    layer: int  # 0 is before the first
    shape: tuple[int, ...]
    checked: int  # elements of each network that were compared
    ours: float  # largest |derivative|, of those compared
    numerical: float  # the same, of the differences
    difference: float  # the largest |ours - numerical|
    relative: (
        float  # that, as a share of the larger of the two above, or of resolution / tolerance where that is larger
    )
    where: tuple[int, ...]  # the index of the largest difference; the network first where there are several
    factor: float | None  # ours = factor * numerical, element by element; None where no factor fits to 0.1 %
    ok: bool
    undecided: bool  # too small a derivative for an error of 0.1 % to stand above the resolution
    resolution: float  # what rounding and truncation hide: a factor of 1.001 shows on a derivative 1,000 times as large
    ours_there: float  # the derivative at `where`
    digits_there: str | None  # the numerical one at `where`, to the digits that were asked for
    slip: str = ""  # what was put in the wrong place, where that explains a derivative from elsewhere

    @property
    def label(self) -> str:
        """As in the notation: "W[2]"."""
        return f"{self.name}[{self.layer}]"

    @property
    def verdict(self) -> str:
        """One word or two for the table."""
        if not self.ok:
            return "WRONG"
        hidden = "too small to tell" if math.isfinite(self.resolution) else "cannot tell"
        return hidden if self.undecided else "ok"

    def line(self, room: int = 6) -> str:
        """Return the row as it stands in the table, its name in as much room as the longest needs."""
        factor = "-" if self.factor is None else f"{self.factor:.5g}"
        return (
            f"d{self.label:<{room}}{self.ours:>13.4e}  {self.numerical:>11.4e}  {self.difference:>10.1e}"
            f"  {self.relative:>8.0e}  {factor:>8}  {self.verdict}"
        )


@dataclass(frozen=True)
class GradientReport:
    """What `check_gradients` found; true where every row is. Print it to read it."""

    rows: tuple[GradientRow, ...]
    loss: float  # L of the batch, the mean over the networks
    n_samples: int
    step: float
    tolerance: float
    resolution: float  # the largest of the rows
    digits: int | None  # of the numerical derivatives, where they were asked for; `step` then took no part
    on_kinks: int = 0  # samples that stand on a kink of an activation or of the loss

    @property
    def ok(self) -> bool:
        """Whether every parameter passed."""
        return all(row.ok for row in self.rows)

    def __bool__(self) -> bool:
        return self.ok

    @property
    def worst(self) -> GradientRow:
        """The row with the largest relative difference, of those that failed if some did."""
        failed = [row for row in self.rows if not row.ok]
        return max(failed or self.rows, key=lambda row: math.inf if math.isnan(row.relative) else row.relative)

    def __getitem__(self, key: tuple[str, int]) -> GradientRow:
        for row in self.rows:
            if (row.name, row.layer) == key:
                return row
        raise KeyError(f"no row {key!r}; rows are {', '.join(row.label for row in self.rows)}, asked for as ('W', 1)")

    def __iter__(self) -> Iterator[GradientRow]:
        return iter(self.rows)

    def __repr__(self) -> str:
        wrong, room = [row for row in self.rows if not row.ok], max(6, *(len(row.label) for row in self.rows))
        named = "all" if len(wrong) == len(self.rows) else ", ".join(f"d{row.label}" for row in wrong)
        hidden = sum(row.undecided for row in self.rows)
        right = f"none is wrong, {hidden} cannot be told" if hidden else "all agree"
        verdict = f"WRONG: {named}" if wrong else right
        lines = [
            f"Gradient check, {self.n_samples} samples, L = {self.loss:.6g}: {verdict}",
            "",
            " " * (room - 6) + "       largest |ours|  |numerical|  difference  relative     ratio",
        ]
        lines += [row.line(room) for row in self.rows]
        how = (
            f"Central differences, step {self.step:g}" if self.digits is None else f"Numerical to {self.digits} digits"
        )
        lines += ["", f"{how}. ok: relative <= {self.tolerance:g}. Below {self.resolution:.0e}: unseen."]
        if self.on_kinks:
            who = "1 sample stands" if self.on_kinks == 1 else f"{self.on_kinks} samples stand"
            lines.append(f"{who} on a kink: right is what lies between its two sides.")
        for row in self.rows:
            if row.checked < math.prod(row.shape):
                lines.append(f"{row.label}: {row.checked} of {math.prod(row.shape)} elements, drawn at random.")
        lines += self._digits()
        if wrong:
            lines += textwrap.wrap(self.hint, 80)
        return "\n".join(lines)

    def _digits(self) -> list[str]:
        row = self.worst
        if row.digits_there is None:
            return []
        ours, numerical = repr(row.ours_there), row.digits_there
        ours, numerical = (number if number.startswith("-") else f" {number}" for number in (ours, numerical))
        if len(numerical) > MOST_DIGITS:
            mantissa, e, exponent = numerical.partition("e")
            numerical = f"{mantissa[: MOST_DIGITS - 7]}...{e}{exponent}"
        where = ", ".join(map(str, row.where))
        return [f"Furthest apart, d{row.label} at [{where}]:", f"    ours       {ours}", f"    numerical  {numerical}"]

    @property
    def hint(self) -> str:
        """Where to look first, if something is wrong."""
        wrong = [row for row in self.rows if not row.ok]
        if not wrong:
            return ""
        # What is wrong in dz[k] is wrong in every layer below it, so the fault is at or above the last wrong layer.
        layer = max(row.layer for row in wrong)
        first, *others = (row for row in wrong if row.layer == layer)
        hint = f"Look first at layer {layer}, the nearest to the loss that is wrong: d{first.label}{self._reads(first)}"
        others = [row for row in others if self._reads(row) != self._reads(first)]
        return "; ".join([hint, *(f"d{row.label}{self._reads(row)}" for row in others)]) + "."

    def _reads(self, row: GradientRow) -> str:
        # What is wrong with it, to follow its name
        if math.isnan(row.difference) or math.isinf(row.difference):
            return " is not finite"
        if row.slip:
            return f": {row.slip}"
        if row.factor is None:
            return f" is furthest off at [{', '.join(map(str, row.where))}]"
        meaning = meaning_of(row.factor, self.n_samples)
        times = f"{row.factor:.6g} times the numerical one"
        if not meaning:
            return f" is {times}"
        return f": {meaning}" + (f" ({times})" if "," in meaning else "")
