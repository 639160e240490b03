"""The commands and what can be said to them: a row for each, its parser, and the function that runs it, by name."""

import argparse
import textwrap
from collections.abc import Callable
from typing import Any, NamedTuple

from xpmlp.backends import BACKENDS
from xpmlp.cli.screen import width

# Options of `train` up to version 0.1, and what is to be said of them.
GONE = {
    "--activation": "the hidden units of networks for tables are SiLU; MLPClassifier and MLPRegressor take others.",
    "--l2": "weights decay by AdamW's rule, whose strength is --weight-decay.",
}


class Command(NamedTuple):
    """One command; `run` is "file:function" of this folder, imported when the command is run."""

    name: str
    summary: str
    examples: str
    run: str
    arguments: Callable[[argparse.ArgumentParser], None]

    def add_to(self, commands: Any) -> None:
        """Add its parser, whose help ends with examples."""
        parser = commands.add_parser(
            self.name,
            help=self.summary,
            description=textwrap.fill(self.summary[0].upper() + self.summary[1:] + ".", width() - 2),
            epilog="examples:\n" + textwrap.indent(textwrap.dedent(self.examples).strip(), "  "),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.arguments(parser)
        parser.add_argument("--json", action="store_true", help="print the result for a program to read")
        parser.set_defaults(run=self.run)


def _backends(_: argparse.ArgumentParser) -> None:
    """Nothing but --json."""


def _demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=("circles", "digits"))
    parser.add_argument("--seed", type=int, default=0, help="of data and weights (default: 0)")
    _backend(parser)


def _train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", help="the table")
    parser.add_argument("--target", required=True, metavar="COLUMN", help="what is to be predicted")
    parser.add_argument("--out", metavar="FILE", default="model.safetensors", help="the model (default: %(default)s)")
    parser.add_argument("--report", metavar="FILE", help="write a page with curves and figures, as report.html")
    parser.add_argument("--task", choices=("classification", "regression"), help="default: found out and said")
    _reading(parser)
    _words(parser)
    parser.add_argument("--drop", metavar="COLUMNS", default="", help="leave out; as id,name or extra_*")
    parser.add_argument("--categorical", metavar="COLUMNS", default="", help="numbers that are names: as zip,code_*")
    parser.add_argument("--hidden", metavar="SIZES", type=sizes, help="hidden units, as 128,64 (default: 256,256)")
    parser.add_argument("--members", type=int, help="networks that share their weights (default: 8)")
    parser.add_argument("--epochs", type=int, help="at most (default: about 900 steps, 32 to 256 epochs)")
    parser.add_argument("--time-limit", metavar="SECONDS", type=float, help="of the training (default: none)")
    parser.add_argument("--no-refit", dest="refit", action="store_false", help="do not train anew on all these rows")
    parser.add_argument("--batch-size", type=int, help="rows a step (default: 256)")
    parser.add_argument("--learning-rate", type=float, help="at its peak (default: 0.01)")
    parser.add_argument("--weight-decay", type=float, help="of the weights, by AdamW (default: 0.01)")
    parser.add_argument("--dropout", type=float, help="share of hidden units left out (default: 0.2)")
    parser.add_argument("--balanced", action="store_true", help="let every class weigh the same (classification)")
    parser.add_argument("--test-size", type=float, default=0.2, help="share of rows held out (default: 0.2)")
    parser.add_argument("--seed", type=int, default=0, help="of the split and of the weights (default: 0)")
    parser.add_argument("--dtype", choices=("float32", "float64"), help="default: float32")
    for name in ("--patience", *GONE):
        parser.add_argument(name, help=argparse.SUPPRESS)
    _backend(parser)


def _predict(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="the model file")
    parser.add_argument("data", help="the table: CSV, Excel, Parquet or npz")
    parser.add_argument("--proba", action="store_true", help="also the probability of each class")
    parser.add_argument("--out", metavar="FILE", help="write a CSV file (default: to the terminal)")
    parser.add_argument("--drop", metavar="COLUMNS", default="", help="columns that are not inputs")
    _reading(parser)
    _backend(parser)


def _inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="the model file")


def _export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="the model file")
    parser.add_argument("--onnx", metavar="FILE", required=True, help="the file to write")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="default: float32")


def _check_gradients(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="the model file")
    parser.add_argument("data", nargs="?", help="a table with the target (default: random numbers)")
    parser.add_argument("--drop", metavar="COLUMNS", default="", help="columns that are not inputs")
    _reading(parser)


def _bench(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--backend", metavar="NAME", action="append", choices=sorted(BACKENDS), help="only this one; may be repeated"
    )
    parser.add_argument("--seconds", type=float, default=1.0, help="for each backend and dtype (default: 1)")


# --- What several commands have ---


def _reading(parser: argparse.ArgumentParser) -> None:
    """How a CSV file is written."""
    parser.add_argument("--delimiter", metavar="CHAR", type=one_character, help="of a CSV file (default: found out)")
    parser.add_argument(
        "--header",
        action=argparse.BooleanOptionalAction,
        help="the CSV file begins with names (default: found out), or with data: column1, column2, ...",
    )
    parser.add_argument("--encoding", metavar="NAME", help="of a CSV file, as latin-1 (default: found out)")


def _words(parser: argparse.ArgumentParser) -> None:
    """What cells mean."""
    parser.add_argument("--missing", metavar="WORDS", default="", help="more words for nothing, as none,unknown")
    parser.add_argument("--decimal", choices=(".", ","), help="the decimal mark of numbers (default: found out)")


def _backend(parser: argparse.ArgumentParser) -> None:
    """Where the arithmetic is done."""
    parser.add_argument(
        "--backend", metavar="NAME", choices=sorted(BACKENDS), help=f"{', '.join(BACKENDS)} (default: numpy)"
    )
    parser.add_argument("--device", metavar="NAME", help="of that library, as cuda:0")
    parser.add_argument(
        "--fallback",
        choices=("warn", "error"),
        default="warn",
        help="where the backend cannot run here: go on with NumPy, or fail (default: warn)",
    )


def sizes(text: str) -> tuple[int, ...]:
    """Sizes of hidden layers, with commas between them; none for no hidden layer."""
    try:
        found = tuple(int(size) for size in text.split(",") if size.strip())
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be whole numbers as in 128,64; got {text!r}") from None
    if any(size < 1 for size in found):
        raise argparse.ArgumentTypeError(f"every layer needs at least 1 unit; got {text!r}")
    return found


def one_character(text: str) -> str:
    """A delimiter; a tab may be written as tab, or as backslash and t."""
    text = {"\\t": "\t", "tab": "\t"}.get(text, text)
    if len(text) != 1:
        raise argparse.ArgumentTypeError(f"must be one character; got {text!r}")
    return text


COMMANDS = (
    Command(
        "backends",
        "show which array libraries work on this machine, and what to do about the others",
        "xpmlp backends\nxpmlp backends --json",
        "machine:show_backends",
        _backends,
    ),
    Command(
        "demo",
        "watch a network learn: two circles, or hand-written digits",
        "xpmlp demo circles\nxpmlp demo digits --backend torch",
        "demo:demo",
        _demo,
    ),
    Command(
        "train",
        "train a network on a table: a CSV, Excel, Parquet or npz file, packed or not",
        """\
xpmlp train flowers.csv --target species
xpmlp train houses.parquet --target price --report report.html
xpmlp train big.csv.gz --target y --backend cupy --hidden 512,256 --epochs 50
xpmlp train data.csv --target grade --task regression --drop id

Numbers are read as people write them and scaled, names and dates become
inputs, gaps are told to the network; the model file remembers all of it. A
part of the rows is held out: the score that is printed is on rows never seen,
beside that of a constant answer and of a linear model.""",
        "train:train",
        _train,
    ),
    Command(
        "predict",
        "answer for each row of a table, with a model that train or save wrote",
        "xpmlp predict model.safetensors new.csv\n"
        "xpmlp predict model.safetensors new.csv --proba --out answers.csv\n\n"
        "Where the table has the target too, the score is printed to stderr.",
        "predict:predict",
        _predict,
    ),
    Command(
        "inspect",
        "say what is in a model file: layers, columns, classes, training, score",
        "xpmlp inspect model.safetensors\nxpmlp inspect model.safetensors --json",
        "look:inspect",
        _inspect,
    ),
    Command(
        "export",
        "write a model for other runtimes: ONNX",
        "xpmlp export model.safetensors --onnx model.onnx\n\n"
        "Scaling becomes part of the model: the inputs are the numbers as they stand in\n"
        "the table (the median for a missing one), then 0 and 1 for each gap and each\n"
        "category, in the order that is printed.",
        "export:export",
        _export,
    ),
    Command(
        "check-gradients",
        "compare every derivative of a model's loss with a numerical one",
        "xpmlp check-gradients model.safetensors data.csv\nxpmlp check-gradients model.safetensors\n\n"
        "On 32 rows of the table, or on random numbers. Exit status 1 if one is wrong.",
        "look:check",
        _check_gradients,
    ),
    Command(
        "bench",
        "train a network of the size of a tutorial's on each backend that works, and compare",
        "xpmlp bench\nxpmlp bench --backend torch --seconds 5\n\n"
        "The thorough measurements, against other libraries, are in benchmarks/ of the\nrepository: nox -s bench.",
        "machine:bench",
        _bench,
    ),
)
