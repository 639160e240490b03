"""Tables of cases.py: seconds of each candidate by case, and by how much scikit-learn is slower; and their picture."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cases import SECTIONS
from report import WIDTH, Goal, Report


def report_cases(report: Report, name: str, found: dict[str, dict[str, Any]]) -> None:
    """The table of one section."""
    section = SECTIONS[name]
    unit, scale = section.unit
    report.head(section.title)
    for case, rows in found.items():
        for who, row in rows.items():
            if "failed" in row:
                report.say(f"FAILED: {who}, {case} ({row['failed']})")
                report.failed.append(who)
    absent = {
        f"absent: {who} ({row['absent']})"[:WIDTH]
        for rows in found.values()
        for who, row in rows.items()
        if "absent" in row
    }
    report.say(*sorted(absent))
    short = {"scikit-learn": "sklearn", "xpmlp-torch": "torch"}
    head = f"{unit:<26}" + "".join(f"{short.get(who, who):>10}" for who in section.candidates)
    report.say(head + f"{short.get(section.over, section.over) + '/ours':>15}")
    for case, rows in found.items():
        line = f"  {case:<24}"
        for who in section.candidates:
            row = rows.get(who, {})
            if "times" not in row:
                line += f"{'-':>10}"
                continue
            value, _ = report.row(name, case, who, unit, [scale * t for t in report.seconds(row)])
            line += f"{value:>10.4g}"
        over, under = rows.get(section.over, {}), rows.get(section.under, {})
        if "times" in over and "times" in under:
            goal = Goal(at_least=section.goals[case]) if case in section.goals else None
            what = f"{section.over} / {section.under}"
            ratio, mark = report.row(name, case, what, "", report.ratios(over, under), goal)
            line += f"{ratio:>9.2f} {mark:<2}{'' if goal is None else goal}"
        report.say(line)


def chart_cases(report: Report, names: Iterable[str], about: dict[str, str], path: Path) -> bool:
    """Bars of scikit-learn's time by ours, one panel for each section; False where matplotlib or figures are absent."""
    panels = {
        name: {
            row["case"]: row for row in report.rows if row["section"] == name and row["what"] == "scikit-learn / xpmlp"
        }
        for name in names
    }
    panels = {name: rows for name, rows in panels.items() if rows}
    try:
        import matplotlib as mpl
    except ImportError:
        return False
    if not panels:
        return False
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    across = min(len(panels), 3)
    down = -(-len(panels) // across)
    figure, axes = plt.subplots(down, across, figsize=(4.6 * across, 2.9 * down + 0.6), squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, (name, rows) in zip(axes.flat, panels.items(), strict=False):
        values = [float(row["median"]) for row in rows.values()]
        axis.barh(range(len(rows)), values, color="#c2571a")
        for place, (value, row) in enumerate(zip(values, rows.values(), strict=True)):
            axis.text(value, place, f" {value:.2f}", va="center", fontsize=7)
            if row["target"]:
                axis.plot([row["target"].at_least] * 2, [place - 0.4, place + 0.4], color="black", linewidth=1.2)
        axis.axvline(1.0, color="#888888", linewidth=0.8, linestyle=":")
        axis.set_yticks(range(len(rows)), list(rows), fontsize=7)
        axis.set_title(name, fontsize=9)
        axis.invert_yaxis()
        axis.set_xlim(0, 1.2 * max(values))
        axis.tick_params(axis="x", labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle("scikit-learn's time by xpmlp's, NumPy without Numba (line: the target)", fontsize=11)
    figure.text(0.5, 0.01, f"{about['processor']}; {about.get('blas', '')}; {about['date']}", ha="center", fontsize=7)
    figure.tight_layout(rect=(0, 0.02, 1, 0.98))
    figure.savefig(path, dpi=130)
    plt.close(figure)
    return True
