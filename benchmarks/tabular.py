"""TabularClassifier and TabularRegressor beside gradient boosting with its defaults, on tables in a folder.

    python benchmarks/tabular.py FOLDER [--seeds 0,1,2] [--names adult,digits] [--models xpmlp,hgb] [--report]

FOLDER holds NAME.npz (x_num, x_cat, y) and NAME.json ("classes", None for numbers). One split for each seed: 20 % of
the rows are the test part, at most 10,000 are trained on. Error is 1 - accuracy, or RMSE / standard deviation of the
test part; time is that of the process, with one BLAS thread, fit alone. CatBoost, LightGBM and XGBoost are asked for by
name (catboost, lightgbm, xgboost) where they are installed, with their defaults, categories told.

Every fit is a line of results/tabular.csv as soon as it is done, and is not done again while that line stands; the
tables of results/tabular.md are made of all its lines. `--report` only makes them.
"""

import argparse
import csv
import json
import math
import os
import time
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split

from xpmlp import TabularClassifier, TabularRegressor

MOST_ROWS, MOST_TESTED = 10_000, 20_000
RESULTS = Path(__file__).parent / "results"
FIELDS = ("table", "seed", "model", "error", "log_loss", "cpu_s")
YARDSTICK = "hgb"
EASY = ("kin8nm", "digits", "letter")  # where networks have always been better than trees


# --- Tables ---


def read(folder, name):
    """X, the columns that are categories, y, and whether y holds classes."""
    about, arrays = json.loads((folder / f"{name}.json").read_text()), np.load(folder / f"{name}.npz")
    numbers, categories = arrays["x_num"].astype(float), arrays["x_cat"].astype(float)
    X = np.hstack([numbers, np.where(categories < 0, np.nan, categories)])
    return X, list(range(numbers.shape[1], X.shape[1])), arrays["y"], bool(about["classes"])


def split(y, classes, seed):
    """The rows to train on and those to test."""
    rows, strata = np.arange(len(y)), y if classes else None
    tested = min(round(0.2 * len(y)), MOST_TESTED)
    train, test = train_test_split(rows, test_size=tested, random_state=seed, stratify=strata)
    if len(train) > MOST_ROWS:
        strata = y[train] if classes else None
        train, _ = train_test_split(train, train_size=MOST_ROWS, random_state=seed, stratify=strata)
    return train, test


def framed(X, categories, missing=None):
    """X as a frame whose categories are of pandas' type, or texts with a word for what is missing."""
    import pandas as pd

    frame = pd.DataFrame(X, columns=[f"x{j}" for j in range(X.shape[1])])
    for j in categories:
        texts = frame[f"x{j}"].map("c{:.0f}".format, na_action="ignore").astype(object)
        frame[f"x{j}"] = texts.astype("category") if missing is None else texts.fillna(missing)
    return frame


# --- Models: (categories, classes, seed, threads) to an estimator and what it makes of X ---


def ours(categories, classes, seed):
    """Our defaults."""
    kind = TabularClassifier if classes else TabularRegressor
    return kind(categorical_features=categories, random_state=seed), lambda X: X


def hgb(categories, classes, seed):
    """HistGradientBoosting with its defaults."""
    kind = HistGradientBoostingClassifier if classes else HistGradientBoostingRegressor
    return kind(categorical_features=categories, random_state=seed), lambda X: X


def catboost(categories, classes, seed):
    """CatBoost with its defaults; one thread."""
    import catboost as library

    kind = library.CatBoostClassifier if classes else library.CatBoostRegressor
    made = kind(cat_features=categories, random_seed=seed, verbose=False, allow_writing_files=False, thread_count=1)
    return made, lambda X: framed(X, categories, missing="missing")


def lightgbm(categories, classes, seed):
    """LightGBM with its defaults; one thread."""
    import lightgbm as library

    kind = library.LGBMClassifier if classes else library.LGBMRegressor
    return kind(random_state=seed, verbose=-1, n_jobs=1), lambda X: framed(X, categories)


def xgboost(categories, classes, seed):
    """XGBoost with its defaults; one thread."""
    import xgboost as library

    kind = library.XGBClassifier if classes else library.XGBRegressor
    return kind(random_state=seed, n_jobs=1, enable_categorical=True), lambda X: framed(X, categories)


MODELS = {"xpmlp": ours, "hgb": hgb, "catboost": catboost, "lightgbm": lightgbm, "xgboost": xgboost}


def measure(make, X, y, categories, classes, train, test, seed):
    """Fit and judge: error, log loss ("" of numbers) and the CPU time of the fit."""
    model, view = make(categories, classes, seed)
    rows = view(X)
    known, asked = (rows.iloc[train], rows.iloc[test]) if hasattr(rows, "iloc") else (rows[train], rows[test])
    began = time.process_time()
    model.fit(known, y[train])
    spent = time.process_time() - began
    yhat = np.asarray(model.predict(asked)).reshape(len(test))
    if classes:
        return float(np.mean(yhat != y[test])), float(log_loss(y[test], model.predict_proba(asked))), spent
    return float(np.sqrt(np.mean((yhat - y[test]) ** 2)) / np.std(y[test])), "", spent


# --- Report ---


def geometric(values):
    """The geometric mean of those that are numbers."""
    known = [value for value in values if not math.isnan(value)]
    return float(np.exp(np.mean(np.log(known)))) if known else float("nan")


def median(values):
    """The median of those that are numbers."""
    known = [value for value in values if not math.isnan(value)]
    return float(np.median(known)) if known else float("nan")


def shown(value, digits):
    """A number in so many digits, or a dash."""
    return f"{value:.{digits}f}" if not math.isnan(value) else "-"


def report(lines):
    """The tables, in Markdown."""
    found = {(line["table"], line["seed"], line["model"]): line for line in lines}
    tables = sorted({table for table, _, _ in found})
    models = [model for model in MODELS if any(key[2] == model for key in found)]
    rivals = [model for model in models if model != YARDSTICK]
    hard = [name for name in tables if name not in EASY]
    groups = {f"all {len(tables)}": tables, "without " + ", ".join(EASY): hard}

    def ratio(model, what, table):
        """Of its figure to the yardstick's, over the seeds that both have."""
        both = [
            (line, found[table, seed, YARDSTICK])
            for (name, seed, which), line in found.items()
            if (name, which) == (table, model) and line[what] != "" and (table, seed, YARDSTICK) in found
        ]
        return geometric([float(line[what]) / float(beside[what]) for line, beside in both])

    def seconds(model, _, table):
        return median([float(line["cpu_s"]) for key, line in found.items() if (key[0], key[2]) == (table, model)])

    def table_of(title, columns, figure, what, mean, digits):
        yield from ("", f"## {title}", "", f"| table | {' | '.join(columns)} |", "|---|" + "---|" * len(columns))
        of = {(model, name): figure(model, what, name) for model in columns for name in tables}
        for name in tables:
            yield f"| {name} | " + " | ".join(shown(of[model, name], digits) for model in columns) + " |"
        for group, names in groups.items():
            means = (mean([of[model, name] for name in names]) for model in columns)
            yield f"| **{group}** | " + " | ".join(shown(value, digits) for value in means) + " |"

    seeds = {model: ", ".join(sorted({key[1] for key in found if key[2] == model})) for model in models}
    text = [
        "# Tables: TabularClassifier and TabularRegressor beside gradient boosting",
        "",
        "All with their defaults, one thread, the same splits (benchmarks/tabular.py). Error is 1 - accuracy, or RMSE",
        "over sd(y). Errors and log losses are ratios to those of scikit-learn's HistGradientBoosting (hgb): below 1",
        "is better; geometric means, over seeds and tables. Seconds are medians of the CPU time of a fit.",
        "Seeds: " + "; ".join(f"{model} {numbers}" for model, numbers in seeds.items()) + ".",
        *table_of("Error, ratio to hgb", rivals, ratio, "error", geometric, 3),
        *table_of("Log loss, ratio to hgb", rivals, ratio, "log_loss", geometric, 3),
        *table_of("CPU seconds of a fit", models, seconds, "", median, 1),
    ]
    return "\n".join(text) + "\n"


def main():
    """Fit what is missing, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--names", default="")
    parser.add_argument("--models", default="hgb,xpmlp")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder of tabular.csv and tabular.md")
    parser.add_argument("--report", action="store_true")
    given = parser.parse_args()
    figures = given.results / "tabular.csv"
    lines = list(csv.DictReader(figures.open(newline=""))) if figures.exists() else []
    done = {(line["table"], line["seed"], line["model"]) for line in lines}
    names = [] if given.report else given.names.split(",") if given.names else []
    if not given.report and not names:
        names = sorted(path.stem for path in given.folder.glob("*.npz"))
    for seed in given.seeds.split(","):
        for name in names:
            X, categories, y, classes = read(given.folder, name)
            train, test = split(y, classes, int(seed))
            for model in given.models.split(","):
                if (name, seed, model) in done:
                    continue
                found = measure(MODELS[model], X, y, categories, classes, train, test, int(seed))
                line = dict(zip(FIELDS, map(str, (name, seed, model, *found)), strict=True))
                lines.append(line)
                print(*line.values(), flush=True)
                with figures.open("w", newline="") as file:
                    writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
                    writer.writeheader()
                    writer.writerows(lines)
    text = report(lines)
    (given.results / "tabular.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
