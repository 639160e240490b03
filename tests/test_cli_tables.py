"""The command line, and tables as they are found: packed, in any encoding, with stray cells, codes, dates, nothing."""

from __future__ import annotations

import bz2
import gzip
import itertools
import json
import lzma
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import xpmlp
from xpmlp.cli import main
from xpmlp.cli.tables import Reading, read

pytest.importorskip("pandas", reason="pip install pandas pyarrow")

QUICK = ("--epochs", "1", "--hidden", "2", "--members", "2", "--no-refit")
SMALL = ("--hidden", "8", "--members", "2", "--no-refit", "--batch-size", "16", "--learning-rate", "0.05")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    return tmp_path


def run(*arguments: str) -> int:
    return main(list(arguments))


def flat(text: str) -> str:
    return " ".join(text.split())


def summary_of(capsys, *arguments: str) -> dict:
    assert run(*arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)


ROWS = [(f"{k}.5", "größer" if k % 3 else "kleiner", str(k % 4)) for k in range(40)]
TEXT = "x,name,code\n" + "".join(",".join(row) + "\n" for row in ROWS)


def cells_of(file):
    return {name: [column.cell(i) for i in range(file.table.n_rows)] for name, column in file.table.columns.items()}


FOUND = dict(zip(("x", "name", "code"), map(list, zip(*ROWS, strict=True)), strict=True))

FORMS = {
    "plain": TEXT.encode(),
    "with a mark": TEXT.encode("utf-8-sig"),
    "utf-16": TEXT.encode("utf-16"),
    "utf-16 without a mark": TEXT.encode("utf-16-le"),
    "utf-16, the other way round": TEXT.encode("utf-16-be"),
    "utf-32": TEXT.encode("utf-32"),
    "windows-1252": TEXT.encode("cp1252"),
    "gzip": gzip.compress(TEXT.encode()),
    "bzip2": bz2.compress(TEXT.encode()),
    "xz": lzma.compress(TEXT.encode()),
    "old Macintosh": TEXT.replace("\n", "\r").encode(),
    "Windows": TEXT.replace("\n", "\r\n").encode(),
    "semicolons": TEXT.replace(",", ";").encode(),
    "tabs": TEXT.replace(",", "\t").encode(),
    "bars": TEXT.replace(",", "|").encode(),
    "runs of spaces": TEXT.replace(",", "   ").encode(),
    "Excel's first line": ("sep=;\n" + TEXT.replace(",", ";")).encode(),
    "comments": ("# a table, of ours\n#\n" + TEXT.replace("\n2.5", "\n# more, and more\n2.5")).encode(),
    "blank lines": TEXT.replace("\n1.5", "\n\n  \n1.5").encode(),
    "quoted": ("x,name,code\n" + "".join(f'"{a}", "{b}" ,{c}\n' for a, b, c in ROWS)).encode(),
}


@pytest.mark.parametrize("form", FORMS)
def test_one_text_in_every_form_is_one_table(here, form):
    (here / "t").write_bytes(FORMS[form])
    assert cells_of(read("t")) == FOUND


def test_the_encoding_can_be_named(here):
    (here / "t.csv").write_bytes(TEXT.encode("cp437"))
    assert cells_of(read("t.csv", Reading(encoding="cp437"))) == FOUND
    assert cells_of(read("t.csv")) != FOUND


def test_excel_is_read_where_its_reader_is_installed_and_named_where_not(here):
    pandas = pytest.importorskip("pandas", reason="pip install pandas")
    try:
        pandas.DataFrame(FOUND).to_excel(here / "t.xlsx", index=False)
    except ImportError:
        (here / "t.xlsx").write_bytes(b"PK\x03\x04" + bytes(40))
        with pytest.raises(ValueError, match=r"broken|openpyxl"):
            read("t.xlsx")
    else:
        assert cells_of(read("t.xlsx"))["name"] == FOUND["name"]


@pytest.mark.parametrize(
    ("text", "bad", "line"),
    [
        ("a,b,y\n" + "1,2,3.5\n" * 30 + "inf,2,3.5\n", "'a'", 32),
        ("# made by hand\na,b,y\n" + '"1",2,3.5\n' * 30 + "inf,2,3.5\n", "'a'", 33),
        ('a,b,y\n"one\ntwo",2,3.5\n' + "x,2,3.5\n" * 20 + '"three\n\nfour",inf,3.5\n', "'b'", 24),
        ("sep=;\na;b;y\n" + "1;2;3.5\n" * 30 + "inf;2;3.5\n", "'a'", 33),
        ("a,b,y\n\n\n" + "1,2,3.5\n" * 30 + "# a note\n\ninf,2,3.5\n", "'a'", 36),
        ("a,b,y\r\n" + "1,2,3.5\r\n" * 30 + "inf,2,3.5\r\n", "'a'", 32),
    ],
)
def test_a_bad_cell_is_named_with_its_line_in_the_file(here, capsys, text, bad, line):
    (here / "t.csv").write_bytes(text.replace("3.5", "{}.5").format(*range(90)).encode())
    assert run("train", "t.csv", "--target", "y", *QUICK) == 1
    assert f"column {bad} must be finite; it holds infinity in line {line}." in flat(capsys.readouterr().err)


def test_labels_are_answered_letter_for_letter(here, capsys):
    for labels in (
        ["007", "042"],
        ["1_2", "12"],
        ["9007199254740993", "9007199254740992"],
        ["NA", "None"],
        ["1.0", "2"],
    ):
        rows = "".join(f"{k % 2 + k / 1000:.3f},{labels[k % 2]}\n" for k in range(60))
        (here / "t.csv").write_text("x,agent\n" + rows, encoding="utf-8")
        options = (*SMALL, "--epochs", "40", "--task", "classification")
        assert run("train", "t.csv", "--target", "agent", *options) == 0
        capsys.readouterr()
        assert run("predict", "model.safetensors", "t.csv") == 0
        assert sorted(set(capsys.readouterr().out.split()[1:])) == sorted(labels)


def test_a_class_that_is_called_none_is_pointed_out(here, capsys):
    rows = "".join(f"{k},{'None' if k % 3 else 'mild'}\n" for k in range(60))
    (here / "t.csv").write_text("x,disorder\n" + rows, encoding="utf-8")
    assert run("train", "t.csv", "--target", "disorder", *QUICK) == 0
    assert "'None' is a class, as it is written; --missing None if it says that there is none." in flat(
        capsys.readouterr().err
    )
    assert run("train", "t.csv", "--target", "disorder", "--missing", "none", *QUICK) == 1
    assert "the target 'disorder' is mild in every row" in flat(capsys.readouterr().err)


def test_one_truth_in_another_writing_is_scored(here, capsys):
    for file, truths in (("a.csv", ("True", "False")), ("b.csv", ("TRUE", "false"))):
        rows = "".join(f"{k % 2 + k / 1000:.3f},{truths[k % 2]},{truths[k % 2]}\n" for k in range(60))
        (here / file).write_text("x,flag,y\n" + rows, encoding="utf-8")
    assert run("train", "a.csv", "--target", "y", *SMALL, "--epochs", "40") == 0
    capsys.readouterr()
    assert run("predict", "model.safetensors", "b.csv") == 0
    out, err = capsys.readouterr()
    assert "score: 60 rows have the answer: right answers 100.0%" in flat(err)
    assert "note" not in err
    assert set(out.split()[1:]) == {"True", "False"}


@pytest.mark.parametrize(
    ("drop", "left"),
    [
        ("x[0]", ["x[0]"]),
        ("x*", ["x[0]", "x0"]),
        ("Sales, EU", ["Sales, EU"]),
        ("x?,b", ["x0", "b"]),
        ("?[0]", ["x[0]"]),
    ],
)
def test_a_column_is_dropped_by_its_name(here, capsys, drop, left):
    rows = "".join(f"{k % 5},{k % 7},{k % 3},{k % 2},{k * 1.5}\n" for k in range(40))
    (here / "t.csv").write_text('x[0],x0,"Sales, EU",b,y\n' + rows, encoding="utf-8")
    summary = summary_of(capsys, "train", "t.csv", "--target", "y", "--drop", drop, *QUICK)
    assert [name for name, _ in summary["left_out"]] == left


def test_two_columns_of_one_name_get_names_of_their_own(here, capsys):
    (here / "t.csv").write_text(
        "a,b,a,y\n" + "".join(f"{k % 5},1,{k % 7},{k * 1.5}\n" for k in range(40)), encoding="utf-8"
    )
    assert run("train", "t.csv", "--target", "y", "--drop", "a.1", *QUICK) == 0
    assert "two columns are called 'a'; one of them is 'a.1' here." in flat(capsys.readouterr().err)


def test_a_class_without_a_row_held_out_is_not_scored(here, capsys):
    rows = "".join(f"{k % 5 + k / 7:.3f},{'rare' if k in (3, 50) else 'common'}\n" for k in range(120))
    (here / "t.csv").write_text("x,y\n" + rows, encoding="utf-8")
    summary = summary_of(capsys, "train", "t.csv", "--target", "y", *QUICK)
    assert summary["not_scored"] == ["rare"]
    assert "balanced_accuracy" not in summary["scores"]
    assert run("train", "t.csv", "--target", "y", *QUICK) == 0
    assert "no row of 'rare' is held out, so it is not scored." in flat(capsys.readouterr().err)


def test_a_linear_target_is_the_linear_models(here, capsys):
    rows = "".join(f"{k % 11},{k % 7},{3 * (k % 11) - 2 * (k % 7)}.5\n" for k in range(200))
    (here / "t.csv").write_text("a,b,y\n" + rows, encoding="utf-8")
    summary = summary_of(capsys, "train", "t.csv", "--target", "y", *QUICK)
    # Not 1: numbers are drawn towards the middle before the linear model sees them. Seen 0.998.
    assert summary["linear"]["r2"] > 0.98
    assert set(summary["linear"]) == set(summary["scores"])


def test_a_target_of_money_is_a_regression_and_says_so(here, capsys):
    (here / "t.csv").write_text(
        "x,pay\n" + "".join(f'{k % 9},"${1000 + 37 * k:,}.50"\n' for k in range(60)), encoding="utf-8"
    )
    assert run("train", "t.csv", "--target", "pay", *QUICK) == 0
    out, err = capsys.readouterr()
    assert "regression: 60 different numbers" in out
    assert "pay: numbers in $, with thousands separators ('$1,000.50')." in flat(err)


def test_a_stray_cell_is_told_once(here, capsys):
    rows = "".join(f"{'n.a.' if k == 7 else k % 9},{k % 5},{k * 1.5}\n" for k in range(60))
    (here / "t.csv").write_text("x,b,y\n" + rows, encoding="utf-8")
    assert run("train", "t.csv", "--target", "y", *QUICK) == 0
    assert flat(capsys.readouterr().err).count("'n.a.' in line 9") == 1
    assert run("predict", "model.safetensors", "t.csv") == 0
    assert flat(capsys.readouterr().err).count("'n.a.' in line 9") == 1


def test_a_target_of_dates_is_refused(here, capsys):
    (here / "t.csv").write_text(
        "x,day\n" + "".join(f"{k % 9},2024-01-{1 + k % 28:02d}\n" for k in range(60)), encoding="utf-8"
    )
    assert run("train", "t.csv", "--target", "day", *QUICK) == 1
    assert "the target 'day' holds dates; a target must be classes or amounts." in flat(capsys.readouterr().err)


# --- Manners ---


def in_a_process(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    path = os.pathsep.join(filter(None, [str(Path(xpmlp.__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": path} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["train", "--help"], ["trian"]])
def test_help_and_wrong_commands_load_no_heavy_library(arguments):
    code = "import sys, runpy; sys.argv[0] = 'xpmlp'\ntry: runpy.run_module('xpmlp', run_name='__main__')\nfinally: "
    code += "print('loaded', sorted({name.split('.')[0] for name in sys.modules} & {'sklearn', 'scipy', 'pandas'}))"
    out, _ = in_a_process("-c", code, *arguments).communicate(timeout=60)
    assert "loaded []" in out


def test_the_version_is_told(capsys):
    with pytest.raises(SystemExit) as left:
        run("--version")
    assert left.value.code == 0
    assert capsys.readouterr().out == f"xpmlp {xpmlp.__version__}\n"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals of this kind")
@pytest.mark.parametrize("late", [False, True], ids=["while libraries load", "while it trains"])
def test_ctrl_c_ends_with_a_sentence_and_130(here, late):
    rng = np.random.default_rng(0)
    rows = "".join(f"{a:.3f},{b:.3f},{a * b:.3f}\n" for a, b in rng.normal(size=(4000, 2)))
    (here / "t.csv").write_text("a,b,y\n" + rows, encoding="utf-8")
    # The marker stands where nothing but Python is loaded yet.
    start = "import sys, xpmlp.__main__ as xpmlp; print('begun', flush=True); sys.exit(xpmlp.main())"
    child = in_a_process(
        "-c",
        start,
        "train",
        "t.csv",
        "--target",
        "y",
        "--epochs",
        "100000",
        PYTHONUNBUFFERED="1",
        NUMBA_DISABLE_JIT="1",  # to compile takes seconds, in which nothing is learned yet
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "begun\n"
    if late:
        while not (line := child.stdout.readline()).startswith("rows"):
            assert line, child.communicate()[1]
        time.sleep(2.0)
    else:
        time.sleep(0.02)  # in the midst of NumPy, seldom later
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130, err
    assert "interrupted" in err
    assert "Traceback" not in err
    assert Path("model.safetensors").exists() == late  # what was learned is kept


def test_nothing_is_wider_than_the_terminal(here, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    rows = "".join(f"{k % 11},{'AB'[k % 2]},2024-01-{1 + k % 28:02d},{k * 1.5}\n" for k in range(90))
    (here / "t.csv").write_text("area,city,day,a rather long name of a target\n" + rows, encoding="utf-8")
    for command in (
        ("train", "t.csv", "--target", "a rather long name of a target", *QUICK),
        ("inspect", "model.safetensors"),
        ("predict", "model.safetensors", "t.csv"),
        ("backends",),
    ):
        assert run(*command) == 0
        out, err = capsys.readouterr()
        assert max(map(len, (out + err).splitlines())) <= 40


@pytest.mark.parametrize(
    "arguments", [("train", "no.csv", "--target", "y"), ("inspect", "no.csv"), ("predict", "no.csv", "no.csv")]
)
def test_a_file_that_is_not_there_is_told_without_numbers(here, capsys, arguments):
    assert run(*arguments) == 1
    assert flat(capsys.readouterr().err) == "error: No such file or directory: 'no.csv'."


# --- Tables of every make ---

CELLS = {
    "numbers": lambda k, rng: f"{rng.normal():.3f}",
    "whole": lambda k, rng: str(rng.integers(0, 9)),
    "amounts": lambda k, rng: f"{rng.integers(500, 99_999):,}",
    "money": lambda k, rng: f"${rng.integers(1, 9_999):,}.{rng.integers(10, 99)}",
    "euros": lambda k, rng: f"{rng.integers(1, 99)}.{rng.integers(100, 999)},{rng.integers(10, 99)} €",
    "percent": lambda k, rng: f"{rng.integers(0, 99)}.5%",
    "brackets": lambda k, rng: f"({rng.integers(1, 99)}.25)",
    "exponents": lambda k, rng: f"{rng.normal():.3e}",
    "codes": lambda k, rng: f"{rng.integers(0, 20):03d}",
    "underscores": lambda k, rng: f"{rng.integers(1, 4)}_{rng.integers(1, 3)}",
    "keys": lambda k, rng: str(rng.integers(10**17, 10**18)),
    "truths": lambda k, rng: ["True", "FALSE", "true"][rng.integers(3)],
    "names": lambda k, rng: ["red", "green", "größer", "None", "NA"][rng.integers(5)],
    "sentences": lambda k, rng: f"they said, in line {k}: “no”",
    "dates": lambda k, rng: f"2024-{rng.integers(1, 13):02d}-{rng.integers(1, 29):02d}",
    "times": lambda k, rng: f"{rng.integers(1, 13)}/{rng.integers(1, 29)}/2023 {rng.integers(0, 24):02d}:30",
    "ids": lambda k, rng: str(k),
    "nothing": lambda k, rng: "",
    "a constant": lambda k, rng: "7",
    "gaps": lambda k, rng: ["", "NA", "?", "1.5", "2.5"][rng.integers(5)],
    "huge": lambda k, rng: ["1e300", "-1e308", "0.5", "1"][rng.integers(4)],
}
STRAYS = ["", "unknown", "x", "-", "#DIV/0!", "12abc", "1e999", "NaN", "é", "'", "1,5", " "]
TARGETS = {
    "amounts": CELLS["numbers"],
    "money": CELLS["money"],
    "classes": lambda k, rng: ["yes", "no", "maybe"][k % 3],
    "codes": lambda k, rng: ["007", "042"][k % 2],
    "truths": lambda k, rng: ["True", "false"][k % 2],
    "one class": lambda k, rng: "x",
    "one rare class": lambda k, rng: "rare" if k == 1 else "common",
    "gaps": lambda k, rng: ["", "a", "b"][k % 3],
    "dates": CELLS["dates"],
    "ids": CELLS["ids"],
}
MAKES = list(
    itertools.product(
        ["utf-8", "utf-8-sig", "utf-16", "cp1252"],
        [",", ";", "\t", "|"],
        ["where needed", "all"],
        [True, False],  # a header
    )
)
SIZES = (0, 1, 2, 11, 40, 40, 40, 40, 60, 60)


def made(seed: int) -> tuple[bytes, list[str], str | None]:
    """A file, the options to read it with, and the fault that was put into it."""
    rng = np.random.default_rng(seed)
    encoding, delimiter, quotes, header = MAKES[seed % len(MAKES)]
    n = int(rng.choice(SIZES))
    kinds = list(rng.choice(list(CELLS), min(rng.integers(0, 9), 6)))
    target = list(TARGETS)[rng.integers(len(TARGETS))]
    makers = [*(CELLS[kind] for kind in kinds), TARGETS[target]]
    rows = [[make(k, rng) for make in makers] for k in range(n)]
    for _ in range(int(rng.integers(0, 3)) if n else 0):
        rows[rng.integers(n)][rng.integers(len(makers))] = str(rng.choice(STRAYS))
    names = [f"{kind} {i}" if kind != "ids" else "id" for i, kind in enumerate(kinds)] + ["y"]
    lines = [names, *rows] if header else rows
    fault = None
    if n > 10 and seed % 7 == 0 and len(makers) > 1:
        lines[9] = [*lines[9], "one too many"]
        fault = "line 10"

    def written(cell: str) -> str:
        needed = quotes == "all" or delimiter in cell or '"' in cell
        return '"' + cell.replace('"', '""') + '"' if needed else cell

    text = "\n".join(delimiter.join(map(written, line)) for line in lines) + "\n"
    options = [] if header else ["--no-header"]
    options += ["--delimiter", {"\t": "tab"}.get(delimiter, delimiter)] if seed % 2 else []
    options += ["--target", "y" if header else f"column{len(names)}"]
    return text.encode(encoding, errors="replace"), options, fault


def test_three_hundred_tables_end_in_an_answer_or_in_a_sentence(here, capsys):
    ends = {0: 0, 1: 0}
    for seed in range(320):
        data, options, fault = made(seed)
        (here / "t.csv").write_bytes(data)
        status = run("train", "t.csv", *options, *QUICK)
        out, err = capsys.readouterr()
        assert "Traceback" not in err, seed
        ends[status] += 1
        if status:
            assert flat(err).rpartition("error: ")[2].rstrip().endswith((".", ")", "?")), (seed, err)
            assert fault is None or fault in flat(err), (seed, err)
            continue
        assert fault is None, (seed, options)
        assert "held out" in out
        assert run("predict", "model.safetensors", "t.csv", *options[:-2]) == 0, seed
        assert len(capsys.readouterr().out.splitlines()) == len(data.decode(MAKES[seed % 64][0]).splitlines()) + (
            "--no-header" in options
        )
    assert min(ends.values()) > 100  # the generator makes both
