#!/usr/bin/env python
"""How fast xpmlp is on the CPU, beside scikit-learn, PyTorch, JAX, skorch and the bare matrix products.

    python benchmarks/cpu.py                                    everything; about fifteen minutes
    python benchmarks/cpu.py --sections fits --workloads digits images --candidates core scikit-learn
    python benchmarks/cpu.py --profile images                   where the time of one fit goes

benchmarks/README.md says what is timed and how. The report is printed and written, with all figures as CSV and a bar
chart, into benchmarks/results/.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workers import environment, measure

HERE = Path(__file__).resolve().parent
OF_CASES = ("sparse", "sparse predict", "predict", "row", "lbfgs", "stopping", "partial_fit", "members")
SECTIONS = ("fits", *OF_CASES, "tables", "threads", "many", "memory", "memory above X", "linear", "import")


# --- Processes of a whole section: pinned, the threads set before anything is imported ---


def ask(section: str, threads: int, cores: Sequence[int], **arguments: Any) -> Any:
    """What a fresh pinned process found for a section of sections.py."""
    request = json.dumps({"section": section, "cores": list(cores)[:threads], "threads": threads, **arguments})
    done = subprocess.run(
        [sys.executable, str(Path(__file__).resolve()), "--worker", request],
        env=environment(threads),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"section {section} ended with exit status {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def work(request: str) -> None:
    """The other end of `ask`."""
    arguments = json.loads(request)
    cores = arguments.pop("cores")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)  # XLA makes as many threads as it sees cores
    from sections import SECTIONS

    print(json.dumps(SECTIONS[arguments.pop("section")](**arguments)))


def time_imports(repeats: int) -> dict[str, Any]:
    """Seconds of each import in fresh processes, the start of Python not counted."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])}
    from report import IMPORTS

    times: dict[str, Any] = {name: {"times": []} for name in IMPORTS}
    for turn in range(repeats + 1):  # the first writes the .pyc files
        for name, statement in IMPORTS.items() if turn % 2 == 0 else reversed(IMPORTS.items()):
            code = f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
            done = subprocess.run([sys.executable, "-c", code], check=False, env=env, capture_output=True, text=True)
            if done.returncode:
                times[name] = {"absent": done.stderr.strip().splitlines()[-1], "times": []}
            elif turn:
                seconds = float(done.stdout)
                times[name]["times"].append((seconds, seconds))
    return times


def machine(cores: Sequence[int], sets: Sequence[int]) -> dict[str, str]:
    """What the figures depend on, besides versions."""
    processor = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    found = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": processor,
        "system": f"{platform.system()} {platform.machine()}",
        "cores": str(len(cores)),
        "threads": ", ".join(map(str, sets)),
    }
    if hasattr(os, "getloadavg"):
        found["load"] = f"{os.getloadavg()[0]:.1f} at the start"
    return found


# --- The command ---


def parsed(argv: Sequence[str] | None = None) -> argparse.Namespace:
    sys.path.insert(0, str(HERE))
    from candidates import CANDIDATES, WORKLOADS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    choose = {"nargs": "+", "metavar": "NAME"}
    parser.add_argument("--sections", **choose, choices=SECTIONS, default=list(SECTIONS), help=", ".join(SECTIONS))
    parser.add_argument("--workloads", **choose, choices=list(WORKLOADS), default=list(WORKLOADS))
    defaults = [row.name for row in CANDIDATES.values() if row.default]
    parser.add_argument("--candidates", **choose, choices=CANDIDATES, default=defaults, help=", ".join(CANDIDATES))
    parser.add_argument("--repeats", type=int, default=5, help="rounds after one warm-up of each candidate")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="more than 1: only the workload wide")
    parser.add_argument("--cores", type=int, nargs="+", help="cores to be pinned to; by default the last ones")
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu: processor time, for a machine that is not quiet"
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes: see that it runs; the times mean nothing")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="the folder to write to")
    parser.add_argument("--name", default="cpu", help="NAME.txt, NAME.csv and NAME.png are written; by default cpu")
    parser.add_argument("--profile", metavar="WORKLOAD", choices=list(WORKLOADS), help="profile the first candidate")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    if "--worker" in sys.argv[1:]:  # before anything is imported: threads are pinned first
        work(sys.argv[-1])
        return 0
    arguments = parsed(argv)
    from candidates import CANDIDATES
    from report import Report, chart
    from report_cases import chart_cases

    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    cores = arguments.cores or list(reversed(allowed))
    given = {"repeats": arguments.repeats, "quick": arguments.quick, "candidates": arguments.candidates}
    if arguments.profile:
        print(ask("profile", 1, cores, workload=arguments.profile, candidate=given.pop("candidates")[0], **given))
        return 0

    about = machine(allowed, arguments.threads) | ask("environment", 1, cores)
    about |= {"clock": arguments.clock, "rounds": str(arguments.repeats)}
    titles = {row.name: row.title for row in CANDIDATES.values()}
    report = Report(titles, clock=("wall", "cpu").index(arguments.clock), marks=not arguments.quick)
    report.say("xpmlp on the CPU" + (" (quick: the times mean nothing)" if arguments.quick else ""), "")
    report.say(*(f"{name:<18}{value}" for name, value in about.items()))

    for section in arguments.sections:
        found = run(section, report, arguments, cores, given)
        report.write(arguments.out, arguments.name, about)  # what is there, should the next section never end
        if section == "fits" and found and not chart(report, found, about, arguments.out / f"{arguments.name}.png"):
            print("No chart: matplotlib is absent.", file=sys.stderr)
    chart_cases(report, OF_CASES, about, arguments.out / f"{arguments.name}-cases.png")
    if report.missed:
        report.head("Targets missed")
        report.say(*(f"  {line}" for line in report.missed))
    print("\n".join(report.lines))
    report.write(arguments.out, arguments.name, about)
    if set(arguments.sections) == set(SECTIONS) and not arguments.quick and arguments.out == HERE / "results":
        import readme

        readme.write()
    return 1 if report.failed else 0


def run(section: str, report: Any, arguments: argparse.Namespace, cores: Sequence[int], given: dict[str, Any]) -> Any:
    """Measure a section and report it."""
    import report as reports
    from report_cases import report_cases
    from section_memory import KINDS, TABLES, report_above_x
    from section_tables import report_tables
    from section_threads import report_threads

    timing = {"repeats": arguments.repeats, "quick": arguments.quick, "cores": cores}
    if section == "fits":
        found: Any = time_fits(arguments, timing)
        reports.report_fits(report, found)
    elif section in OF_CASES:
        from cases import SECTIONS as CASES

        cases = list(CASES[section].cases)
        cases = cases[:2] if arguments.quick else cases
        found = measure(section, cases, CASES[section].candidates, threads=1, **timing)
        report_cases(report, section, found)
    elif section == "memory":
        found = weigh(arguments, cores)
        reports.report_memory(report, found)
    elif section == "memory above X":
        kinds = KINDS[:2] if arguments.quick else KINDS
        found = {kind: ask("above_x", 1, cores, kind=kind, quick=arguments.quick) for kind in kinds}
        found |= {kind: ask("tables_above_x", 1, cores, kind=kind, quick=arguments.quick) for kind in TABLES}
        report_above_x(report, found)
    elif section == "import":
        found = time_imports(2 if arguments.quick else 11)
        reports.report_imports(report, found)
    else:
        found = ask(section, len(cores) if section == "threads" else 1, cores, **given)
        known = {"many": reports.report_many, "linear": reports.report_linear, "tables": report_tables}
        (known | {"threads": report_threads})[section](report, found)
    return found


def time_fits(arguments: argparse.Namespace, timing: dict[str, Any]) -> dict[int, Any]:
    """The fits of each number of threads."""
    found = {}
    for threads in sorted(set(arguments.threads)):
        workloads = [name for name in arguments.workloads if threads == 1 or name == "wide"]
        if threads > len(timing["cores"]):
            print(f"left out: {threads} threads, for there are {len(timing['cores'])} cores", file=sys.stderr)
        elif workloads:
            found[threads] = measure("fits", workloads, arguments.candidates, threads=threads, **timing)
    return found


def weigh(arguments: argparse.Namespace, cores: Sequence[int]) -> dict[str, Any]:
    """The memory of each fit, in a process of its own."""
    names = [name for name in ("scikit-learn", "xpmlp", "core") if name in arguments.candidates]

    def fit(workload: str, candidate: str, traced: bool) -> Any:
        return ask("memory", 1, cores, workload=workload, candidate=candidate, traced=traced, quick=arguments.quick)

    return {
        workload: {
            name: {"allocated": fit(workload, name, True), "resident": fit(workload, name, False)} for name in names
        }
        for workload in ("images", "wide")
        if workload in arguments.workloads
    }


if __name__ == "__main__":
    sys.exit(main())
