"""TabularClassifier and TabularRegressor beside HistGradientBoosting, on tables in a folder, one split per seed.

    python benchmarks/tabular.py FOLDER [--seeds 0,1,2] [--names adult,digits] [--rivals FIGURES.json] [--out FILE.md]

FOLDER holds NAME.npz (x_num, x_cat, y) and NAME.json ("classes", None for numbers). 20 % of the rows are the test part,
at most 10,000 are trained on. Error is 1 - accuracy, or RMSE / standard deviation of the test part; time is that of the
process, with one BLAS thread. FIGURES.json has "NAME/SEED": {"err": ..., "ll": ...} of HistGradientBoosting with its
defaults on the same splits; without it, it is fitted here.
"""

import argparse
import json
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


def judge(model, X, y, classes):
    """Error and log loss."""
    if classes:
        return {"err": float(np.mean(model.predict(X) != y)), "ll": log_loss(y, model.predict_proba(X))}
    return {"err": float(np.sqrt(np.mean((model.predict(X) - y) ** 2)) / np.std(y))}


def rival(categories, classes, seed):
    """HistGradientBoosting with its defaults."""
    kind = HistGradientBoostingClassifier if classes else HistGradientBoostingRegressor
    return kind(categorical_features=categories, random_state=seed)


def geometric(values):
    """The geometric mean."""
    return float(np.exp(np.mean(np.log(list(values))))) if values else float("nan")


def main():
    """Fit, judge, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--names", default="")
    parser.add_argument("--rivals", type=Path)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    known = json.loads(given.rivals.read_text()) if given.rivals else {}
    names = given.names.split(",") if given.names else sorted(path.stem for path in given.folder.glob("*.npz"))
    lines = [
        "| table | seed | error | ratio to HGB | log loss | ratio to HGB | CPU s |",
        "|---|---|---|---|---|---|---|",
    ]
    ratios = {"err": [], "ll": []}
    for name in names:
        X, categories, y, classes = read(given.folder, name)
        for seed in map(int, given.seeds.split(",")):
            train, test = split(y, classes, seed)
            kind = TabularClassifier if classes else TabularRegressor
            model, began = kind(categorical_features=categories, random_state=seed), time.process_time()
            model.fit(X[train], y[train])
            spent, found = time.process_time() - began, judge(model, X[test], y[test], classes)
            theirs = known.get(f"{name}/{seed}")
            if theirs is None:
                theirs = judge(rival(categories, classes, seed).fit(X[train], y[train]), X[test], y[test], classes)
            row = {what: found[what] / theirs[what] for what in found}
            for what, ratio in row.items():
                ratios[what].append(ratio)
            log = f"{found['ll']:.4f} | {row['ll']:.3f}" if classes else "- | -"
            lines.append(f"| {name} | {seed} | {found['err']:.4f} | {row['err']:.3f} | {log} | {spent:.1f} |")
            print(lines[-1], flush=True)
            means = f"| geometric mean | | | {geometric(ratios['err']):.3f} | | {geometric(ratios['ll']):.3f} | |"
            if given.out:
                given.out.write_text("\n".join([*lines, means]) + "\n")
    print(means)


if __name__ == "__main__":
    main()
