"""The benchmarks run and write what they say. No clock is asserted."""

import csv
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
EVERY_CASE = """
from candidates import AbsentError
from cases import SECTIONS, prepare
done = 0
for name, section in SECTIONS.items():
    for case in section.cases:
        for who in section.candidates:
            try:
                prepare(name, case, who, True)()
                done += 1
            except AbsentError as absence:
                print("absent:", name, case, who, absence)
print(done)
"""


@pytest.fixture
def report(monkeypatch):
    # Not imported by name: `report` is a name of this folder's alone, and stays out of sys.modules.
    spec = importlib.util.spec_from_file_location("benchmark_report", BENCHMARKS / "report.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(*arguments):
    command = [sys.executable, str(BENCHMARKS / "cpu.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_what_handing_a_gradient_over_costs_is_measured():
    command = [sys.executable, str(BENCHMARKS / "processes.py"), "--worker", "seam", "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == 3
    assert all(ratio > 0.0 for of_case in found.values() for ratio in of_case["ratios"].values())


def test_a_quick_run_writes_its_table_its_figures_and_its_chart(tmp_path):
    done = run(
        *("--quick", "--repeats", 1, "--threads", 1, "--out", tmp_path, "--workloads", "circles", "images"),
        *("--candidates", "floor", "core", "xpmlp", "scikit-learn"),
        *("--sections", "fits", "row", "stopping", "many", "memory", "memory above X", "linear", "threads", "tables"),
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "cpu.txt").read_text().strip() == done.stdout.strip()
    for picture in ("cpu.png", "cpu-cases.png"):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
    with open(tmp_path / "cpu.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    sections = {
        "environment",
        "fits",
        "ratios",
        "compilation",
        "many",
        "memory",
        "memory above X",
        "row",
        "linear",
        "stopping",
        "threads",
        "tables",
    }
    assert {row["section"] for row in rows} == sections
    fits = {(row["case"], row["what"]) for row in rows if row["section"] == "fits"}
    assert fits == {
        (workload, candidate)
        for workload in ("circles", "images")
        for candidate in ("floor: bare products", "xpmlp core, NumPy", "xpmlp estimator, NumPy", "scikit-learn")
    }
    assert all(float(row["median"]) > 0 for row in rows if row["section"] in ("fits", "ratios", "memory", "stopping"))
    assert {row["what"] for row in rows if row["section"] == "stopping"} >= {"scikit-learn", "xpmlp", "floor"}
    assert not any(row["mark"] for row in rows)  # a quick run is held against no target
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_every_candidate_does_the_work_of_every_case():
    # In a process of its own: JAX is told to compute in float64 there.
    done = subprocess.run(
        [sys.executable, "-c", EVERY_CASE], cwd=BENCHMARKS, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    absent = [line for line in done.stdout.splitlines() if line.startswith("absent")]
    installed = {name for name in ("numba", "torch", "jax") if importlib.util.find_spec(name)}
    assert not any(name in line for line in absent for name in installed), absent
    assert int(done.stdout.splitlines()[-1]) >= 90


def test_a_candidate_whose_process_ends_is_told_of(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    spec = importlib.util.spec_from_file_location("benchmark_workers", BENCHMARKS / "workers.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "__file__", "/dev/null")  # a script that ends at once
    worker = module.Worker(section="row", candidate="floor", quick=True, threads=1, cores=[0])
    worker.process.wait()
    assert "failed" in worker.ask(case="20-64-2, f32")
    worker.close()


def test_the_table_of_the_readme_is_that_of_the_figures():
    spec = importlib.util.spec_from_file_location("benchmark_readme", BENCHMARKS / "readme.py")
    readme = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(readme)
    text = readme.README.read_text(encoding="utf-8")
    assert readme.table() in text, "run `python benchmarks/readme.py`"
    assert readme.written(text) == text


def test_an_unknown_candidate_is_refused_with_the_list_of_them():
    done = run("--candidates", "tensorflow")
    assert done.returncode == 2
    assert "'tensorflow'" in done.stderr
    assert "scikit-learn" in done.stderr


def test_absent_and_broken_candidates_are_named_and_a_broken_one_fails_the_run(report):
    found = {1: {"circles": {"core": {"failed": "ValueError: no"}, "jax": {"absent": "No module named 'jax'"}}}}
    page = report.Report({"core": "xpmlp core", "jax": "plain JAX"}, clock=0, marks=True)
    report.report_fits(page, found)
    text = "\n".join(page.lines)
    assert "absent: plain JAX (No module named 'jax')" in text
    assert "FAILED: xpmlp core (ValueError: no)" in text
    assert page.failed == ["core"]


def test_a_ratio_is_taken_within_each_round_and_held_against_its_target(report):
    def fit(*seconds):
        return {"times": [(s, s) for s in seconds], "first": (9.0, 9.0), "second": (1.0, 1.0), "value": 0.5}

    # The second round is ten times slower for both.
    found = {1: {"digits": {"xpmlp": fit(1.0, 10.0, 1.0), "scikit-learn": fit(2.5, 25.0, 2.5)}}}
    page = report.Report({"xpmlp": "ours", "scikit-learn": "scikit-learn"}, clock=0, marks=True)
    report.report_fits(page, found)
    (row,) = (row for row in page.rows if row["section"] == "ratios")
    assert (row["what"], row["median"], row["low"], row["high"]) == ("scikit-learn / xpmlp", "2.5", "2.5", "2.5")
    assert (str(row["target"]), row["mark"]) == (">= 2.2", "+")
    assert page.missed == []


@pytest.mark.parametrize(
    ("bounds", "value", "mark"),
    [
        ({"at_least": 2.0}, 2.0, "+"),
        ({"at_least": 2.0}, 1.99, "-"),
        ({"at_least": 2.0, "aim": 3.0}, 3.0, "++"),
        ({"at_most": 1.1}, 1.1, "+"),
        ({"at_most": 1.1}, 1.11, "-"),
        ({"at_least": 0.9, "at_most": 1.1}, 0.8, "-"),
    ],
)
def test_marks(report, bounds, value, mark):
    assert report.Goal(**bounds).mark(value) == mark


def test_the_benchmark_of_tables_keeps_every_fit_and_does_none_twice(tmp_path):
    rng = np.random.default_rng(0)
    for name, y, classes in (
        ("colours", rng.integers(0, 3, 60), ["a", "b", "c"]),
        ("lengths", rng.normal(size=60), None),
    ):
        np.savez(tmp_path / name, x_num=rng.normal(size=(60, 2)), x_cat=rng.integers(-1, 3, (60, 1)), y=y)
        (tmp_path / f"{name}.json").write_text(json.dumps({"classes": classes}))
    command = [sys.executable, str(BENCHMARKS / "tabular.py"), str(tmp_path), "--seeds", "0", "--models", "hgb"]
    first = subprocess.run([*command, "--results", str(tmp_path)], capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr
    with open(tmp_path / "tabular.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["table"], row["model"]) for row in rows] == [("colours", "hgb"), ("lengths", "hgb")]
    assert 0.0 <= float(rows[0]["error"]) <= 1.0
    assert float(rows[0]["log_loss"]) > 0.0
    assert rows[1]["log_loss"] == ""
    # A figure that stands is believed: what is worse by half shows as 1.5, and nothing is fitted again.
    rows += [row | {"model": "xpmlp", "error": str(1.5 * float(row["error"]))} for row in rows]
    with open(tmp_path / "tabular.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    command[-1] = "hgb,xpmlp"
    again = subprocess.run([*command, "--results", str(tmp_path)], capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert "| **all 2** | 1.500 |" in (tmp_path / "tabular.md").read_text()
    assert again.stdout.startswith("# Tables")
