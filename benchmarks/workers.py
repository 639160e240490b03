"""One process for each candidate of a section: pinned, its threads set before anything is imported.

Whoever measures asks one process at a time for one call, so that none finds the memory, the caches of an allocator or
the threads as another library has left them, and what slows the machine for a while still falls on all of them alike.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def environment(threads: int) -> dict[str, str]:
    """The variables of a process that is to measure the checkout in which this file lies."""
    env = dict(os.environ)
    for name in ("OMP", "OPENBLAS", "MKL", "BLIS"):
        env[f"{name}_NUM_THREADS"] = str(threads)
    env["VECLIB_MAXIMUM_THREADS"] = str(threads)
    env["CUDA_VISIBLE_DEVICES"], env["JAX_PLATFORMS"] = "", "cpu"
    env["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), *filter(None, [env.get("PYTHONPATH")])])
    return env


class Worker:
    """The process of one candidate."""

    def __init__(self, **request: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, json.dumps(request)],
            env=environment(request["threads"]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, **question: Any) -> Any:
        """What it says."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(question) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return {"failed": "its process has ended"}
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"failed": f"its process ended with {self.process.wait()}"}

    def close(self) -> None:
        """End it."""
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        self.process.wait()


def measure(
    section: str,
    cases: Sequence[str],
    candidates: Sequence[str],
    *,
    repeats: int,
    quick: bool,
    threads: int,
    cores: Sequence[int],
) -> dict[str, dict[str, Any]]:
    """By case and candidate: "first", "second", "value" and "times", the (wall, cpu) seconds of each round.

    Or "absent", or "failed"; what is None is not there for this case.
    """
    workers = {
        name: Worker(section=section, candidate=name, quick=quick, threads=threads, cores=list(cores)[:threads])
        for name in candidates
    }
    found: dict[str, dict[str, Any]] = {}
    try:
        for case in cases:
            told = {name: worker.ask(case=case) for name, worker in workers.items()}
            found[case] = rows = {name: row for name, row in told.items() if row is not None}
            ready = [name for name, row in rows.items() if "first" in row]
            for turn in range(repeats):
                for name in ready if turn % 2 == 0 else reversed(ready):
                    done = workers[name].ask()
                    if "failed" in done:
                        rows[name] = done
                    else:
                        rows[name].setdefault("times", []).append(done["times"])
            print(f"  {section}: {case}, threads {threads}: done", file=sys.stderr)
    finally:
        for worker in workers.values():
            worker.close()
    return found


def serve(request: dict[str, Any]) -> None:
    """The other end of `Worker`: a line with a case prepares it, an empty one runs it."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, request["cores"])  # XLA makes as many threads as it sees cores
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer
    from candidates import AbsentError
    from cases import prepare
    from timing import timed

    work: Any = None
    for line in sys.stdin:
        question = json.loads(line)
        try:
            if "case" in question:
                work = None  # its arrays first
                work = prepare(request["section"], question["case"], request["candidate"], request["quick"])
                if work is not None and "torch" in sys.modules:
                    sys.modules["torch"].set_num_threads(request["threads"])
                answer = None
                if work is not None:
                    first, value = timed(work)
                    answer = {"first": first, "second": timed(work)[0], "value": value}
            else:
                answer = {"times": timed(work)[0]}
        except AbsentError as absence:
            answer = {"absent": str(absence)}
        except Exception as error:  # noqa: BLE001 - one that breaks is named in the report and fails the run
            answer = {"failed": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]))
