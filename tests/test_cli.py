"""The command line."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xpmlp
import xpmlp.cli.machine
import xpmlp.cli.models
from xpmlp.backends import BACKENDS, Probe, State
from xpmlp.cli import main
from xpmlp.cli.machine import table
from xpmlp.io import storage
from xpmlp.network.parts import part

CUPY = "pip install 'cupy-cuda13x[ctk]>=14'"
COMMAND_NAMES = ("backends", "demo", "train", "predict", "inspect", "export", "check-gradients", "bench")


def test_backends_prints_a_table(capsys):
    assert main(["backends"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["backend", "version", "state", "devices"]
    assert [line.split()[0] for line in lines[2:] if not line.startswith(" ")] == list(BACKENDS)


def test_backends_prints_json_for_programs(capsys):
    assert main(["backends", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == list(BACKENDS)
    assert found["numpy"]["state"] == "ok"
    assert found["numpy"]["devices"] == ["cpu"]
    assert set(found["numpy"]) == {"state", "version", "devices", "message", "hint"}


def test_the_table_fits_80_columns_and_says_what_to_do():
    found = {
        "numpy": Probe(State.OK, "2.4.6", ("cpu",), "NumPy 2.4.6 works on cpu", ""),
        "cupy": Probe(
            State.LIBRARIES_MISSING, "14.2.0", ("cuda:0",), "one word " * 20, "pip install 'cupy-cuda13x[ctk]>=14'"
        ),
        "array_api_strict": Probe(State.OK, "2.6.1", tuple(f"device{i}" for i in range(9)), "", ""),
        "jax": Probe(State.NOT_INSTALLED, None, (), "JAX is not installed", "pip install 'jax>=0.6'"),
    }
    lines = table(found).splitlines()
    assert max(map(len, lines)) <= 80
    assert "numpy             2.4.6    ok                 cpu" in lines
    assert "jax               -        not installed      -" in lines
    assert f"    What to do: {CUPY}." in lines


def test_without_a_command_it_helps(capsys):
    assert main([]) == 0
    assert "usage: python -m xpmlp" in capsys.readouterr().out


def test_a_command_that_does_not_exist_has_status_2(capsys):
    with pytest.raises(SystemExit) as left:
        main(["frontends"])
    assert left.value.code == 2
    assert "invalid choice: 'frontends'" in capsys.readouterr().err


def test_it_runs_as_a_module():
    path = os.pathsep.join(filter(None, [str(Path(xpmlp.__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "xpmlp", "--help"]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=True)
    assert "backends" in done.stdout


# --- train, predict, inspect, export, check-gradients: on tables made here ---


def write_csv(path: Path, columns: dict[str, Any], delimiter: str = ",") -> Path:
    rows = zip(*columns.values(), strict=True)
    lines = [delimiter.join(columns), *(delimiter.join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def table_of(n: int = 300, seed: int = 0) -> dict[str, Any]:
    """Numbers, gaps, categories, a key; a class and an amount that depend on some of them."""
    rng = np.random.default_rng(seed)
    width, height = rng.normal(50.0, 5.0, n), rng.normal(0.002, 0.001, n)
    colour = rng.choice(["red", "green", "blue"], n)
    amount = 1000.0 + 40.0 * (width - 50.0) + 100.0 * (colour == "red")
    gaps = [f"{h:.6f}" if i % 7 else "NA" for i, h in enumerate(height)]
    return {
        "key": [f"row {i}" for i in range(n)],
        "width": [f"{w:.3f}" for w in width],
        "height": gaps,
        "colour": colour.tolist(),
        "constant": ["x"] * n,
        "amount": [f"{a:.3f}" for a in amount],
        "size": np.where(width + 3 * (colour == "red") > 51, "large", "small").tolist(),
    }


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    return tmp_path


@pytest.fixture
def here(folder):
    pytest.importorskip("pandas", reason="pip install pandas pyarrow")
    write_csv(folder / "data.csv", table_of())
    return folder


def run(*arguments: str) -> int:
    return main(list(arguments))


def result_of(capsys) -> dict[str, Any]:
    return json.loads(capsys.readouterr().out)


def flat(text: str) -> str:
    return " ".join(text.split())


QUICK = ("--epochs", "2", "--hidden", "4", "--members", "2", "--no-refit")
SMALL = ("--hidden", "16", "--members", "2", "--batch-size", "32", "--epochs", "60", "--no-refit")


def test_a_classifier_is_trained_and_says_what_it_did(here, capsys):
    assert run("train", "data.csv", "--target", "size", "--drop", "amount", *SMALL, "--report", "report.html") == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "\033" not in out
    for text in (
        "task      classification: its values are text",
        "missing   in height: taken for the median, and an input says where",
        "always small",
        "a linear model",
        "left out key (text with",
        "'x' in every row",
        "amount (as asked for)",
        "model   model.safetensors",
    ):
        assert text in flat(out) or text in out
    page = (here / "report.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 3  # loss, calibration, what the answers depend on
    assert re.findall(r'(?:src|href)="(?!#)', page) == []  # self-contained
    assert len(re.findall(r' id="([^"]+)"', page)) == len(set(re.findall(r' id="([^"]+)"', page)))
    assert re.findall(r"(?:fill|stroke): #0[1-5]", page) == []  # every colour has a name of the style sheet
    assert "Which class is taken for which" in page


def test_a_regression_answers_in_the_units_of_the_target(here, capsys):
    # amount is linear in width: R2 seen 0.99
    command = ("train", "data.csv", "--target", "amount", "--drop", "size", *SMALL, "--json", "--report", "r.html")
    assert run(*command) == 0
    summary = result_of(capsys)
    assert summary["task"] == "regression"
    assert summary["scores"]["r2"] > 0.9
    assert summary["scores"]["rmse"] < 0.4 * summary["baseline"]["rmse"]
    assert run("predict", "model.safetensors", "data.csv") == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == "amount"
    assert len(lines) == 301
    assert 900 < np.mean([float(line) for line in lines[1:]]) < 1200
    assert "score: 300 rows have the answer: R2" in err
    assert (here / "r.html").read_text(encoding="utf-8").count("<svg") == 3


def test_a_page_takes_names_of_all_letters(here, capsys):
    write_csv(here / "t.csv", {"$a$": range(20), "长": [k % 3 for k in range(20)], "<b>": [k % 7 for k in range(20)]})
    assert run("train", "t.csv", "--target", "<b>", "--task", "regression", *QUICK, "--report", "r.html") == 0
    page = (here / "r.html").read_text(encoding="utf-8")
    assert ">$a$</text>" in page
    assert ">长</text>" in page
    assert "<b>" not in page


def test_a_page_without_matplotlib_is_refused_before_the_training(here, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert run("train", "data.csv", "--target", "size", "--report", "r.html") == 1
    assert "--report needs matplotlib; install it with pip install 'matplotlib>=3.9'." in flat(capsys.readouterr().err)
    assert not (here / "model.safetensors").exists()


def test_a_target_far_from_zero_is_not_lost_in_float32(here, capsys):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 400))
    write_csv(here / "far.csv", {"a": a, "b": b, "y": 1e8 + a + b})
    assert run("train", "far.csv", "--target", "y", *SMALL, "--json") == 0
    summary = result_of(capsys)
    assert summary["dtype"] == "float32"
    assert summary["scores"]["r2"] > 0.9  # seen 0.97; float32 knows 1e8 in steps of 8
    assert run("predict", "model.safetensors", "far.csv") == 0
    told = np.array(capsys.readouterr().out.split()[1:], dtype=float)
    assert np.corrcoef(told, a + b)[0, 1] > 0.95


def test_options_are_the_parameters_of_the_estimator(here, capsys):
    given = "--hidden 5,4 --members 3 --epochs 3 --no-refit --batch-size 20 --learning-rate 0.02 --weight-decay 0.5"
    more = "--dropout 0.1 --time-limit 50 --seed 7 --dtype float64 --balanced --patience 9"
    assert run("train", "data.csv", "--target", "size", *given.split(), *more.split()) == 0
    assert "note: --patience is not used any more" in capsys.readouterr().err
    model = xpmlp.load("model.safetensors")
    expected = {"hidden_layer_sizes": (5, 4), "n_members": 3, "max_iter": 3, "refit": False, "batch_size": 20}
    expected |= {"learning_rate_init": 0.02, "weight_decay": 0.5, "dropout": 0.1, "time_limit": 50.0}
    expected |= {"random_state": 7, "dtype": "float64", "class_weight": "balanced"}
    assert {name: model.get_params()[name] for name in expected} == expected
    # What is not said is the estimator's own default.
    assert run("train", "data.csv", "--target", "amount", "--epochs", "1", "--hidden", "4") == 0
    told, usual = xpmlp.load("model.safetensors").get_params(), xpmlp.TabularRegressor().get_params()
    assert {name for name in usual if told[name] != usual[name]} == {"random_state", "hidden_layer_sizes", "max_iter"}


def test_few_amounts_that_are_all_different_are_no_classes(here, capsys):
    write_csv(here / "few.csv", {"a": range(18), "price": range(100, 154, 3)})
    assert run("train", "few.csv", "--target", "price", *QUICK, "--json") == 0
    assert result_of(capsys)["task"] == "regression"


def test_a_class_too_rare_to_train_on_says_what_was_taken_for_classes(here, capsys):
    price = [100] * 40 + [103]
    write_csv(here / "rare.csv", {"a": range(41), "price": price})
    assert run("train", "rare.csv", "--target", "price", "--test-size", "0.6") == 1
    err = flat(capsys.readouterr().err)
    assert "'price' was taken for classes (2 different whole numbers; --task regression if they are amounts)" in err


def test_the_model_file_holds_all_that_predict_needs(here, capsys):
    run("train", "data.csv", "--target", "size", "--drop", "amount", *QUICK)
    new = table_of(20, seed=1)
    for name in ("key", "constant", "amount", "size"):
        new.pop(name)
    new["colour"][0] = "violet"
    new["width"][1] = ""
    write_csv(here / "new.csv", dict(reversed(new.items())), delimiter=";")
    capsys.readouterr()
    assert run("predict", "model.safetensors", "new.csv", "--proba", "--out", "answers.csv") == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "colour: 1 row with what the model has no input for ('violet'): all zeros." in err
    assert "width: 1 missing, none in training" in " ".join(err.split())
    lines = (here / "answers.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "size,p(large),p(small)"
    p = np.array([line.split(",")[1:] for line in lines[1:]], dtype=float)
    assert p.shape == (20, 2)
    np.testing.assert_allclose(p.sum(axis=1), 1.0, atol=1e-6)
    # And anybody can load it
    assert isinstance(xpmlp.load("model.safetensors"), xpmlp.TabularClassifier)


@pytest.mark.parametrize(
    ("known", "others", "score"),
    [
        ("abc", ("apple", "bear", "cat"), None),
        ("abc", ("a", "bear", "c"), "40 of 60 rows have an answer that the model knows; of 1 label it knows nothing"),
        ((1, 2, 3), ("one", "two", "three"), None),
        ((1, 2, 3), (1, 2, 4), "40 of 60 rows have an answer that the model knows; of 1 label it knows nothing"),
        ((1, 2, 3), (1, 2, "x"), "40 of 60 rows have an answer that the model knows; of 1 label it knows nothing"),
        ((1, 2, 3), (1, 2, 3), "60 rows have the answer: right answers 100.0%"),
    ],
)
def test_labels_are_right_only_if_they_are_the_same(here, capsys, known, others, score):
    kind = np.arange(60) % 3
    x = kind + np.linspace(-0.1, 0.1, 60)
    write_csv(here / "known.csv", {"x": x, "y": [known[k] for k in kind]})
    write_csv(here / "others.csv", {"x": x, "y": [others[k] for k in kind]})
    run("train", "known.csv", "--target", "y", *SMALL, "--batch-size", "16")
    capsys.readouterr()
    assert run("predict", "model.safetensors", "others.csv") == 0
    told = " ".join(capsys.readouterr().err.split())
    assert (score or "score: none: the model knows none of the 3 labels in 60 rows") in told
    if score is None:
        assert "accuracy" not in told
    assert run("check-gradients", "model.safetensors", "others.csv") == (0 if score else 1)


def test_parquet_npz_and_csv_are_the_same_table(here, capsys):
    pa = pytest.importorskip("pyarrow", reason="pip install pyarrow")
    import pyarrow.parquet as pq

    columns = table_of()
    numbers = ("width", "height", "amount")
    typed = {
        name: [None if v == "NA" else float(v) for v in values] if name in numbers else values
        for name, values in columns.items()
    }
    pq.write_table(pa.table(typed), "data.parquet")
    arrays = {
        name: np.array([np.nan if v is None else v for v in values]) if name in numbers else np.array(values)
        for name, values in typed.items()
    }
    np.savez("data.npz", **arrays)
    answers = {}
    for file in ("data.csv", "data.parquet", "data.npz"):
        assert run("train", file, "--target", "size", "--drop", "amount", *QUICK, "--json") == 0
        answers[file] = result_of(capsys)["scores"]
    assert answers["data.csv"] == answers["data.parquet"] == answers["data.npz"]


def test_without_a_reader_it_says_what_to_install(here, monkeypatch, capsys):
    for name in ("pandas", "pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    (here / "data.parquet").write_bytes(b"PAR1")
    for file in ("data.parquet", "data.csv"):
        assert run("train", file, "--target", "size") == 1
        assert "pip install 'pandas>=2.2.2' 'pyarrow>=17'" in flat(capsys.readouterr().err)


def test_whole_numbers_are_classes_unless_somebody_says_otherwise(here, capsys):
    rng = np.random.default_rng(0)
    grade = rng.integers(1, 6, 200)
    write_csv(here / "grades.csv", {"x": grade + rng.normal(size=200), "grade": grade})
    assert run("train", "grades.csv", "--target", "grade", *QUICK, "--json") == 0
    assert result_of(capsys)["task"] == "classification"
    assert xpmlp.load("model.safetensors").classes_.tolist() == [1, 2, 3, 4, 5]
    assert run("train", "grades.csv", "--target", "grade", *QUICK, "--json", "--task", "regression") == 0
    assert result_of(capsys)["task"] == "regression"


def test_german_tables_are_read(here, capsys):
    columns = table_of()
    for name in ("width", "height", "amount"):
        columns[name] = [value.replace(".", ",") for value in columns[name]]
    write_csv(here / "german.csv", columns, delimiter=";")
    scores = []
    for file in ("data.csv", "german.csv"):
        assert run("train", file, "--target", "amount", "--drop", "size", *QUICK, "--json") == 0
        scores.append(result_of(capsys)["scores"])
    assert scores[0] == scores[1]


def test_inspect_tells_what_is_in_the_file(here, capsys):
    run("train", "data.csv", "--target", "size", "--drop", "amount", *QUICK, "--hidden", "8")
    capsys.readouterr()
    assert run("inspect", "model.safetensors") == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    for text in (
        "TabularClassifier",
        "2 members that share",
        "classes large, small",
        "column colour: blue, green, red",
        "score right",
    ):
        assert text in flat(out)
    assert run("inspect", "model.safetensors", "--json") == 0
    found = result_of(capsys)
    assert found["layers"][0]["W"] == [2 * 8 + 4, 8]  # 8 inputs for each of two numbers
    assert (
        found["network"]
        == "2 numbers by their piecewise-linear code, 8 inputs each; 2 members that share their weights"
    )
    assert found["inputs"] == [
        "width",
        "height",
        "height is missing",
        "colour = blue",
        "colour = green",
        "colour = red",
    ]
    xpmlp.MLP([2, 3, 1], random_state=0).save("net.safetensors")
    assert run("inspect", "net.safetensors") == 0
    assert "MLP, 13 parameters" in capsys.readouterr().out


@pytest.mark.parametrize("target", ["size", "amount"])
def test_the_onnx_model_takes_the_columns_of_the_table(here, capsys, target):
    onnxruntime = pytest.importorskip("onnxruntime", reason="pip install onnx onnxruntime")
    other = {"size": "amount", "amount": "size"}[target]
    run("train", "data.csv", "--target", target, "--drop", other, *QUICK, "--dtype", "float64")
    capsys.readouterr()
    assert run("export", "model.safetensors", "--onnx", "model.onnx", "--dtype", "float64", "--json") == 0
    assert result_of(capsys)["inputs"] == ["width", "height", "colour"]
    assert run("export", "model.safetensors", "--onnx", "model.onnx", "--dtype", "float64") == 0
    assert "height float64, NaN for a gap" in flat(capsys.readouterr().out)
    assert run("predict", "model.safetensors", "data.csv", "--json", *(["--proba"] if target == "size" else [])) == 0
    ours = result_of(capsys)["columns"]
    columns = table_of()
    given = {
        name: [[np.nan if cell == "NA" else float(cell)] for cell in columns[name]] for name in ("width", "height")
    }
    given = {name: np.asarray(cells) for name, cells in given.items()}
    given["colour"] = np.asarray(columns["colour"], dtype=object)[:, None]
    theirs = onnxruntime.InferenceSession("model.onnx").run(None, given)
    if target == "size":
        np.testing.assert_allclose(theirs[1][:, 1], ours["p(small)"], atol=1e-6)  # the preparation is of float32
    else:
        np.testing.assert_allclose(theirs[0][:, 0], ours["amount"], rtol=1e-6)


def test_check_gradients_runs_on_a_model_file(here, capsys):
    run("train", "data.csv", "--target", "size", "--drop", "amount", *QUICK)
    capsys.readouterr()
    assert run("check-gradients", "model.safetensors", "data.csv") == 0
    assert "32 samples" in capsys.readouterr().out
    xpmlp.MLP([2, 3, 3], loss="cross_entropy", n_networks=2, random_state=0).save("net.safetensors")
    assert run("check-gradients", "net.safetensors", "--json") == 0
    found = result_of(capsys)
    assert found["ok"] is True
    assert [row["parameter"] for row in found["rows"]] == ["W[1]", "b[1]", "W[2]", "b[2]"]


def test_a_model_of_python_predicts_for_a_table_too(here, capsys):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 2))
    xpmlp.MLPClassifier(4, solver="lbfgs", random_state=0).fit(X, X[:, 0] > 0).save("clf.safetensors")
    write_csv(here / "x.csv", {"a": X[:, 0], "b": X[:, 1], "c": X[:, 0]})
    assert run("predict", "clf.safetensors", "x.csv", "--drop", "c", "--json") == 0
    assert np.mean(np.array(result_of(capsys)["columns"]["prediction"]) == (X[:, 0] > 0)) > 0.95
    assert run("predict", "clf.safetensors", "x.csv") == 1
    assert "takes 2 columns" in capsys.readouterr().err


def test_a_network_with_a_part_before_it_takes_as_many_columns_as_it_has_inputs(here, capsys):
    X = np.random.default_rng(0).normal(size=(60, 2))
    code = part("piecewise", edges=[[-1.0, 0.0, 1.0]], width=3)  # three numbers of the first one
    net = xpmlp.MLP([2, 3, 1], parts={0: [code]}, random_state=0)
    net.save("net.safetensors")
    write_csv(here / "x.csv", {"a": X[:, 0], "b": X[:, 1]})
    assert run("predict", "net.safetensors", "x.csv", "--json") == 0
    (found,) = result_of(capsys)["columns"].values()
    np.testing.assert_allclose(found, net.predict(X)[:, 0], rtol=1e-5)


def test_the_demonstrations_learn(folder, capsys):
    assert run("demo", "circles", "--json") == 0
    assert result_of(capsys)["after"] > 0.98
    assert run("demo", "digits") == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    assert "had never seen" in out
    assert run("demo", "circles") == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_bench_compares(folder, monkeypatch, capsys):
    monkeypatch.setattr(xpmlp.cli.machine, "ROWS", 500)
    assert run("bench", "--backend", "numpy", "--seconds", "0.01", "--json") == 0
    results = result_of(capsys)["results"]
    assert [it["dtype"] for it in results] == ["float32", "float64"]
    assert all(it["samples_per_second"] > 0 for it in results)


def test_colour_is_for_who_wants_it(folder, monkeypatch, capsys):
    run("backends")
    plain = capsys.readouterr().out
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    run("backends")
    colour = capsys.readouterr().out
    assert "\033[32mok" in colour
    assert re.sub(r"\033\[[0-9;]*m", "", colour) == plain
    monkeypatch.setenv("NO_COLOR", "1")
    run("backends")
    assert capsys.readouterr().out == plain


def test_a_backend_that_cannot_run_falls_back_or_fails(here, capsys):
    if "cupy" in xpmlp.available_backends():
        pytest.skip("CuPy works here")
    command = ["train", "data.csv", "--target", "size", *QUICK, "--backend", "cupy", "--json"]
    assert run(*command) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["backend"] == "numpy"
    assert err.count("warning:") >= 1
    assert ".py:" not in err
    assert run(*command, "--fallback", "error") == 1
    assert "error:" in capsys.readouterr().err


BAD_FILES = {
    "empty.csv": b"",
    "header.csv": b"a,b,y\n",
    "ragged.csv": b"a,y\n1,2\n1,2,3\n",
    "noise.csv": bytes(range(1, 256)) * 9,
    "zeros.csv": b"a\0,y\n",
    "open.csv": b'a,y\n1,2\n"1,2\n1,2\n',
    "short.csv": b"a,b,y\n1,2,3\n1,2\n",
    "quoted.csv": b'# made by hand\na,y\n"one\ntwo",2\n\n1,2,3\n',
    "bare.csv": b"1,2,3\n4,5,6\n",
    "few.csv": b"a,y\n1,2.5\n2,3.5\n",
    "same.csv": b"a,y\n" + b"1,x\n2,x\n" * 20,
    "unknown.csv": b"a,y\n" + b"1,\n2,?\n" * 20,
    "names.csv": b"a,y\n" + b"".join(b"%d,name %d\n" % (i, i) for i in range(50)),
    "nothing.csv": b"a,y\n" + b"1,2.5\n1,3.5\n" * 20,
    "infinite.csv": b"a,y\n" + b"1,2.5\ninf,3.5\n" * 20,
    "bad.npz": b"PK no zip",
    "bad.parquet": b"PAR1 no parquet",
    "table.xlsx": b"PK",
    "model.safetensors": b"no model",
}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train none.csv --target y", "No such file or directory: 'none.csv'"),
        ("train . --target y", ". is a folder; a table is a file."),
        ("train empty.csv --target y", "empty.csv is empty."),
        ("train header.csv --target y", "header.csv holds no rows."),
        ("train ragged.csv --target y", "ragged.csv, line 3: 3 cells, where the header has 2."),
        ("train noise.csv --target y", "noise.csv is no text: byte 127 is none of UTF-8"),
        ("train data.csv --target size --encoding ascii-8", "there is no encoding 'ascii-8'"),
        ("train noise.csv --target y --encoding utf-8", "noise.csv is no utf-8: byte 127 is not."),
        ("train zeros.csv --target y", "zero bytes"),
        ("train open.csv --target y", "open.csv, line 3: a cell begins with a quote that is never closed."),
        ("train short.csv --target y", "short.csv, line 3: 2 cells, where the header has 3."),
        ("train quoted.csv --target y", "quoted.csv, line 6: 3 cells, where the header has 2."),
        (
            "train bare.csv --target y",
            "the first line must name the columns; it holds 1, 2, 3. Try --no-header, or --header if",
        ),
        ("train few.csv --target y", "few.csv must have at least 10 rows with a target; it has 2."),
        ("train same.csv --target y", "there is nothing to learn: the target 'y' is x in every row."),
        ("train unknown.csv --target y", "the target 'y' is missing in every row."),
        ("train names.csv --target y", "has 50 classes in 50 rows"),
        (
            "train nothing.csv --target y",
            "nothing.csv: no column of these 40 rows is left to learn from (a: 1 in every row).",
        ),
        ("train infinite.csv --target y", "infinite.csv: column 'a' must be finite; it holds infinity in line 3."),
        ("train bad.npz --target y", "bad.npz is no npz file of arrays, as its name says."),
        ("train table.xlsx --target y", "table.xlsx is no spreadsheet that can be read; save it as CSV."),
        ("train data.csv --target Size", "has no column 'Size'; did you mean 'size'?"),
        ("train data.csv --target z", "Its columns: key, width, height, colour, constant, amount, size."),
        ("train data.csv --target size --task regression", "regression needs a target of numbers; 'size' has"),
        ("train data.csv --target amount --task classification", "classification needs classes; 'amount' has"),
        ("train data.csv --target size --drop nose", "has no column 'nose'"),
        ("train data.csv --target size --out no/where/m.safetensors", "does not exist"),
        ("train data.csv --target size --out .", "it is a folder"),
        ("train data.csv --target size --test-size 1", "--test-size must lie between 0 and 0.9; got 1."),
        ("train data.csv --target size --epochs 0", "--epochs must be at least 1; got 0."),
        ("train data.csv --target size --activation relu", "--activation is no option any more: the hidden units of"),
        ("train data.csv --target size --l2 0.1", "whose strength is --weight-decay."),
        ("train data.csv --target size --members 0", "--members must be at least 1; got 0."),
        ("train data.csv --target size --time-limit 0", "--time-limit must be above 0 seconds; got 0."),
        ("train data.csv --target size --learning-rate -1", "learning_rate_init"),
        ("train data.csv --target amount --balanced", "--balanced weighs classes, and this is a regression."),
        ("predict model.safetensors data.csv", "model.safetensors cannot be loaded"),
        ("predict none.safetensors data.csv", "No such file or directory"),
        ("inspect data.csv", "data.csv cannot be loaded"),
        ("bench --seconds 0", "--seconds must be above 0"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(here, capsys, arguments, message):
    for name, content in BAD_FILES.items():
        (here / name).write_bytes(content)
    before = sorted(path.name for path in here.iterdir())
    assert run(*arguments.split()) == 1
    err = capsys.readouterr().err
    assert message in " ".join(err.split())
    assert "Traceback" not in err
    assert max(map(len, err.splitlines())) <= 80 or "'" in err  # a path is not cut
    assert sorted(path.name for path in here.iterdir()) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": None}, "new.csv: the table must have the columns of the training; 'width' is not there."),
        ({"width": "wide"}, "new.csv: column 'width' must hold numbers, as in training; it has 'wide' in line 2"),
        ({"width": "inf"}, "new.csv: column 'width' must be finite; it holds infinity in line 2."),
    ],
)
def test_a_table_that_does_not_fit_the_model_is_refused(here, capsys, change, message):
    run("train", "data.csv", "--target", "size", "--drop", "amount", *QUICK)
    columns = table_of(12)
    for name, value in change.items():
        if value is None:
            del columns[name]
        else:
            columns[name][:7] = [value] * 7
    write_csv(here / "new.csv", columns)
    capsys.readouterr()
    assert run("predict", "model.safetensors", "new.csv") == 1
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    "arguments",
    [
        "train data.csv",
        "train data.csv --target size --hidden 3,x",
        "train data.csv --target size --backend cupid",
        "train data.csv --target size --delimiter ;;",
        "demo squares",
        "export model.safetensors",
    ],
)
def test_a_wrong_command_line_has_status_2(folder, capsys, arguments):
    with pytest.raises(SystemExit) as left:
        run(*arguments.split())
    assert left.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["", *COMMAND_NAMES])
def test_help_fits_80_columns_and_has_examples(capsys, monkeypatch, command):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as left:
        run(*command.split(), "--help")
    assert left.value.code == 0
    out = capsys.readouterr().out
    assert "examples:" in out
    assert max(map(len, out.splitlines())) <= 80


def test_a_file_with_a_preparation_that_makes_no_sense_is_refused(here, capsys):
    run("train", "data.csv", "--target", "size", "--drop", "amount", *QUICK)
    document, arrays = storage.read("model.safetensors")
    for change in ({"format": 9}, {"kinds": []}, {"scales": []}, {"kinds": 3}):
        storage.write("bad.safetensors", document | {"preparation": document["preparation"] | change}, arrays)
        capsys.readouterr()
        assert run("inspect", "bad.safetensors") == 1
        assert "cannot be loaded" in capsys.readouterr().err
    for summary in ({}, {"scores": 3}, {"scores": {"other": 1}, "baseline": {}}, {"scores": {"accuracy": "x"}}):
        storage.write("bad.safetensors", document | {"summary": summary}, arrays)
        capsys.readouterr()
        assert run("inspect", "bad.safetensors") == 1
        assert "cannot be loaded" in capsys.readouterr().err


# --- Files of version 0.1, in which the preparation stands before an MLPClassifier or MLPRegressor ---

GOLDEN = Path(__file__).parent / "golden" / "tables"


@pytest.mark.parametrize("target", ["size", "amount"])
def test_a_file_of_the_first_version_answers_as_it_did(folder, capsys, target):
    pytest.importorskip("pandas", reason="pip install pandas pyarrow")
    model, table = str(GOLDEN / f"of-{target}.safetensors"), str(GOLDEN / "table.csv")
    proba = ["--proba"] if target == "size" else []
    assert run("predict", model, table, "--json", *proba) == 0
    out, err = capsys.readouterr()
    found, expected = (
        document["columns"] for document in (json.loads(out), json.loads((GOLDEN / f"of-{target}.json").read_text()))
    )
    assert list(found) == list(expected)
    for name, values in expected.items():
        if isinstance(values[0], str):
            assert found[name] == values
        else:
            np.testing.assert_allclose(found[name], values, rtol=1e-5)  # float32, by whatever BLAS
    assert "score: 60 rows have the answer" in err
    assert run("inspect", model) == 0
    assert f"target    {target} (" in capsys.readouterr().out
    assert run("check-gradients", model, table) == 0


@pytest.mark.parametrize("target", ["size", "amount"])
def test_the_onnx_model_of_a_file_of_the_first_version_takes_its_numbers(folder, capsys, target):
    onnxruntime = pytest.importorskip("onnxruntime", reason="pip install onnx onnxruntime")
    model = str(GOLDEN / f"of-{target}.safetensors")
    assert run("export", model, "--onnx", "model.onnx", "--dtype", "float64") == 0
    assert "X[:, 0] width" in flat(capsys.readouterr().out)
    rows = [
        line.replace('"', "").replace(",", "", 1).split(",")
        for line in (GOLDEN / "table.csv").read_text().splitlines()[1:]
    ]
    preparation = xpmlp.cli.models.open_model(model).preparation
    names = preparation.get_feature_names_out().tolist()
    assert names == [
        "width",
        "height",
        *(f"day: {part}" for part in ("days", "month", "weekday")),
        "height is missing",
        *(f"colour = {c}" for c in ("blue", "green", "red")),
    ]
    days = [date.fromisoformat(row[3]) for row in rows]
    median = preparation.scales_[1].centre
    X = [
        [
            float(width),
            float(height or median),
            (day - min(days)).days,
            day.month,
            day.weekday(),
            not height,
            *(colour == c for c in ("blue", "green", "red")),
        ]
        for (width, height, colour, *_), day in zip(rows, days, strict=True)
    ]
    theirs = onnxruntime.InferenceSession("model.onnx").run(None, {"X": np.asarray(X, dtype=np.float64)})
    expected = json.loads((GOLDEN / f"of-{target}.json").read_text())["columns"]
    # The command line prepares in float32, the graph scales in float64.
    if target == "size":
        np.testing.assert_allclose(theirs[1][:, 1], expected["p(small)"], atol=1e-6)
    else:
        np.testing.assert_allclose(theirs[0][:, 0], expected["amount"], rtol=1e-5)
