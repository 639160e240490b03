"""What is measured: the work of one pinned process, which cpu.py starts with its threads set. Each returns plain data.

A timing is a list of (wall, cpu) seconds, one for each round. In a round every candidate runs once, and every other
round goes through them backwards, so that whatever else the machine does falls on all of them alike.
"""

import contextlib
import cProfile
import ctypes
import gc
import importlib.util
import os
import pstats
import resource
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import candidates as those
import numpy as np
from candidates import ALPHA, CANDIDATES, WORKLOADS, AbsentError, Workload, samples_of
from section_memory import above_x, tables_above_x
from section_tables import tables
from section_threads import threads as blas_threads
from timing import rounds


def many(*, repeats: int, quick: bool, **_: Any) -> list[dict[str, Any]]:
    """Many circle networks at once: m by the leading axis, against m fits one after the other."""
    found = []
    for batch, epochs in ((1_000, 200), (32, 10)):
        workload = replace(_workload("circles", quick), batch=batch, epochs=2 if quick else epochs)
        X, labels = samples_of(workload)
        y = np.eye(workload.classes, dtype=np.float32)[labels]

        def fit(n_networks: int | None, *, X: Any = X, y: Any = y, workload: Workload = workload) -> None:
            net = those.core(workload, n_networks=n_networks)
            net.fit(X, y, epochs=workload.epochs, batch_size=workload.batch, l2=ALPHA)

        for m in (1, 2, 4) if quick else (1, 2, 4, 8, 16, 32, 64):
            ready = {
                "one": lambda fit=fit: fit(None),
                "at once": lambda fit=fit, m=m: fit(m),
                "in turn": lambda fit=fit, m=m: [fit(None) for _ in range(m)],
            }
            for work in ready.values():
                work()
            found.append({"batch": workload.batch, "m": m, **rounds(ready, repeats)})
        print(f"  many: batches of {batch}: done", file=sys.stderr)
    return found


def linear(*, repeats: int, quick: bool, candidates: list[str], **_: Any) -> dict[str, Any]:
    """The cost of a fit over three numbers of rows, and over three numbers of epochs, NumPy backend."""
    base = _workload("tabular", quick)
    base = replace(base, rows=base.rows if quick else 6_400, epochs=2)
    who = "xpmlp" if "xpmlp" in candidates and _has_estimator(base) else "core"
    ready = {}
    for factor in (1, 2, 4):
        for what, workload in (
            ("rows", replace(base, rows=factor * base.rows)),
            ("epochs", replace(base, epochs=factor * base.epochs)),
        ):
            ready[f"{what} {getattr(workload, what)}"] = CANDIDATES[who].prepare(workload, samples_of(workload))
    for fit in ready.values():
        fit()
    return {"candidate": who, **rounds(ready, repeats)}


def memory(*, workload: str, candidate: str, traced: bool, quick: bool, **_: Any) -> dict[str, Any]:
    """The room that one fit of one epoch takes beyond its data, in bytes; to be asked of a fresh process.

    Traced: the peak of what Python and NumPy have allocated during the fit (tracemalloc): exact and the same every
    time, blind to what BLAS, JAX and torch allocate themselves. Else: the growth of the resident set up to its peak
    during the fit, all of it, to the page.
    """
    chosen = replace(_workload(workload, quick), epochs=1)
    samples = samples_of(chosen)
    try:
        tiny = replace(chosen.small(), columns=chosen.columns)
        with _everything_compiled():
            CANDIDATES[candidate].prepare(tiny, samples_of(tiny))()  # lazy imports, buffers of the BLAS
        fit = CANDIDATES[candidate].prepare(chosen, samples)
    except AbsentError as absence:
        return {"absent": str(absence)}
    gc.collect()
    if traced:
        tracemalloc.start()
        fit()
        return {"bytes": tracemalloc.get_traced_memory()[1]}
    before = _forget_peak()
    fit()
    return {"bytes": _peak() - before}


def profile(*, workload: str, candidate: str, quick: bool, **_: Any) -> str:
    """CProfile of one warm fit, as text."""
    import io

    chosen = _workload(workload, quick)
    fit = CANDIDATES[candidate].prepare(chosen, samples_of(chosen))
    fit()
    profiler = cProfile.Profile()
    profiler.runcall(fit)
    text = io.StringIO()
    pstats.Stats(profiler, stream=text).strip_dirs().sort_stats("tottime").print_stats(25)
    return f"{candidate} on {workload}\n{text.getvalue()}"


def environment(**_: Any) -> dict[str, str]:
    """Versions, and the threads that the BLAS libraries say they use."""
    import importlib
    import importlib.metadata
    import platform

    found = {"python": platform.python_version(), "xpmlp": importlib.import_module("xpmlp").__version__}
    for package in ("numpy", "scikit-learn", "torch", "jax", "jaxlib", "skorch", "numba", "array-api-compat"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "absent"
    # A variable can bind a library to other kernels than the processor's best, and so decide a ratio.
    for name in sorted(os.environ):
        if name.startswith(("OPENBLAS_", "MKL_", "BLIS_", "OMP_", "XLA_", "ONEDNN_", "NPY_")) and "THREADS" not in name:
            found[name] = os.environ[name]
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return found
    for pool in threadpool_info():
        if pool["user_api"] == "blas":
            found["blas"] = f"{pool['internal_api']} {pool['version']}, {pool.get('architecture')}"
            found["blas threads"] = str(pool["num_threads"])
    return found


SECTIONS: dict[str, Callable[..., Any]] = {
    work.__name__: work for work in (many, linear, memory, above_x, tables_above_x, tables, profile, environment)
} | {"threads": blas_threads}


# --- How it is measured ---


def _workload(name: str, quick: bool) -> Workload:
    return WORKLOADS[name].small() if quick else WORKLOADS[name]


def _has_estimator(workload: Workload) -> bool:
    try:
        those.estimator(workload, None)
    except AbsentError:
        return False
    return True


def _everything_compiled() -> Any:
    """Numba, where it is installed, is loaded by a tiny fit too."""
    if importlib.util.find_spec("numba") is None:
        return contextlib.nullcontext()
    return importlib.import_module("xpmlp").config_context(compiled="always")


def _forget_peak() -> int:
    """Bytes resident now; from here on `_peak` counts anew where Linux allows it."""
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what earlier work freed and glibc kept
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # see man 5 proc: resets VmHWM
        return _resident("VmRSS")
    except (OSError, AttributeError):
        return _peak()


def _peak() -> int:
    try:
        return _resident("VmHWM")
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _resident(field: str) -> int:
    with open("/proc/self/status") as file:
        (line,) = (line for line in file if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024
