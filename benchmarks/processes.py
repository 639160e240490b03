"""What a second process gains, and what the seam for it costs: `python benchmarks/processes.py`, about ten minutes.

    python benchmarks/processes.py                        MPI and gloo, on two idle cores; writes results/processes.md
    python benchmarks/processes.py --engines gloo
    python benchmarks/processes.py --quick --out x.md     see that all of it runs; its times mean nothing

One process trains on shards, and two do: in turns, each round in processes of its own, one a core, one BLAS thread
each. A figure is the median over the rounds of the median time of an epoch, by its steps. Efficiency is the time of
one over twice that of two. The seam is what a process pays for handing its gradient to a sum of which it is the only
part.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import time
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
# columns, hidden layers, classes, batch, steps of an epoch
CASES: dict[str, tuple[int, tuple[int, ...], int, int, int]] = {
    "54-256-128-7, batch 256": (54, (256, 128), 7, 256, 200),
    "54-256-128-7, batch 1,024": (54, (256, 128), 7, 1024, 100),
    "54-256-128-7, batch 8,192": (54, (256, 128), 7, 8192, 24),
    "256-2048-1024-10, batch 1,024": (256, (2048, 1024), 10, 1024, 12),
    "256-2048-1024-10, batch 4,096": (256, (2048, 1024), 10, 4096, 4),
}
AIMS = {("mpi", "54-256-128-7, batch 1,024"): 0.85, ("gloo", "54-256-128-7, batch 8,192"): 0.8}
MOST_OF_THE_SEAM = 0.05  # of a step, at batch 1,024
EPOCHS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engines", nargs="+", choices=["mpi", "gloo"], default=["mpi", "gloo"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "processes.md")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(worked(options.worker, options.quick)))
        return
    engines = [engine for engine in options.engines if engine != "mpi" or shutil.which("mpiexec")]
    rounds = 1 if options.quick else options.rounds
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in ("alone", *engines, "seam")}
    for turn in range(rounds):
        for name in found if turn % 2 == 0 else reversed(found):
            found[name].append(launched(name, options.quick))
            print(f"round {turn + 1} of {rounds}: {name}", file=sys.stderr)
    text = report(found, engines)
    options.out.write_text(text, encoding="utf-8")
    print(text)


def launched(name: str, quick: bool) -> dict[str, Any]:
    """What the processes of one run have measured, as rank 0 tells it."""
    command = [sys.executable, __file__, "--worker", name, *(["--quick"] if quick else [])]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    if name != "gloo":
        if name == "mpi":
            command = ["mpiexec", "-n", "2", *command]
            environment |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr)
        return told(done.stdout)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = []
    for rank in range(2):
        own = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        own |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        processes.append(subprocess.Popen(command, env=environment | own, stdout=subprocess.PIPE, text=True))
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit("a process of gloo's has failed")
    return told(outputs[0])


def told(output: str) -> dict[str, Any]:
    """The line of a run that is no empty object: rank 0's."""
    found: dict[str, Any] = next(filter(None, map(json.loads, output.splitlines())))
    return found


# --- In the processes ---


def worked(name: str, quick: bool) -> dict[str, Any]:
    """Milliseconds of a step, and the share spent in the sum, of each case."""
    from xpmlp import distributed

    warnings.simplefilter("ignore")
    group = {"mpi": distributed.mpi, "gloo": distributed.torch}.get(name, distributed.alone)()
    if hasattr(os, "sched_setaffinity"):  # one process a core, as mpiexec has it too
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[group.rank % len(cores)]})
    cases = {case: (*rest, 2 if quick else steps) for case, (*rest, steps) in CASES.items()}
    if name == "seam":
        return seam({case: it for case, it in cases.items() if it[0] == 54}, quick)
    found = {case: stepped(*it, group) for case, it in cases.items()}
    return found if group.rank == 0 else {}


def seam(cases: dict[str, Any], quick: bool) -> dict[str, Any]:
    """The same of one process: with nobody to sum with, with a sum of its own gradient, and in a fixed order."""
    from xpmlp import distributed
    from xpmlp.estimators.dealing import Deal
    from xpmlp.runners.reduction import Sum

    def summed(deal: Any, data: Any, n_parameters: int) -> Any:
        return Sum(deal.group, deal.place, (n_parameters,), deal.dtype, lambda: data.parts)

    found: dict[str, Any] = {}
    plain: Any = Deal.together
    for case, it in cases.items():
        times: dict[str, list[float]] = {"without": [], "with": [], "in order": []}
        for turn in range(1 if quick else 3):
            for kind in times if turn % 2 == 0 else reversed(times):
                Deal.together = summed if kind == "with" else plain  # type: ignore[method-assign]
                group = distributed.alone(fixed_order=kind == "in order")
                times[kind].append(stepped(*it, group)["ms"])
        # The median of the ratios within a round: what slows the machine for a while slows both.
        ratios = {kind: median(a / b for a, b in zip(times[kind], times["without"], strict=True)) for kind in times}
        found[case] = {"ms": {kind: median(values) for kind, values in times.items()}, "ratios": ratios}
    Deal.together = plain  # type: ignore[method-assign]
    return found


def stepped(columns: int, hidden: Any, classes: int, batch: int, steps: int, group: Any) -> dict[str, float]:
    """The milliseconds of a step in the median epoch, and the share of it spent in the sum."""
    import numpy as np

    from xpmlp import MLPClassifier, shards

    rng = np.random.default_rng(0)
    X = rng.standard_normal((batch * steps, columns), dtype=np.float32)
    y = np.argmax(X[:, :classes], axis=1)
    at: list[float] = []
    model = MLPClassifier(hidden, batch_size=batch, max_iter=EPOCHS, tol=0.0, random_state=0, verbose=True)
    model.set_params(callbacks=lambda *_: at.append(time.perf_counter()))
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        model.fit(shards.from_arrays(X, y, classes=np.arange(classes)), group=group)
    shares = [int(share) for share in re.findall(r"sum: (\d+)%", printed.getvalue())]
    spent = median(np.diff(at).tolist()) / steps * 1000.0
    return {"ms": spent, "sum": median(shares[1:]) / 100 if shares else 0.0}


# --- The report ---


def report(found: dict[str, list[dict[str, Any]]], engines: list[str]) -> str:
    """The tables, in Markdown."""
    names = ["numpy", "torch", "mpi4py"]
    lines = [
        "# What a second process gains",
        "",
        f"`python benchmarks/processes.py`, {time.strftime('%Y-%m-%d')}; {platform.machine()}, {os.cpu_count()} cores; "
        f"Python {platform.python_version()}, {', '.join(f'{name} {version_of(name)}' for name in names)}; "
        f"{len(found['alone'])} rounds; load at the end {os.getloadavg()[0]:.1f}. Milliseconds a step of one process, "
        "of two (in brackets the share of it in the sum, waiting for the other included), and the time of one over "
        "twice that of two.",
        "",
        "| network, batch | 1 process | " + " | ".join(f"2 by {engine} | efficiency" for engine in engines) + " |",
        "|---|---|" + "---|---|" * len(engines),
    ]
    for case in CASES:
        one = median(run[case]["ms"] for run in found["alone"])
        cells = [f"{one:.2f}"]
        for engine in engines:
            two = median(run[case]["ms"] for run in found[engine])
            share = median(run[case]["sum"] for run in found[engine])
            aim = AIMS.get((engine, case))
            efficiency = one / two / 2.0
            mark = "" if aim is None else f" (aim {aim}: {'reached' if efficiency >= aim else 'missed'})"
            cells += [f"{two:.2f} ({share:.0%})", f"{efficiency:.2f}{mark}"]
        lines.append(f"| {case} | {' | '.join(cells)} |")
    lines += [
        "",
        "What one process pays where its gradient goes through a sum, of which it is the only part; and where lanes",
        "are summed in a fixed order:",
        "",
        "| network, batch | without | with | in a fixed order |",
        "|---|---|---|---|",
    ]
    for case in found["seam"][0]:
        ms = {kind: median(run[case]["ms"][kind] for run in found["seam"]) for kind in ("without", "with", "in order")}
        more = {kind: median(run[case]["ratios"][kind] for run in found["seam"]) - 1.0 for kind in ms}
        mark = ""
        if case == "54-256-128-7, batch 1,024":
            mark = f", aim 5 %: {'reached' if more['with'] <= MOST_OF_THE_SEAM else 'missed'}"
        lines.append(
            f"| {case} | {ms['without']:.2f} | {ms['with']:.2f} ({more['with']:+.1%}{mark}) | "
            f"{ms['in order']:.2f} ({more['in order']:+.1%}) |"
        )
    return "\n".join(lines) + "\n"


def version_of(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "absent"


if __name__ == "__main__":
    main()
