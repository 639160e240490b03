"""What cpu.py writes: tables of medians and of ratios with their marks, rows of CSV, and a bar chart."""

import csv
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

WIDTH = 100
Found = dict[str, Any]  # what a section of sections.py returns


# --- What must be reached ---


class Goal(NamedTuple):
    """Where a figure must lie; `aim` is what lies beyond."""

    at_least: float = -math.inf
    at_most: float = math.inf
    aim: float | None = None

    def mark(self, value: float) -> str:
        """'++' the aim is reached, '+' the target, '-' not."""
        if not self.at_least <= value <= self.at_most:
            return "-"
        return "++" if self.aim is not None and value >= self.aim else "+"

    def __str__(self) -> str:
        if math.isinf(self.at_most):
            return f">= {self.at_least:g}"
        return f"<= {self.at_most:g}" if math.isinf(self.at_least) else f"{self.at_least:g} to {self.at_most:g}"


class Ratio(NamedTuple):
    """The time of `over` by the time of `under`, and its goals at one thread, by workload."""

    over: str
    under: str
    goals: dict[str, Goal] = {}  # noqa: RUF012 - never changed


WORKLOADS = ("circles", "digits", "tabular", "images", "wide")


def _at_least(*bounds: float, aims: Sequence[float | None] = (None,) * 5) -> dict[str, Goal]:
    return {name: Goal(at_least=bound, aim=aim) for name, bound, aim in zip(WORKLOADS, bounds, aims, strict=True)}


def _at_most(*bounds: float | None) -> dict[str, Goal]:
    return {name: Goal(at_most=bound) for name, bound in zip(WORKLOADS, bounds, strict=True) if bound is not None}


RATIOS = (
    Ratio("scikit-learn", "xpmlp", _at_least(1.8, 2.2, 1.65, 1.4, 1.25, aims=(2.5, 3.0, 2.0, 1.6, 1.35))),
    Ratio("torch", "xpmlp", _at_least(2.0, 2.2, 1.25, 1.0, 1.0)),
    Ratio("xpmlp", "floor", _at_most(None, None, 1.4, 1.4, 1.15)),
    Ratio("xpmlp-jax", "jax", _at_most(1.1, 1.1, 1.1, 1.1, 1.1)),
    Ratio("scikit-learn", "xpmlp-jax", _at_least(1.8, 2.9, 1.75, 1.6, 1.15)),
    Ratio("xpmlp-torch", "torch", _at_most(1.0, 1.0, 1.0, 1.0, 1.0)),
    Ratio("scikit-learn", "no-numba", {"circles": Goal(at_least=4.1), "digits": Goal(at_least=2.5)}),
    Ratio(
        "scikit-learn",
        "numba",
        {
            name: Goal(at_least=bound)
            for name, bound in (("circles", 6.5), ("batches", 8.5), ("digits", 3.8), ("small", 8.5))
        },
    ),
    Ratio("numba", "floor", {"images": Goal(at_most=1.25), "wide": Goal(at_most=1.12)}),
    Ratio("torch", "no-numba"),
    Ratio("no-numba", "floor"),
    Ratio("skorch", "xpmlp"),
    Ratio("xpmlp", "core"),
    Ratio("scikit-learn", "core"),
    Ratio("torch", "core"),
    Ratio("core", "floor"),
    Ratio("core-jax", "jax"),
    Ratio("core-torch", "torch"),
)
COMPILE_SECONDS = 3.0
MANY_RATIO = 8.0  # 16 networks at once in batches of 32, by one
IMPORT_SECONDS = 0.060
STRAIGHT = Goal(0.9, 1.1)  # the exponent of a cost that grows linearly

IMPORTS = {
    "numpy": "import numpy",
    "xpmlp": "import xpmlp",
    "xpmlp.MLP": "from xpmlp import MLP",
    "xpmlp.MLPClassifier": "from xpmlp import MLPClassifier",
    "scikit-learn's": "from sklearn.neural_network import MLPClassifier",
}


# --- The report ---


class Report:
    """Lines to read, and rows to compute with, made together."""

    def __init__(self, titles: dict[str, str], clock: int, marks: bool) -> None:
        self.titles = titles  # of the candidates
        self.clock = clock  # which of (wall, cpu)
        self.marks = marks  # whether the figures are held against their goals
        self.lines: list[str] = []
        self.rows: list[dict[str, Any]] = []
        self.missed: list[str] = []
        self.failed: list[str] = []

    def say(self, *lines: str) -> None:
        """Add lines to read."""
        self.lines += (line.rstrip() for line in lines)

    def head(self, title: str) -> None:
        """Add a heading."""
        self.say("", title, "-" * len(title))

    def seconds(self, found: Found) -> list[float]:
        """The times of the rounds."""
        return [times[self.clock] for times in found["times"]]

    def median(self, found: Found) -> float:
        """The median over the rounds."""
        return statistics.median(self.seconds(found))

    def ratios(self, over: Found, under: Found) -> list[float]:
        """The ratio within each round: what slows a round slows both. Their median is the ratio that is reported."""
        return [o / u for o, u in zip(self.seconds(over), self.seconds(under), strict=True)]

    def row(
        self,
        section: str,
        case: str,
        what: str,
        unit: str,
        values: Sequence[float],
        goal: "Goal | None" = None,
        threads: int = 1,
    ) -> tuple[float, str]:
        """Add a row of CSV; the median of the values, and the mark that it earns."""
        value = statistics.median(values)
        mark = goal.mark(value) if goal is not None and self.marks else ""
        self.rows.append(
            {
                "section": section,
                "case": case,
                "threads": threads,
                "what": what,
                "unit": unit,
                "median": f"{value:.6g}",
                "low": f"{min(values):.6g}",
                "high": f"{max(values):.6g}",
                "n": len(values),
                "target": goal or "",
                "mark": mark,
            }
        )
        if mark == "-":
            self.missed.append(f"{what}, {case}: {value:.3g} (target {goal})")
        return value, mark

    def write(self, folder: Path, name: str, about: dict[str, str]) -> None:
        """Write NAME.txt and NAME.csv."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.txt").write_text("\n".join(self.lines) + "\n")
        with open(folder / f"{name}.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, restval="")
            writer.writeheader()
            writer.writerows({"section": "environment", "case": key, "what": value} for key, value in about.items())
            writer.writerows(self.rows)


COLUMNS = ("section", "case", "threads", "what", "unit", "median", "low", "high", "n", "target", "mark")


class _Cell(NamedTuple):
    """A candidate on a workload."""

    rows: Found
    name: str
    workload: str
    threads: int

    @property
    def timed(self) -> bool:
        return "times" in self.rows


def report_fits(report: Report, found: dict[int, Found]) -> None:
    """Seconds, ratios, compilation, losses."""
    table = _Table(report, found)
    report.head("Whole fits")
    table.say_who_is_missing()

    def seconds(cell: _Cell) -> str:
        if not cell.timed:
            return "-"
        values = report.seconds(cell.rows)
        return f"{report.row('fits', cell.workload, report.titles[cell.name], 's', values, None, cell.threads)[0]:.3f}"

    def compilation(cell: _Cell) -> str:
        if not cell.timed or not ("jax" in cell.name or cell.name in ("xpmlp", "torch-compile")):
            return ""  # of those on NumPy, the first of all imports Numba and compiles: on tabular, if all are run
        spent = max(cell.rows["first"][report.clock] - report.median(cell.rows), 0.0)
        goal = Goal(at_most=COMPILE_SECONDS) if cell.name in ("xpmlp-jax", "core-jax") else None
        what = f"{report.titles[cell.name]}: compilation"
        value, mark = report.row("compilation", cell.workload, what, "s", [spent], goal, cell.threads)
        return f"{value:.2f} {mark:<2}"

    def second(cell: _Cell) -> str:
        return (
            f"{cell.rows['second'][report.clock] / report.median(cell.rows):.2f}   "
            if cell.timed and "jax" in cell.name
            else ""
        )

    def loss(cell: _Cell) -> str:
        return f"{cell.rows['value']:.4f}" if cell.rows.get("value") is not None else ""

    table.say("seconds, median (x2: two threads)", seconds)
    report.say("")
    table.say_ratios()
    report.say("")
    table.say(f"compiling, s: first fit - warm (<= {COMPILE_SECONDS:g})", compilation)
    table.say("second fit / median: 1, what is compiled is kept"[:40], second)
    report.say("")
    table.say("loss of the last epoch, as reported", loss)


class _Table:
    """Candidates by rows, workloads by columns."""

    def __init__(self, report: Report, found: dict[int, Found]) -> None:
        self.report, self.found = report, found
        self.cases = [(workload, threads) for threads, workloads in found.items() for workload in workloads]
        self.labels = [workload if threads == 1 else f"{workload} x{threads}" for workload, threads in self.cases]
        rows = [rows for workloads in found.values() for rows in workloads.values()]
        self.names = list(dict.fromkeys(name for names in rows for name in names))

    def cell(self, name: str, workload: str, threads: int) -> _Cell:
        return _Cell(self.found[threads][workload].get(name, {}), name, workload, threads)

    def line(self, title: str, cells: Sequence[str], indent: str = "  ") -> None:
        self.report.say(f"{indent + title:<40}" + "".join(f"{text:>10}" for text in cells))

    def say(self, title: str, write: Callable[[_Cell], str]) -> None:
        self.line(title, self.labels, "")
        for name in self.names:
            cells = [write(self.cell(name, *case)) for case in self.cases]
            if any(cells):
                self.line(self.report.titles[name], cells)

    def say_who_is_missing(self) -> None:
        for name in self.names:
            cells = [self.cell(name, *case) for case in self.cases]
            absent = sorted({cell.rows["absent"] for cell in cells if "absent" in cell.rows})
            failed = sorted({cell.rows["failed"] for cell in cells if "failed" in cell.rows})
            self.report.say(*(f"absent: {self.report.titles[name]} ({reason})"[:WIDTH] for reason in absent))
            self.report.say(*(f"FAILED: {self.report.titles[name]} ({reason})" for reason in failed))
            self.report.failed += [name] * bool(failed)

    def say_ratios(self) -> None:
        self.line("ratios of times: ++ aim, + target, - not", self.labels, "")
        for ratio in RATIOS:
            cells, goals = [], []
            for case in self.cases:
                over, under = self.cell(ratio.over, *case), self.cell(ratio.under, *case)
                goal = ratio.goals.get(case[0]) if case[1] == 1 else None
                if not (over.timed and under.timed):
                    cells.append("")
                    continue
                values, what = self.report.ratios(over.rows, under.rows), f"{ratio.over} / {ratio.under}"
                value, mark = self.report.row("ratios", case[0], what, "", values, goal, case[1])
                cells.append(f"{value:.2f} {mark:<2}")
                goals.append("" if goal is None else f"{goal}   ")
            if any(cells):
                self.line(f"{ratio.over} / {ratio.under}", cells)
            if any(goals):
                self.line("", goals)


def report_many(report: Report, found: list[Found]) -> None:
    """Networks by the leading axis."""
    report.head("Many small networks: m circle networks at once, against m fits one after the other (core, NumPy)")
    for batch in dict.fromkeys(rows["batch"] for rows in found):
        report.say(
            f"batches of {batch:<8}{'m':>4}{'at once, s':>12}{'in turn, s':>12}{'in turn/once':>14}{'once/one':>12}"
        )
        for rows in found:
            if rows["batch"] != batch:
                continue
            one, once, turn = ({"times": rows[name]} for name in ("one", "at once", "in turn"))
            case = f"m = {rows['m']}, batch {batch}"
            goal = Goal(at_most=MANY_RATIO) if batch == 32 and rows["m"] == 16 else None
            at_once, _ = report.row("many", case, "at once", "s", report.seconds(once))
            in_turn, _ = report.row("many", case, "in turn", "s", report.seconds(turn))
            gain, _ = report.row("many", case, "in turn / at once", "", report.ratios(turn, once))
            cost, mark = report.row("many", case, "at once / one", "", report.ratios(once, one), goal)
            line = f"{rows['m']:>23}{at_once:>12.4f}{in_turn:>12.4f}{gain:>14.2f}{cost:>12.2f} {mark} {_target(goal)}"
            report.say(line)


def _target(goal: Goal | None) -> str:
    return "" if goal is None else f"(target {goal})"


def report_memory(report: Report, found: Found) -> None:
    """Allocated, and resident."""
    report.head("Peak memory of a fit beyond its data, MiB (one epoch, a fresh process each)")
    report.say(f"{'':<40}{'allocated':>11}{'by sklearn':>13}{'resident':>11}{'by sklearn':>13}")
    for workload, rows in found.items():
        for name, kinds in rows.items():
            line = f"  {workload + ': ' + report.titles[name]:<38}"
            for kind, of in kinds.items():
                base = rows.get("scikit-learn", {}).get(kind, {}).get("bytes")
                if "bytes" not in of:
                    line += f"{'absent':>11}{'':>13}"
                    continue
                size, _ = report.row("memory", workload, f"{report.titles[name]}: {kind}", "MiB", [of["bytes"] / 2**20])
                line += f"{size:>11.1f}"
                if base is None or name == "scikit-learn":
                    line += " " * 13
                    continue
                goal = Goal(at_most=1.0) if name == "xpmlp" else None
                what = f"{name} / scikit-learn: {kind}"
                share, mark = report.row("memory", workload, what, "", [of["bytes"] / base], goal)
                line += f"{share:>10.2f} {mark:<2}"
            report.say(line)


def report_imports(report: Report, found: Found) -> None:
    """Against NumPy's."""
    report.head("Imports in fresh processes, milliseconds, and beyond NumPy's")
    for name, rows in found.items():
        if "absent" in rows:
            report.say(f"  {IMPORTS[name]:<52} absent: {rows['absent']}"[:WIDTH])
            continue
        seconds, _ = report.row("import", name, IMPORTS[name], "s", report.seconds(rows))
        line = f"  {IMPORTS[name]:<52}{1e3 * seconds:>8.0f}"
        if name != "numpy":
            goal = Goal(at_most=IMPORT_SECONDS) if name == "xpmlp" else None
            more = [o - u for o, u in zip(report.seconds(rows), report.seconds(found["numpy"]), strict=True)]
            beyond, mark = report.row("import", name, f"{IMPORTS[name]}, beyond NumPy", "s", more, goal)
            line += f"{1e3 * beyond:>+8.0f} {mark} {'' if goal is None else f'(target <= {1e3 * IMPORT_SECONDS:g})'}"
        report.say(line)


def report_linear(report: Report, found: Found) -> None:
    """Three sizes each."""
    report.head(f"How the cost grows: tabular networks, {found['candidate']}, NumPy")
    for what in ("rows", "epochs"):
        sizes = {int(name.split()[1]): {"times": t} for name, t in found.items() if name.startswith(what + " ")}
        for size, times in sizes.items():
            report.row("linear", f"{size} {what}", found["candidate"], "s", report.seconds(times))
        first, *_, last = sizes
        exponents = [math.log(r) / math.log(last / first) for r in report.ratios(sizes[last], sizes[first])]
        exponent, mark = report.row("linear", what, f"exponent of {what}", "", exponents, STRAIGHT)
        cells = ", ".join(f"{size:,}: {report.median(times):.3f} s" for size, times in sizes.items())
        report.say(f"  {what:<7}{cells}   time ~ {what}^{exponent:.2f} {mark} {_target(STRAIGHT)}")


def chart(report: Report, found: dict[int, Found], about: dict[str, str], path: Path) -> bool:
    """Bars of seconds, one panel for each workload; False where matplotlib is absent."""
    try:
        import matplotlib as mpl
    except ImportError:
        return False
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    panels = [(w, threads, rows) for threads, workloads in found.items() for w, rows in workloads.items()]
    across = min(len(panels), 3)
    down = -(-len(panels) // across)
    names = list(dict.fromkeys(name for *_, rows in panels for name in rows if "times" in rows[name]))
    height = 1.1 + 0.24 * len(names)
    figure, axes = plt.subplots(down, across, figsize=(3.6 * across + 1.6, height * down + 0.8), squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for i, (axis, (workload, threads, rows)) in enumerate(zip(axes.flat, panels, strict=False)):
        medians = {name: report.median(rows[name]) for name in names if "times" in rows[name]}
        # skorch is many times slower on small networks: its bar is cut, its figure is not.
        limit = 1.25 * max([t for name, t in medians.items() if name != "skorch"] or medians.values(), default=1.0)
        for place, name in enumerate(names):
            if name not in medians:
                continue
            seconds = medians[name]
            color = (
                "#b8b8b8"
                if name == "floor"
                else "#c2571a"
                if name.startswith(("xpmlp", "core", "no-numba", "numba"))
                else "#4a6f9c"
            )
            axis.barh(place, seconds, color=color, alpha=0.65 if name.startswith("core") else 1.0)
            inside = seconds > 0.85 * limit
            axis.text(
                min(seconds, limit),
                place,
                f" {seconds:.3g} ",
                va="center",
                ha="right" if inside else "left",
                color="white" if inside else "black",
                fontsize=7,
            )
        axis.set_yticks(
            range(len(names)), [report.titles[name] for name in names] if i % across == 0 else [], fontsize=8
        )
        axis.set_title(f"{workload}, {threads} thread{'s' if threads > 1 else ''}", fontsize=9)
        axis.invert_yaxis()
        axis.set_xlim(0, limit)
        axis.tick_params(axis="x", labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    versions = ", ".join(f"{name} {about[name]}" for name in ("numpy", "scikit-learn", "torch", "jax") if name in about)
    figure.suptitle("Seconds for a whole fit on the CPU (float32, Adam; compilation not counted)", fontsize=11)
    figure.text(
        0.5,
        0.01,
        f"{about['processor']}; {versions}; {about.get('blas', 'blas not named')}; {about['date']}",
        ha="center",
        fontsize=7,
    )
    figure.tight_layout(rect=(0, 0.02, 1, 0.98))
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return True
