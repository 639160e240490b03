#!/usr/bin/env python
"""The README's table of speed, from the figures of a run: `python benchmarks/readme.py` writes it.

cpu.py does so at the end of a run of everything; tests/test_benchmarks.py sees that the two agree.
"""

import csv
import re
from pathlib import Path

HERE = Path(__file__).resolve().parent
README, FIGURES = HERE.parent / "README.md", HERE / "results" / "cpu.csv"
BEGIN, END = "<!-- speed: benchmarks/readme.py -->\n", "<!-- end of speed -->\n"

# Titles of the candidates, and of their columns.
COLUMNS = {
    "scikit-learn": "scikit-learn",
    "plain PyTorch, eager": "PyTorch, eager",
    "plain JAX, jit and scan": "plain JAX",
    "xpmlp estimator, no Numba": "xpmlp, NumPy",
    "xpmlp estimator, Numba": "with Numba",
    "xpmlp estimator, JAX": "xpmlp, JAX",
    "floor: bare products": "bare products",
}
OURS = ("xpmlp estimator, no Numba", "xpmlp estimator, Numba", "xpmlp estimator, JAX")
SHAPES = {
    "circles": ("1,000 x 2", "4, 3", "all"),
    "batches": ("1,000 x 2", "4, 3", "200"),
    "digits": ("1,797 x 64", "100", "200"),
    "small": ("2,000 x 20", "64, 64", "32"),
    "tabular": ("50,000 x 54", "256, 128", "256"),
    "images": ("12,000 x 784", "512, 256", "128"),
    "wide": ("4,096 x 1,024", "2,048, 2,048", "1,024"),
}


def table(figures: Path = FIGURES) -> str:
    """The block between the two marks."""
    with open(figures, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    about = {row["case"]: row["what"] for row in rows if row["section"] == "environment"}
    seconds = {
        (row["case"], row["what"]): float(row["median"])
        for row in rows
        if row["section"] == "fits" and row["threads"] == "1"
    }
    there = [name for name in COLUMNS if any(what == name for _, what in seconds)]
    heads = ["", "rows x columns", "hidden", "batch", *(COLUMNS[name] for name in there)]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for case, shape in SHAPES.items():
        if not any(known == case for known, _ in seconds):
            continue
        best = min((seconds[case, name] for name in there if name in OURS and (case, name) in seconds), default=None)
        cells = []
        for name in there:
            value = seconds.get((case, name))
            text = "" if value is None else f"{value:.3f}"
            cells.append(f"**{text}**" if text and name in OURS and value == best else text)
        lines.append(f"| {' | '.join([case, *shape, *cells])} |")
    versions = ", ".join(f"{name} {about[name]}" for name in ("numpy", "scikit-learn", "torch", "jax") if name in about)
    where = (
        f"{about.get('processor', '')}, {about.get('blas', 'blas not named')}, one core; {versions}; {about['date']}."
    )
    return "\n".join([*lines, "", where]) + "\n"


def written(text: str) -> str:
    """The README with the table as the figures have it."""
    return re.sub(f"(?<={re.escape(BEGIN)}).*?(?={re.escape(END)})", lambda _: table(), text, flags=re.DOTALL)


def write() -> None:
    """Put it there."""
    README.write_text(written(README.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    write()
