"""Penguins, from the table as it was kept: gaps, names, dates, quantiles, importances, doubt, other models beside.

    pip install palmerpenguins
    python examples/tables.py --plot

344 penguins near Palmer Station, Antarctica (Gorman, Williams & Fraser, 2014, doi:10.1371/journal.pone.0090081): what
they weigh is to be told from all else that was written down, and what sex they are. Every model is judged by penguins
that it has not seen, on the same splits. Trainings differ in their last digits from one processor to the next, so that
what is printed is rounded, and may still differ a little.
"""

import argparse
import importlib.util
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import log_loss, mean_absolute_error
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from xpmlp import TabularClassifier, TabularRegressor
from xpmlp.tabular import TableWarning

MASS, SEX, FLIPPER = "Body Mass (g)", "Sex", "Flipper Length (mm)"
QUANTILES = (0.05, 0.5, 0.95)
KIN = "Gentoo"  # of the penguin that the members are asked about
FAR = np.arange(140.0, 261.0, 2.5)  # its flippers, in mm
SHOWN = 8  # columns whose importance is shown
QUICK: dict[str, Any] = {"n_members": 2, "hidden_layer_sizes": (16,), "max_iter": 8, "refit": False}


class Split(NamedTuple):
    """Rows to learn from, and rows to be judged by."""

    X: Any
    y: Any
    X_test: Any
    y_test: Any


def penguins() -> Any:
    """The table as it was kept, a frame of pandas."""
    from palmerpenguins import load_penguins_raw

    return load_penguins_raw()


def splits(table: Any, target: str, n: int) -> list[Split]:
    """`n` times three quarters of the penguins whose target is known, and the others."""
    known = table[table[target].notna()]
    X, y = known.drop(columns=target), known[target].to_numpy()
    parts = (train_test_split(X, y, test_size=0.25, random_state=seed, stratify=X["Species"]) for seed in range(n))
    return [Split(X, y, X_test, y_test) for X, X_test, y, y_test in parts]


# --- What the others need, and we do not ---


def as_numbers_and_categories(X: Any) -> Any:
    """Dates as days, texts as categories, and without what has a value of its own in nearly every row."""
    import pandas as pd

    X = X.drop(columns=["Individual ID", "Region", "Stage"])
    X["Date Egg"] = (pd.to_datetime(X["Date Egg"]) - pd.Timestamp("2007-01-01")).dt.days
    texts = [name for name in X.columns if X[name].dtype.kind not in "if"]
    return X.astype(dict.fromkeys(texts, "category"))


def linear(model: Any) -> Any:
    """A linear model behind a careful pipeline."""
    numbers = make_pipeline(SimpleImputer(add_indicator=True), StandardScaler())
    names = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore"))
    columns = make_column_transformer(
        (numbers, make_column_selector(dtype_include="number")), (names, make_column_selector(dtype_include="category"))
    )
    return make_pipeline(columns, model)


# --- The chapters ---


def look(model: Any, n_rows: int) -> None:
    """Say what every column was taken for."""
    print(f"1. THE TABLE. {n_rows} rows, {model.n_features_in_} columns, passed as they are; taken for:")
    for kind in model.preparation_.kinds_:
        words = {"NumberKind": "a number", "CategoryKind": "a category", "DateKind": "a date", "LeftOut": "left out"}
        word = words[type(kind).__name__]
        more = "with gaps" if getattr(kind, "gaps", False) or None in getattr(kind, "levels", ()) else ""
        more = f": {kind.why}" if word == "left out" else more and f", {more}"
        print(f"   {kind.name:<20} {word}{more}"[:84])


def compare(table: Any, n: int, options: dict[str, Any]) -> dict[str, dict[str, np.ndarray]]:
    """The errors of four models on each split, by target and model."""
    models = {
        MASS: {
            "a constant": None,
            "linear": lambda: linear(RidgeCV(np.logspace(-2, 3, 11))),
            "HistGradientBoosting": lambda: HistGradientBoostingRegressor(random_state=0),
            "xpmlp": lambda: TabularRegressor(random_state=0, **options),
        },
        SEX: {
            "a constant": None,
            "linear": lambda: linear(LogisticRegression(max_iter=1000)),
            "HistGradientBoosting": lambda: HistGradientBoostingClassifier(random_state=0),
            "xpmlp": lambda: TabularClassifier(random_state=0, **options),
        },
    }
    print(f"\n2. SIDE BY SIDE, on penguins not seen, the mean of {n} split{'s' * (n > 1)}:")
    print(f"   {'':<22} {'mass: mean error':>18} {'sex: log loss':>16}")
    errors: dict[str, dict[str, np.ndarray]] = {}
    for target, makers in models.items():
        errors[target] = {
            name: np.array([_error(target, name, make, split) for split in splits(table, target, n)])
            for name, make in makers.items()
        }
    for name in models[MASS]:
        grams, loss = errors[MASS][name].mean(), errors[SEX][name].mean()
        about = f"about {10 * round(grams / 10)} g", f"about {loss:.1f}"
        print(f"   {name:<22} {about[0]:>18} {about[1]:>16}")
    print(_verdict(errors))
    return errors


def _error(target: str, name: str, make: Any, split: Split) -> float:
    X, y, X_test, y_test = split
    if make is None:
        said = np.full(len(y_test), np.median(y)) if target == MASS else np.full((len(y_test), 2), 0.5)
    else:
        if name != "xpmlp":
            X, X_test = as_numbers_and_categories(X), as_numbers_and_categories(X_test)
        model = make().fit(X, y)
        said = model.predict(X_test) if target == MASS else model.predict_proba(X_test)
    return float(mean_absolute_error(y_test, said) if target == MASS else log_loss(y_test, said))


def _verdict(errors: dict[str, dict[str, np.ndarray]]) -> str:
    lines = []
    for target, what in ((MASS, "mass"), (SEX, "sex")):
        ours = errors[target]["xpmlp"].mean()
        for name in ("linear", "HistGradientBoosting"):
            ratio = ours / errors[target][name].mean()
            word = "as good as" if 0.95 < ratio < 1.05 else "better than" if ratio < 1.0 else "worse than"
            lines.append(f"   {what}: xpmlp is {word} {name}.")
    return "\n".join(lines)


def bands(split: Split, options: dict[str, Any]) -> np.ndarray:
    """Quantiles of the mass of penguins not seen, shape (n, 3)."""
    model = TabularRegressor(quantile=list(QUANTILES), random_state=0, **options).fit(split.X, split.y)
    said = model.predict(split.X_test)
    low, middle, high = said.T
    within = np.mean((split.y_test >= low) & (split.y_test <= high))
    print("\n3. QUANTILES. One model says 5 %, 50 % and 95 %, which never cross.")
    print(f"   Within the band are about {10 * round(10 * within)} % of the penguins not seen; 90 % were asked for.")
    print(f"   The band is about {100 * round(np.mean(high - low) / 100)} g wide.")
    assert np.all((low <= middle) & (middle <= high))
    return np.asarray(said)


def importances(model: Any, split: Split, repeats: int) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The columns that matter most, by the slope of the loss and by what is lost without them, as shares."""
    X, y = split.X_test, split.y_test
    slopes = model.feature_importances(X, y)
    lost = permutation_importance(model, X, y, n_repeats=repeats, random_state=0).importances_mean
    slopes, lost = slopes / slopes.sum(), np.maximum(lost, 0.0) / np.maximum(lost, 0.0).sum()
    order = np.argsort(-lost)[:SHOWN]
    names = [str(X.columns[i]) for i in order]
    print("\n4. IMPORTANCES. Most is lost where one of these columns is shuffled:")
    print(f"   {', '.join(names[:3])}.")
    most = [str(X.columns[i]) for i in np.argsort(-slopes)[:3]]
    print(f"   The steepest slopes: {', '.join(most)}.")
    return names, slopes[order], lost[order]


def doubt(model: Any, split: Split) -> np.ndarray:
    """What each member says of one penguin, its flippers made shorter and longer, shape (n_members, n)."""
    one = split.X_test[split.X_test["Species"].str.startswith(KIN)].iloc[[0]]
    many = one.loc[one.index.repeat(len(FAR))].assign(**{FLIPPER: FAR})
    said = np.asarray(model.predict_members(many))
    said = said[..., 0] if said.ndim == 3 else said
    spread = said.std(axis=0)
    low, high = of_its_kin(split)
    known = (low <= FAR) & (high >= FAR)
    ratio = spread[~known].mean() / spread[known].mean()
    word = "more than" if ratio > 1.1 else "as much as" if ratio > 0.9 else "less than"
    print(f"\n5. DOUBT. On a {KIN} with flippers like no {KIN}'s the members differ {word}")
    print("   on others. They tell what was not learned; quantiles, what nobody can know.")
    return said


def of_its_kin(split: Split) -> tuple[float, float]:
    """The shortest and the longest flippers of that species among the penguins learned from."""
    flippers = split.X[split.X["Species"].str.startswith(KIN)][FLIPPER]
    return float(flippers.min()), float(flippers.max())


def draw(
    file: Path,
    split: Split,
    errors: dict[str, dict[str, np.ndarray]],
    quantiles: np.ndarray,
    found: tuple[list[str], np.ndarray, np.ndarray],
    said: np.ndarray,
) -> Path:
    """Four pictures: side by side, the band, importances, members."""
    from matplotlib.figure import Figure  # without pyplot: needs no screen

    figure = Figure(figsize=(11, 8), layout="constrained")
    (beside, band), (matter, members) = figure.subplots(2, 2)

    names = list(errors[MASS])
    at = np.arange(len(names))
    for shift, (target, label, color) in zip(
        (-0.18, 0.18), ((MASS, "mass (mean error)", "#0072B2"), (SEX, "sex (log loss)", "#D55E00")), strict=True
    ):
        scale = errors[target]["a constant"].mean()
        values = [errors[target][name] / scale for name in names]
        beside.bar(at + shift, [it.mean() for it in values], 0.34, color=color, alpha=0.75, label=label)
        for i, it in enumerate(values):
            beside.plot(np.full(len(it), i + shift), it, "o", color="black", markersize=3)
    beside.set_xticks(at, [name.replace("Gradient", "Gradient-\n") for name in names])
    beside.set_ylabel("error, a constant's = 1")
    beside.set_title("Side by side, on penguins not seen")
    beside.legend(fontsize=9)

    order = np.argsort(quantiles[:, 1])
    low, middle, high = quantiles[order].T
    places = np.arange(len(order))
    band.fill_between(places, low, high, color="#0072B2", alpha=0.25, label="5 % to 95 %")
    band.plot(places, middle, color="#0072B2", label="50 %")
    truth = split.y_test[order]
    out = (truth < low) | (truth > high)
    band.plot(places[~out], truth[~out], "o", color="black", markersize=3, label="a penguin")
    band.plot(places[out], truth[out], "o", color="#D55E00", markersize=4, label="outside")
    band.set_xlabel("penguins not seen, by the middle of their band")
    band.set_ylabel(MASS)
    band.set_title("Quantiles")
    band.legend(fontsize=9, loc="upper left")

    columns, slopes, lost = found
    rows = np.arange(len(columns))[::-1]
    matter.barh(rows + 0.18, lost, 0.34, color="#009E73", label="lost where it is shuffled")
    matter.barh(rows - 0.18, slopes, 0.34, color="#CC79A7", label="mean slope of the loss")
    matter.set_yticks(rows, columns)
    matter.set_xlabel("share")
    matter.set_title("Which columns matter")
    matter.legend(fontsize=9, loc="lower right")

    members.axvspan(*of_its_kin(split), color="0.9", label=f"{KIN}s in the table")
    members.plot(FAR, said.T, color="#0072B2", alpha=0.5, linewidth=1)
    members.plot(FAR, said.mean(axis=0), color="black", label="their mean")
    members.set_xlabel(f"{FLIPPER}, of one {KIN}")
    members.set_ylabel(f"{MASS}, as each member says")
    members.set_title("Doubt")
    members.legend(fontsize=9, loc="upper left")
    for axis in (beside, band, matter, members):
        axis.grid(alpha=0.25)
    figure.savefig(file, dpi=120)
    return file


def main(arguments: Sequence[str] | None = None) -> dict[str, dict[str, np.ndarray]]:
    """Look, compare, and open a model up; the errors side by side come back."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one split and small networks, to see that it runs")
    parser.add_argument("--plot", nargs="?", const="tables.png", metavar="FILE", help="draw (needs matplotlib)")
    options = parser.parse_args(arguments)
    if options.plot and importlib.util.find_spec("matplotlib") is None:
        parser.error("--plot needs matplotlib: pip install matplotlib, or install xpmlp with its extra: '.[plot]'.")
    if importlib.util.find_spec("palmerpenguins") is None:
        parser.error("the penguins are not here: pip install palmerpenguins.")
    started = time.perf_counter()
    table, settings = penguins(), QUICK if options.quick else {}
    warnings.simplefilter("ignore", TableWarning)  # that the ID is left out, which the list below says
    split, *_ = splits(table, MASS, 1)
    model = TabularRegressor(random_state=0, **settings).fit(split.X, split.y)
    look(model, len(table))
    errors = compare(table, 1 if options.quick else 3, settings)
    quantiles = bands(split, settings)
    found = importances(model, split, 2 if options.quick else 10)
    said = doubt(model, split)
    print(f"\n{time.perf_counter() - started:.0f} s.")
    if options.plot:
        print(f"The picture is in {draw(Path(options.plot), split, errors, quantiles, found, said).resolve()}")
    return errors


if __name__ == "__main__":
    main()
