"""What several BLAS threads cost where other processes are busy, and win where they are not."""

import contextlib
import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from report import Goal, Report
from timing import rounds

# sizes, batch, steps of a fit
CASES = {
    "circles": ((2, 4, 3, 2), 1_000, 100),
    "20-64-64-1": ((20, 64, 64, 1), 200, 100),
    "digits": ((64, 100, 10), 200, 50),
    "tabular, 32": ((54, 256, 128, 7), 32, 50),
    "tabular, 256": ((54, 256, 128, 7), 256, 20),
    "images": ((784, 512, 256, 10), 128, 10),
    "wide": ((1_024, 2_048, 2_048, 10), 1_024, 2),
}
LIMITED = ("circles", "20-64-64-1", "digits", "tabular, 32", "tabular, 256")  # the fits that take one thread
MOST_CPU = 1.25  # times that of one thread, on a busy machine
MOST_WALL = 1.05  # times that of all threads, on a free machine


def threads(*, repeats: int, quick: bool, threads: int, **_: Any) -> dict[str, Any]:
    """Times by case and by what else runs: of the default, of one thread, and of all that BLAS may take."""
    found: dict[str, Any] = {}
    for busy in (0, threads):
        with _processes(busy):
            for name, (sizes, batch, steps) in CASES.items():
                work = _fit(sizes, batch, 1 if quick else steps)
                ready = {"default": work("auto", None), "one": work("all", 1), "all": work("all", None)}
                for fit in ready.values():
                    fit()
                if busy and name not in LIMITED:
                    del ready["all"]
                found.setdefault(name, {})["busy" if busy else "free"] = rounds(ready, 1 if quick else repeats)
    return {"threads": threads, "cases": found}


def _fit(sizes: tuple[int, ...], batch: int, steps: int) -> Callable[[str, int | None], Callable[[], None]]:
    rng = np.random.default_rng(0)
    X = rng.standard_normal((batch, sizes[0]), dtype=np.float32)
    y = rng.standard_normal((batch, sizes[-1]), dtype=np.float32)
    xpmlp, threadpoolctl = importlib.import_module("xpmlp"), importlib.import_module("threadpoolctl")

    def of(setting: str, limit: int | None) -> Callable[[], None]:
        def fit() -> None:
            net = xpmlp.MLP(sizes, loss="squared_error", dtype="float32", random_state=0)
            with xpmlp.config_context(threads=setting), threadpoolctl.threadpool_limits(limit, user_api="blas"):
                net.fit(X, y, epochs=steps, batch_size=batch)

        return fit

    return of


@contextlib.contextmanager
def _processes(n: int) -> Iterator[None]:
    """Some processes that are busy for nothing, on the cores of this one."""
    idle = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n)]
    try:
        yield
    finally:
        for process in idle:
            process.kill()
            process.wait()


def report_threads(report: Report, found: dict[str, Any]) -> None:
    """Ratios of CPU time where the machine is busy, of wall time where it is free."""
    n = found["threads"]
    report.head(f"Threads: {n} that BLAS may take, the default over one (CPU time) and over all (wall)")
    report.say(f"{'':<16}{'busy: default/one':>20}{'all/one':>10}{'free: default/all':>22}")
    for name, at in found["cases"].items():
        line = f"  {name:<14}"
        goal = Goal(at_most=MOST_CPU) if name in LIMITED else None
        values = _ratios(at["busy"], "default", "one", clock=1)
        ratio, mark = report.row("threads", name, "busy: default / one, CPU time", "", values, goal, n)
        line += f"{ratio:>16.2f} {mark:<3}"
        if "all" in at["busy"]:
            values = _ratios(at["busy"], "all", "one", clock=1)
            line += f"{report.row('threads', name, 'busy: all / one, CPU time', '', values, None, n)[0]:>10.2f}"
        else:
            line += " " * 10
        goal = Goal(at_most=MOST_WALL) if name not in LIMITED else None
        values = _ratios(at["free"], "default", "all", clock=0)
        ratio, mark = report.row("threads", name, "free: default / all, wall", "", values, goal, n)
        report.say(f"{line}{ratio:>18.2f} {mark}")


def _ratios(times: dict[str, Any], over: str, under: str, clock: int) -> list[float]:
    return [o[clock] / u[clock] for o, u in zip(times[over], times[under], strict=True)]
