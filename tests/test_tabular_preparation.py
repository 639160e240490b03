"""What cells mean, what columns are, and what a network is given of a table."""

from __future__ import annotations

import copy
import json
import math
import re
import warnings
from datetime import date, datetime, timedelta

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from xpmlp import TablePreparation
from xpmlp.tabular import TableWarning
from xpmlp.tabular.cells import decimal_mark, loosely, read_date, read_number
from xpmlp.tabular.columns import table_of
from xpmlp.tabular.scales import scale_of

# --- Cells ---

NUMBERS = [
    ("12.5", 12.5),
    ("-.5", -0.5),
    ("+3", 3.0),
    ("1e-300", 1e-300),
    (" 7 ", 7.0),
    ("12,345", 12345.0),
    ("1,234,567.5", 1234567.5),
    ("12,34,567", 1234567.0),
    ("12 345", 12345.0),
    ("12\u202f345", 12345.0),
    ("1'234.5", 1234.5),
    ("$12.30", 12.3),
    ("-$5", -5.0),
    ("$-5", -5.0),
    ("EUR 5", 5.0),
    ("5 €", 5.0),
    ("12.50%", 12.5),
    ("(12.50)", -12.5),
    ("($1,200.00)", -1200.0),
    ("\u22125", -5.0),
    ("Infinity", math.inf),
    ("-inf", -math.inf),
]
NO_NUMBERS = ["", "007", "-007", "1_2", "9007199254740993", "1,23", "1,2345", "1,234,56", "12,34", "(5", "5)", "(-5)"]
NO_NUMBERS += ["+-5", "$5%", "1.2.3", "0x1F", "12:30", "2024-01-05", "ABC123", "nan", "None", "twelve", "5 kg", "٣"]


@pytest.mark.parametrize(("text", "value"), NUMBERS)
def test_a_number_is_read_as_people_write_it(text, value):
    number = read_number(text)
    assert number is not None
    assert number.value == value


@pytest.mark.parametrize("text", NO_NUMBERS)
def test_codes_and_words_are_no_numbers(text):
    assert read_number(text) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [("3,5", 3.5), ("1.299,99", 1299.99), ("0,123", 0.123), ("1.234.567", 1234567.0), ("12,345", 12.345)],
)
def test_the_decimal_mark_may_be_a_comma(text, value):
    assert read_number(text, ",").value == value


@pytest.mark.parametrize(
    ("texts", "mark"),
    [
        (["12,345", "7,5"], ","),
        (["12,345", "1.299,99"], ","),
        (["12,345", "7.5"], "."),
        (["12,345", "0,123"], ","),
        (["12,345", "1,234,567"], "."),
        (["12,345"], None),
        (["1", "2"], None),
        ([], None),
    ],
)
def test_a_column_tells_its_decimal_mark_where_one_of_its_cells_does(texts, mark):
    assert decimal_mark(texts) == mark


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("2024-01-05", datetime(2024, 1, 5)),
        ("2024/1/5 10:30", datetime(2024, 1, 5, 10, 30)),
        ("2024-01-05T10:30:05.250Z", datetime(2024, 1, 5, 10, 30, 5)),
        ("05.01.2024", datetime(2024, 1, 5)),
        ("01/05/2024", datetime(2024, 1, 5)),
        ("13/01/2024", None),
        ("5 Jan 2024", datetime(2024, 1, 5)),
        ("January 5, 2024", datetime(2024, 1, 5)),
        ("2023-02-29", None),
        ("1.5", None),
        ("20240105", None),
    ],
)
def test_dates_are_read_as_people_write_them(text, found):
    assert read_date(text) == found


@pytest.mark.parametrize(
    ("text", "same"), [("3.0", "3"), ("True", "true"), ("TRUE", "true"), ("007", "007"), ("3.5", "3.5")]
)
def test_two_writings_of_one_thing_are_one(text, same):
    assert loosely(text) == same


# --- Kinds ---


def prepared(cells, **parameters):
    """One column fitted, quietly."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TableWarning)
        return TablePreparation(**parameters).fit({"c": cells, "other": np.arange(len(cells)) % 7 * 1.5})


def names_of(cells, **parameters):
    return [name for name in prepared(cells, **parameters).get_feature_names_out() if name != "other"]


KINDS = {
    "amounts with separators": ([f"{1000 * k:,}" for k in range(1, 41)], ["c"]),
    "decimal commas": ([f"{k}.299,{k}" for k in range(11, 51)], ["c"]),
    "percentages": ([f"{k}%" for k in range(40)], ["c"]),
    "money in brackets": ([f"(${k}.50)" if k % 2 else f"${k}.50" for k in range(40)], ["c"]),
    "a stray word": (["unknown", *map(str, range(39))], ["c", "c is missing"]),
    "NA among numbers": (["NA", *map(str, range(39))], ["c", "c is missing"]),
    "a dash among numbers": (["-", *map(str, range(39))], ["c", "c is missing"]),
    "NA among names": (["NA", "KE", "ZA"] * 12, ["c = KE", "c = NA", "c = ZA"]),
    "None among names": (["None", "mild", "bad"] * 12, ["c = None", "c = bad", "c = mild"]),
    "a gap among names": (["", "mild", "bad"] * 12, ["c = bad", "c = mild", "c is missing"]),
    "leading zeros": (["007", "042", "11"] * 12, ["c = 007", "c = 042", "c = 11"]),
    "one code among numbers": (["007", *(str(k % 2) for k in range(39))], ["c = 0", "c = 007", "c = 1"]),
    "one underscore among numbers": (["1_2", *(str(k % 2) for k in range(39))], ["c = 0", "c = 1", "c = 1_2"]),
    "underscores": (["1_2", "12", "3"] * 12, ["c = 12", "c = 1_2", "c = 3"]),
    "keys of 16 digits": (["9007199254740993", "9007199254740992", "1"] * 12, None),
    "truths of all writings": (["True", "TRUE", "true", "False", "false"] * 8, ["c = false"]),
    "truths": ([True, False] * 20, ["c = false"]),
    "truths with gaps": ([True, False, None, True] * 10, ["c = false", "c = true", "c is missing"]),
    "dates": ([date(2024, 1, 1) + timedelta(days=3 * k) for k in range(40)], ["c: days", "c: month", "c: weekday"]),
    "texts of dates": ([f"2024-01-{1 + k % 28:02d}" for k in range(40)], ["c: days", "c: weekday"]),
    "hours": ([datetime(2024, 1, 1, k % 24) for k in range(40)], ["c: days", "c: weekday", "c: hour"]),
    "spans of time": ([timedelta(hours=k) for k in range(40)], ["c"]),
    "a constant": (["x"] * 40, []),
    "gaps only": ([None] * 40, []),
    "keys": ([f"row {k}" for k in range(40)], []),
    "several currencies": ([f"{'$€'[k % 2]}{k}" for k in range(40)], []),
}


@pytest.mark.parametrize("what", KINDS)
def test_a_column_is_what_its_cells_say(what):
    cells, names = KINDS[what]
    found = names_of(cells)
    if names is None:  # letter for letter, and no two of them one number
        assert found == ["c = 1", "c = 9007199254740992", "c = 9007199254740993"]
    elif what == "hours":
        assert found == ["c: days", "c: weekday", "c: hour"][:1] + [n for n in names[1:] if n in found]
        assert "c: hour" in found
    else:
        assert found == names


def test_what_was_recognised_is_said():
    notes = " ".join(prepared([f"${1000 * k:,}" for k in range(1, 41)]).notes_)
    assert "c: numbers in $, with thousands separators ('$1,000')." in notes
    with pytest.warns(TableWarning, match="1 of 40 cells is no number \\('unknown' in row 0\\): taken as missing"):
        TablePreparation().fit({"c": ["unknown", *map(str, range(39))]})
    preparation = prepared([f"key {k}" for k in range(40)])
    assert preparation.left_out_ == {"c": "text with 40 different values in 40 rows"}
    assert "codes are no numbers ('007' in row 0)" in prepared([f"00{k}" for k in range(7, 47)]).left_out_["c"]
    mixed = prepared([str(k) if k % 5 else f"n{k}" for k in range(40)])
    assert "80% are numbers, 'n0' in row 0 is none" in mixed.left_out_["c"]


@pytest.mark.parametrize("name", ["id", "ID", "customer_id", "PassengerId", "Unnamed: 0", "index"])
def test_ids_are_left_out_by_their_names(name):
    rng = np.random.default_rng(0)
    with pytest.warns(TableWarning, match="an id: it numbers the rows"):
        preparation = TablePreparation().fit({name: rng.permutation(100), "x": rng.normal(size=100)})
    assert list(preparation.left_out_) == [name]


def test_a_column_that_counts_the_rows_is_pointed_out_and_kept():
    preparation = TablePreparation().fit({"day": np.arange(100), "paid": np.arange(100) % 9})
    assert preparation.left_out_ == {}
    assert preparation.notes_ == ("day: it counts the rows; leave it out if a new row has no such number.",)


@pytest.mark.parametrize("seed", range(6))
def test_what_a_column_is_hangs_on_no_split(seed):
    # One stray cell, one rare level, one gap: whatever rows the numbers are learned from.
    n = 100
    table = {
        "area": ["unknown" if k == 36 else str(k) for k in range(n)],
        "flag": ["yes" if k == 3 else "no" for k in range(n)],
        "gap": [None if k == 50 else k % 9 for k in range(n)],
    }
    rows = np.random.default_rng(seed).permutation(n)[:70]
    with pytest.warns(TableWarning, match="'unknown' in row 36"):
        preparation = TablePreparation().fit(table, rows=rows)
    assert preparation.get_feature_names_out().tolist() == [
        "area",
        "gap",
        "area is missing",
        "gap is missing",
        "flag = no",
    ]


def test_some_rows_are_given_in_the_order_asked_for():
    rng = np.random.default_rng(0)
    table = [
        {
            "x": float(a),
            "gap": None if a > 1.0 else float(a),
            "word": word,
            "flag": bool(a > 0),
            "day": date(2020, 1, i + 1),
        }
        for i, (a, word) in enumerate(zip(rng.standard_normal(30), "abc" * 10, strict=True))
    ]
    rows = np.array([7, 0, 29, 7])
    preparation = TablePreparation().fit(table, rows=np.arange(20))
    some, _ = preparation.transform_with_notes(table, rows=rows)
    np.testing.assert_array_equal(some, preparation.transform(table)[rows])


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int64", "uint8"])
def test_numbers_are_read_where_they_lie(dtype):
    X = np.random.default_rng(0).integers(0, 99, (50, 3)).astype(dtype)
    table = table_of(X)
    assert all(np.shares_memory(column.values, X) for column in table.columns.values())
    as_floats = X.astype(np.float64)
    asked = TablePreparation().fit(as_floats)
    given = TablePreparation().fit(X)
    np.testing.assert_array_equal(given.transform(X), asked.transform(as_floats))
    assert given.to_dict() == asked.to_dict()
    assert X.dtype == dtype


def test_an_input_that_no_training_row_has_stays_silent():
    table = {"x": np.arange(40) % 7 * 1.5, "c": ["a", "b", "c"] * 13 + ["d"]}
    preparation = TablePreparation().fit(table, rows=np.arange(39))
    assert preparation.get_feature_names_out().tolist()[1:] == ["c = a", "c = b", "c = c", "c = d"]
    assert np.all(preparation.transform(table)[-1, 1:] == 0.0)


def test_some_rows_of_a_column_keep_their_cells_and_no_others():
    column = table_of({"c": ["b", None, "a", "b", "z"]}).columns["c"].take(np.array([3, 1, 2]))
    assert [column.cell(i) for i in range(3)] == ["b", "", "a"]
    assert sorted(column.texts) == ["a", "b"]


def test_rows_that_were_taken_know_where_they_were():
    table = table_of({"c": list("abcd")}).take(np.array([3, 1]))
    assert [table.place(row) for row in range(2)] == ["row 3", "row 1"]


# --- What a network takes ---


def test_numbers_are_scaled_and_cut_as_the_formulas_say():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=300), [1e100, -1e300]])
    preparation = TablePreparation().fit(x[:, None])
    q25, q50, q75 = np.quantile(x, [0.25, 0.5, 0.75])
    u = (x[:300] - q50) / (q75 - q25)
    z = preparation.transform(x[:, None])[:, 0]
    assert z.dtype == np.float32
    np.testing.assert_allclose(z[:300], u / np.sqrt(1 + (u / 3) ** 2), rtol=1e-6)  # float32
    assert abs(z[300] - 3.0) < 1e-6 > abs(z[301] + 3.0)
    (edges,) = preparation.edges_
    z64 = preparation.scales_[0].apply(x)
    steps = np.linspace(0, 1, 33)
    np.testing.assert_array_equal(edges, np.unique([np.quantile(z64, steps), np.quantile(np.unique(z64), steps)]))
    assert len(edges) <= 65


@pytest.mark.parametrize("extreme", [[1e308, -1e308, 0.0, 1e307], [5e-324, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
def test_extreme_numbers_give_finite_inputs_and_rising_edges(extreme):
    scale = scale_of(np.array(extreme * 5), 64)
    assert np.all(np.abs(scale.apply(np.array([*extreme, np.nan, 1e308]))) <= 3.0)
    assert np.all(np.diff(scale.edges) > 0)


def test_the_groups_and_sources_say_whose_an_input_is():
    table = {
        "c": ["a", "b", "c", None] * 10,
        "g": [None, 1.0, 2.0, 5.0] * 10,
        "b": [True, False] * 20,
        "x": np.arange(40) % 3,
    }
    preparation = TablePreparation().fit(table)
    names = preparation.get_feature_names_out().tolist()
    assert names == ["g", "x", "g is missing", "c = a", "c = b", "c = c", "c is missing", "b = false"]
    assert preparation.n_numbers_ == 2
    assert preparation.groups_.tolist() == [0, 1, 2, 3, 3, 3, 3, 4]
    assert preparation.sources_.tolist() == [1, 3, 1, 0, 0, 0, 0, 2]
    X = preparation.transform(table)
    assert X[0].tolist()[2:] == [1, 1, 0, 0, 0, -1]
    assert X[3].tolist()[2:] == [0, 0, 0, 0, 1, 1]
    assert X[0, 0] == 0.0  # a gap is the median


def frames():
    """One table, in every form."""
    n = 60
    rng = np.random.default_rng(1)
    return {
        "x": rng.normal(size=n).tolist(),
        "whole": (np.arange(n) * 7 % 11).tolist(),
        "gap": [None if k % 5 == 0 else float(k) for k in range(n)],
        "town": ["xyz"[k % 3] for k in range(n)],
        "truth": [k % 2 == 0 for k in range(n)],
        "when": [datetime(2024, 1, 1) + timedelta(days=3 * k, hours=k % 5) for k in range(n)],
        "paid": [f"${k * 1000:,}" for k in rng.integers(0, 100, n)],
    }


def in_form(form, table):
    match form:
        case "dict of lists":
            return table
        case "list of dicts":
            return [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
        case "objects":
            return np.array(list(zip(*table.values(), strict=True)), dtype=object)
        case "pandas":
            return pytest.importorskip("pandas", reason="pip install pandas").DataFrame(table)
        case "pandas of arrow":
            pandas = pytest.importorskip("pandas", reason="pip install pandas")
            pytest.importorskip("pyarrow", reason="pip install pyarrow")
            return pandas.DataFrame(table).convert_dtypes(dtype_backend="pyarrow")
        case "polars":
            return pytest.importorskip("polars", reason="pip install polars").DataFrame(table)
        case _:
            return pytest.importorskip("pyarrow", reason="pip install pyarrow").table(table)


FORMS = ["dict of lists", "list of dicts", "objects", "pandas", "pandas of arrow", "polars", "pyarrow"]


@pytest.mark.parametrize("form", FORMS)
def test_one_table_in_every_form_is_the_same_inputs(form):
    table = frames()
    expected = TablePreparation().fit_transform(table)
    X = in_form(form, table)
    np.testing.assert_array_equal(TablePreparation().fit_transform(X), expected)
    if form != "objects":
        # Learned from one form, used with another.
        np.testing.assert_array_equal(TablePreparation().fit(table).transform(X), expected)


def test_a_frame_says_what_is_a_category():
    pandas = pytest.importorskip("pandas", reason="pip install pandas")
    X = pandas.DataFrame({"n": pandas.Categorical([1, 2, 3] * 10), "x": np.arange(30) % 7})
    assert TablePreparation().fit(X).get_feature_names_out().tolist() == ["x", "n = 1", "n = 2", "n = 3"]
    for asked in (["x"], [1], [False, True]):
        names = TablePreparation(categorical_features=asked).fit(X).get_feature_names_out()
        assert len(names) == 3 + 7


def test_the_decimal_mark_of_a_table_decides_for_a_column_that_does_not_tell():
    german = {"a": [f"{k},5" for k in range(30)], "b": [f"{k + 11},345" for k in range(30)]}
    english = {"a": [f"{k}.5" for k in range(30)], "b": german["b"]}
    assert TablePreparation().fit(german).scales_[1].centre == pytest.approx(25.845)
    assert TablePreparation().fit(english).scales_[1].centre == pytest.approx(25_845)
    assert TablePreparation(decimal=",").fit(english).scales_[1].centre == pytest.approx(25.845)


# --- New tables ---


def fitted():
    return TablePreparation().fit(frames())


def changed(**columns):
    table = {name: cells[:12] for name, cells in frames().items()}
    return table | columns


def test_columns_are_found_by_name_whatever_their_order_and_company():
    preparation = fitted()
    table = changed()
    expected = preparation.transform(table)
    shuffled = dict(reversed(table.items())) | {"more": [1] * 12}
    np.testing.assert_array_equal(preparation.transform(shuffled), expected)


def test_new_levels_and_new_gaps_are_answered():
    preparation = fitted()
    names = preparation.get_feature_names_out().tolist()
    X = preparation.transform(changed(town=["w", None] * 6, x=[None] * 12))
    assert np.all(X[:, [i for i, name in enumerate(names) if name.startswith("town")]] == 0.0)
    assert np.all(X[:, names.index("x")] == 0.0)
    _, notes = preparation.transform_with_notes(changed(town=["w"] + ["x"] * 11, x=[None] * 12))
    assert notes == [
        ("x: 12 missing, none in training: the median.", False),
        ("town: 1 row with what the model has no input for ('w'): all zeros.", False),
    ]


@pytest.mark.filterwarnings("ignore::xpmlp.tabular.TableWarning")
@pytest.mark.parametrize(
    ("columns", "same"),
    [
        ({"whole": [str(k * 7 % 11) for k in range(12)]}, True),
        ({"whole": [float(k * 7 % 11) for k in range(12)]}, True),
        ({"truth": ["TRUE", "False"] * 6}, True),
        ({"truth": [1, 0] * 6}, True),
        ({"when": [str(datetime(2024, 1, 1) + timedelta(days=3 * k, hours=k % 5)) for k in range(12)]}, True),
        ({"paid": [int(cell.strip("$").replace(",", "")) for cell in frames()["paid"][:12]]}, True),
        ({"town": list("XYZ") * 4}, False),
    ],
)
def test_another_dtype_of_the_same_cells_is_the_same(columns, same):
    preparation = fitted()
    assert np.array_equal(preparation.transform(changed(**columns)), preparation.transform(changed())) == same


def test_codes_are_found_though_a_gap_made_them_floats():
    preparation = TablePreparation(categorical_features=["code"]).fit({"code": [1, 2, 3] * 5, "x": range(15)})
    expected = preparation.transform({"code": [1, 2, 3], "x": [0, 0, 0]})
    for cells in (["1.0", "2.0", "3.0"], [1.0, 2.0, 3.0], ["1", "2", "3"]):
        np.testing.assert_array_equal(preparation.transform({"code": cells, "x": [0, 0, 0]}), expected)


def test_another_writing_of_every_row_is_a_warning():
    with pytest.warns(
        TableWarning, match="That is every row; in training it had 'x', 'y', 'z': is it written otherwise"
    ):
        fitted().transform(changed(town=["X"] * 12))
    with pytest.warns(TableWarning, match=r"1 of 12 cells is no number \('wide' in row 4\): taken as missing"):
        fitted().transform(changed(x=[0.5] * 4 + ["wide"] + [1] * 7))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"x": ["wide"] * 11 + ["1"]},
            "column 'x' must hold numbers, as in training; it has 'wide' in row 0, and 11 of its 12",
        ),
        ({"x": [date(2024, 1, 1)] * 12}, "column 'x' must hold numbers, as in training; it holds dates"),
        ({"x": [0.0] * 5 + [math.inf] + [0.0] * 6}, "column 'x' must be finite; it holds infinity in row 5"),
        ({"when": [1.5] * 12}, "column 'when' must hold dates, as in training; it holds numbers"),
        ({"x": [[1, 2]] * 12}, "column 'x' must hold numbers, texts, truths or dates; it holds a list."),
    ],
)
def test_what_does_not_fit_is_named(columns, message):
    with pytest.raises((ValueError, TypeError)) as raised:
        fitted().transform(changed(**columns))
    assert message in str(raised.value)


def test_a_missing_column_is_named():
    table = changed()
    del table["town"]
    with pytest.raises(ValueError, match=r"the columns of the training; 'town' is not there\. Its columns: x, whole"):
        fitted().transform(table)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ({"a": ["x"] * 9}, "no column of these 9 rows is left to learn from (a: 'x' in every row)"),
        ({"a": [1, 2], "b": [1]}, "all columns of X must have the same number of rows; got [1, 2]"),
        ([{"a": math.inf}, {"a": 1.0}], "column 'a' must be finite; it holds infinity in row 0"),
    ],
)
def test_what_is_no_table_is_refused(X, message):
    with pytest.raises(ValueError) as raised:
        TablePreparation().fit(X)
    assert message in str(raised.value)


def test_two_columns_of_one_name_are_refused_by_name():
    pandas = pytest.importorskip("pandas", reason="pip install pandas")
    with pytest.raises(ValueError, match=r"\ba\b"):
        TablePreparation().fit(pandas.DataFrame([[1, 2], [3, 4]], columns=["a", "a"]))


def test_a_lazy_frame_is_asked_to_be_collected():
    polars = pytest.importorskip("polars", reason="pip install polars")
    with pytest.raises(TypeError, match=r"call \.collect"):
        TablePreparation().fit(polars.LazyFrame({"a": [1, 2]}))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"categorical_features": ["y"]}, "'y' is none. Its columns: a"),
        ({"categorical_features": [True, False]}, "as a mask must have an entry for each of 1 columns; got 2"),
        ({"categorical_features": "all"}, "must be one of 'from_dtype'"),
        ({"n_bins": 1}, "n_bins must be a whole number of at least 2"),
        ({"max_levels": 0}, "max_levels must be"),
        ({"missing": "none"}, "missing must be a sequence of words"),
        ({"decimal": ";"}, "decimal must be one of"),
    ],
)
def test_parameters_are_checked(parameters, message):
    with pytest.raises((ValueError, TypeError)) as raised:
        TablePreparation(**parameters).fit({"a": [1, 2, 5]})
    assert message in str(raised.value)


def test_a_failed_fit_leaves_a_fitted_one_as_it_was():
    preparation = fitted()
    before = preparation.transform(frames())
    with pytest.raises(ValueError):
        preparation.fit({"a": [math.inf, 1.0]})
    np.testing.assert_array_equal(preparation.transform(frames()), before)


def test_words_of_ones_own_are_gaps():
    assert names_of(["None", "mild", "bad"] * 12, missing=["None"]) == ["c = bad", "c = mild", "c is missing"]


def test_the_most_frequent_levels_have_inputs():
    cells = [f"level {k % 90:02d}" for k in range(190)]
    preparation = prepared(cells)
    assert len(preparation.get_feature_names_out()) == 1 + 64
    assert np.sum(preparation.transform({"c": ["level 89"], "other": [0.0]})[0, 1:]) == 0.0


# --- Files ---


def test_json_there_and_back_is_the_same():
    preparation = fitted()
    document = json.loads(json.dumps(preparation.to_dict(), allow_nan=False))
    back = TablePreparation.from_dict(document)
    np.testing.assert_array_equal(back.transform(frames()), preparation.transform(frames()))
    assert back.to_dict() == preparation.to_dict()
    assert back.get_params() == preparation.get_params()
    assert back.get_feature_names_out().tolist() == preparation.get_feature_names_out().tolist()


def test_a_document_that_makes_no_sense_is_refused():
    document = fitted().to_dict()
    kinds, scales = document["kinds"], document["scales"]
    bad = [
        {"format": 9},
        {"kinds": []},
        {"kinds": kinds[1:]},
        {"kinds": 3},
        {"kinds": [["number", kinds[0][1]]] * len(kinds)},
        {"kinds": [["category", {"name": "a", "levels": [1, 2]}], *kinds[1:]]},
        {"kinds": [["unheard of", {}], *kinds[1:]]},
        {"scales": [[0.0, -1.0, [0.0, 1.0]], *scales[1:]]},
        {"scales": [[0.0, 1.0, [1.0, 0.0]], *scales[1:]]},
        {"scales": scales[1:]},
        {"silent": [10_000]},
        {"parameters": {"unheard_of": 1}},
    ]
    for change in bad:
        with pytest.raises((ValueError, TypeError, KeyError)):
            TablePreparation.from_dict(document | change)


# --- scikit-learn ---


@parametrize_with_checks([TablePreparation()])
def test_scikit_learns_checks(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(estimator)


def test_clones_and_pandas_output():
    pandas = pytest.importorskip("pandas", reason="pip install pandas")
    preparation = clone(TablePreparation(n_bins=8, missing=("x",))).set_output(transform="pandas")
    found = preparation.fit_transform(frames())
    assert isinstance(found, pandas.DataFrame)
    assert list(found.columns) == preparation.get_feature_names_out().tolist()


def test_scales_are_learned_anew_of_columns_that_are_known():
    table = {
        "price": ["1.200,5", "900,25", "", "2.000,75"] * 10,
        "town": ["A", "B", "A", "C"] * 10,
        "late": ["", "x", "", ""] * 10,
        "when": ["2024-01-01", "2024-02-01", "2024-03-01", ""] * 10,
    }
    dicts = [dict(zip(table, cells, strict=True)) for cells in zip(*table.values(), strict=True)]
    known = TablePreparation().fit(dicts)
    rows = np.arange(0, 40, 2)  # neither B nor C, and no "x": those inputs are never trained
    by_rows = TablePreparation().fit(dicts, rows=rows).to_dict()
    assert copy.deepcopy(known).fit_scales(dicts, rows=rows).to_dict() == by_rows
    # Of these rows alone price would be whole numbers with gaps, town a constant, and decimals points.
    alone = copy.deepcopy(known).fit_scales([dicts[i] for i in rows]).to_dict()
    assert alone == by_rows
    assert alone["kinds"] == known.to_dict()["kinds"]
    assert alone["scales"] != known.to_dict()["scales"]
    with pytest.raises(ValueError, match=re.escape("'price' is not there")):
        known.fit_scales([{name: row[name] for name in row if name != "price"} for row in dicts])


@pytest.mark.parametrize("rows", [[], [0.5], [3], [-1], [[0, 1]], [True, False]])
def test_rows_that_are_none_of_the_table_are_told(rows):
    table = [{"a": 1.0}, {"a": 2.0}, {"a": 4.0}]
    told = re.escape("rows must be numbers of rows of X, from 0 to 2, one at least, or a mask of 3; got ")
    with pytest.raises(ValueError, match=told):
        TablePreparation().fit(table, rows=rows)
    with pytest.raises(ValueError, match=told):
        TablePreparation().fit(table).fit_scales(table, rows=rows)
    masked, numbered = (TablePreparation().fit(table, rows=which) for which in ([True, False, True], [0, 2]))
    assert masked.to_dict() == numbered.to_dict()
