"""What a cell of a table means: a gap, a number as people write it, a code, a truth or a date.

    read_number("12,345")            12345.0     grouping: , . ' or a space, in threes
    read_number("1.299,99", ",")     1299.99     a decimal comma
    read_number("($1,200.00)")      -1200.0      accounting brackets, currencies
    read_number("−12.5 %")            -12.5      U+2212 as minus; a percentage is the number that is written
    read_number("007")                 None      a code: a leading zero, an underscore, more than 15 digits
    read_number("Infinity")             inf      who asks must refuse it by its place

Which mark is the decimal one cannot be seen in "12,345" alone: the column is asked (`decimal_mark`), and its table.
"""

import math
import re
from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

# Gaps in every column, and those that are gaps only among numbers and dates: elsewhere None and NA are names (no
# disorder, Namibia).
GAPS = frozenset({"", "nan", "nat", "<na>", "n/a", "#n/a", "null", "?"})
GAPS_AMONG_NUMBERS = GAPS | {"na", "none", "-", "--", "\u2013", "\u2014", "."}  # dashes, short and long
TRUTHS = ("false", "true")

MINUS = "-\u2212"
SIGN = "\\-\u2212"  # within the brackets of a pattern
CURRENCIES = (
    "USD|EUR|GBP|CHF|JPY|CNY|INR|AUD|CAD|NZD|SEK|NOK|DKK|PLN|CZK|HUF|RUB|BRL|ZAR|KRW|MXN|TRY|SGD|HKD|"
    r"(?:US|AU|CA|NZ|HK|[ACRS])?\$|[£¤¥€₩₪₫₱₹₺₽₿¢]|kr\.?|Rs\.?|Fr\.?|zł|Kč"
)
PLAIN = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
SURELY = re.compile(r"[+-]?(?:0|[1-9][0-9]{0,14})(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?")
CODE = re.compile(r"[+-]?0[0-9]+(?:[.,][0-9]*)?|[+-]?[0-9]{16,}|[0-9]+(?:_[0-9]+)+")
WHOLE_AS_FLOAT = re.compile(r"([+-]?[0-9]+)\.0+")
SAMPLE = 1_000  # different cells that are asked for the decimal mark


class Number(NamedTuple):
    """A cell that is a number, and how it was written."""

    value: float
    unit: str = ""  # a currency, or %
    grouped: bool = False


def _pattern(decimal: str) -> re.Pattern[str]:
    point, group = re.escape(decimal), re.escape("," if decimal == "." else ".")
    rest = f"(?:{point}[0-9]+)?"
    grouped = rf"[1-9][0-9]{{0,2}}(?P<mark>[{group}'\u2019\u00a0\u202f\u2009 ])[0-9]{{3}}(?:(?P=mark)[0-9]{{3}})*{rest}"
    lakh = rf"[1-9][0-9]?(?:{group}[0-9]{{2}})+{group}[0-9]{{3}}{rest}"  # as India groups
    plain = rf"(?:[0-9]+(?:{point}[0-9]*)?|{point}[0-9]+)(?:[eE][+{SIGN}]?[0-9]+)?"
    return re.compile(
        rf"(?P<open>\()?(?P<sign>[+{SIGN}])?\s?(?P<before>{CURRENCIES})?\s?(?P<later>[+{SIGN}])?"
        rf"(?P<number>{grouped}|{lakh}|{plain})\s?(?P<after>%|{CURRENCIES})?(?P<close>\))?"
    )


PATTERNS = {".": _pattern("."), ",": _pattern(",")}


def is_gap(text: str, words: Iterable[str] = GAPS) -> bool:
    """Whether a cell says that there is nothing; `words` are lower case."""
    return text.strip().lower() in words


def is_plain(text: str) -> bool:
    """Whether a cell is a number as programs write it, which needs no second look; most are."""
    return SURELY.fullmatch(text) is not None


def is_code(text: str) -> bool:
    """Whether digits are a name: 007, 1_2, a key of more than 15 digits. Two of them must never become one number."""
    return CODE.fullmatch(text.strip()) is not None


def read_number(text: str, decimal: str = ".") -> Number | None:
    """The number that a cell holds, None where it is none; `decimal` is "." or ","."""
    text = text.strip()
    if CODE.fullmatch(text):
        return None
    if decimal == "." and PLAIN.fullmatch(text):
        return Number(float(text))
    found = PATTERNS[decimal].fullmatch(text)
    if found is None:
        bare = text.lstrip("+" + MINUS).lower()
        if bare in {"inf", "infinity"} and len(text) - len(bare) <= 1:
            return Number(-math.inf if text[0] in MINUS else math.inf)
        return None
    part = found.groupdict()
    signs = [sign for sign in (part["sign"], part["later"]) if sign]
    bracketed = part["open"] is not None
    if bracketed != (part["close"] is not None) or len(signs) + bracketed > 1 or (part["before"] and part["after"]):
        return None
    digits = part["number"]
    mark = part["mark"] or ("," if decimal == "." else ".")
    digits = digits.replace(mark, "").replace(decimal, ".").replace("\u2212", "-")
    negative = bracketed or (bool(signs) and signs[0] in MINUS)
    grouped = part["mark"] is not None or (mark in part["number"])
    return Number(-float(digits) if negative else float(digits), part["before"] or part["after"] or "", grouped)


def decimal_mark(texts: Iterable[str]) -> str | None:
    """The decimal mark of a column, from cells that are a number with only one of them; None where none says."""
    point = comma = 0
    for text, _ in zip(texts, range(SAMPLE), strict=False):
        if text.strip().isdigit():
            continue
        with_point, with_comma = read_number(text, "."), read_number(text, ",")
        point += with_comma is None and with_point is not None
        comma += with_point is None and with_comma is not None
    return None if point == comma else "." if point > comma else ","


def text_of(value: float) -> str:
    """A number as a text; whole ones without a decimal point."""
    return f"{value:.0f}" if float(value).is_integer() and abs(value) < 1e15 else repr(float(value))


def loosely(text: str) -> str:
    """What two writings of one thing share: 3 and 3.0 (a gap makes programs write so), True, TRUE and true."""
    text = text.strip()
    whole = WHOLE_AS_FLOAT.fullmatch(text)
    if whole:
        return whole[1]
    return text.lower() if text.lower() in TRUTHS else text


# --- Dates ---

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_CLOCK = (
    r"(?:[T ]\s*(?P<hour>[0-9]{1,2}):(?P<minute>[0-9]{2})(?::(?P<second>[0-9]{2})(?:[.,][0-9]+)?)?"
    r"\s?(?:Z|UTC|[+-][0-9]{2}:?[0-9]{2})?)?"
)
YEAR_FIRST = re.compile(r"(?P<year>[0-9]{4})([-/.])(?P<month>[0-9]{1,2})\2(?P<day>[0-9]{1,2})" + _CLOCK)
YEAR_LAST = re.compile(r"(?P<one>[0-9]{1,2})([-/.])(?P<two>[0-9]{1,2})\2(?P<year>[0-9]{4})" + _CLOCK)
WITH_NAME = re.compile(
    r"(?:(?P<day>[0-9]{1,2})[- .]+(?P<name>[A-Za-z]{3})[a-z]*\.?"
    r"|(?P<name2>[A-Za-z]{3})[a-z]*\.? (?P<day2>[0-9]{1,2}),?)[- ,]+(?P<year>[0-9]{4})" + _CLOCK
)


def read_date(text: str, order: str = "mdy") -> datetime | None:
    """The date that a cell holds, as it stands on a clock there; `order` ("mdy", "dmy") is of 03/04/2024 only."""
    text = text.strip()
    found = YEAR_FIRST.fullmatch(text) or YEAR_LAST.fullmatch(text) or WITH_NAME.fullmatch(text)
    if found is None:
        return None
    part = found.groupdict()
    if "month" in part:
        day, month = int(part["day"]), int(part["month"])
    elif "one" in part:
        day_first = order == "dmy" or found[2] == "."
        day, month = (int(part["one"]), int(part["two"]))[:: 1 if day_first else -1]
    else:
        name = (part["name"] or part["name2"]).lower()
        day, month = int(part["day"] or part["day2"]), MONTHS.index(name) + 1 if name in MONTHS else 0
    hour, minute, second = (int(part[name] or 0) for name in ("hour", "minute", "second"))
    try:
        return datetime(int(part["year"]), month, day, hour, minute, second)
    except ValueError:  # the 31st of February
        return None


def date_order(texts: Iterable[str]) -> str:
    """Whether 03/04/2024 begins with the day or with the month: what more of the cells can be; the month on a tie."""
    month_first = day_first = 0
    for text in texts:
        month_first += read_date(text, "mdy") is not None
        day_first += read_date(text, "dmy") is not None
    return "dmy" if day_first > month_first else "mdy"
