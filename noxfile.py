#!/usr/bin/env -S pipx run
# /// script
# requires-python = ">=3.11"
# dependencies = ["nox>=2025.2.9"]
# ///
"""What is checked, and how: `nox` runs what every change must pass, `nox --list` shows the rest.

What follows `--` goes to the tool: `nox -s "tests(numpy)" -- -k losses -x`.
"""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from pathlib import Path

import nox
from packaging.requirements import Requirement

nox.needs_version = ">=2025.2.9"
# pip, as users have it. (uv resolves local versions such as torch 2.13.0+cpu by other rules.)
nox.options.default_venv_backend = "virtualenv"
nox.options.error_on_external_run = True

ROOT = Path(__file__).parent
PYPROJECT = nox.project.load_toml(ROOT / "pyproject.toml")

# One version, not a range: where a CPU build of it is at hand pip takes that (2.13.0+cpu sorts after 2.13.0); a range
# takes the newest release with its gigabytes of CUDA. .github/workflows/ci.yml names the index of the CPU builds.
TORCH = "torch==2.13.0"

SHIPPED = {".py", ".js", ".css", ".html"}  # what a wheel holds: the package, and what its pages are made of


def group(name: str) -> list[str]:
    """The requirements of a dependency group of pyproject.toml."""
    return list(nox.project.dependency_groups(PYPROJECT, name))


def lowest(requirement: str) -> str:
    """The requirement with its floor as the only choice: numpy>=2.0 becomes numpy==2.0."""
    parsed = Requirement(requirement)
    floors = [spec.version for spec in parsed.specifier if spec.operator == ">="]
    if len(floors) != 1:
        raise ValueError(f"a direct dependency must have one floor, as in 'numpy>=2.0'; got {requirement!r}")
    return f"{parsed.name}=={floors[0]}"


@nox.session
@nox.parametrize(
    ("backends", "packages", "require"),
    [
        nox.param("numpy", [], "", id="numpy"),
        # The stand-in for a GPU: a device that is not the CPU, strict flags; and a device without 64-bit types.
        nox.param("array_api_strict", [], "array_api_strict", id="array_api_strict"),
        nox.param("torch", [TORCH], "torch", id="torch"),
        nox.param("jax", ["jax", "pytest-xdist"], "jax", id="jax"),  # with x64 and without
        # Without [ctk], which is a gigabyte: here the probe and the fallback are tested, the rest skips and says why.
        nox.param("cupy", ["cupy-cuda13x"], "", id="cupy"),
    ],
)
def tests(session: nox.Session, backends: str, packages: list[str], require: str) -> None:
    """Run the tests on one backend; those that no backend changes run with numpy."""
    session.install("-e.", *group("test" if backends == "numpy" else "test-core"), *packages)
    # XPMLP_REQUIRE turns the skip of a backend that should be here into a failure.
    env = {"XPMLP_BACKENDS": backends, "XPMLP_REQUIRE": require}
    # Nearly all of JAX's time here is compilation: on two cores, and programs that run once need not be the fastest.
    env |= {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"} if backends == "jax" else {}
    workers = ["-n", "2"] if backends == "jax" else []
    session.run("python", "-m", "pytest", *workers, *session.posargs, env=env)


@nox.session
def cupy_nogpu(session: nox.Session) -> None:
    """Test without a GPU what runs on one: NVRTC compiles it, a C++ compiler runs it, a stand-in captures it."""
    session.install("-e.", *group("test-core"), "cupy-cuda13x", "nvidia-cuda-nvrtc==13.*")
    # XPMLP_REQUIRE=cupy would demand the GPU too.
    env = {"XPMLP_BACKENDS": "numpy,cupy", "XPMLP_REQUIRE": "nvrtc,c++"}
    files = ("tests/test_cuda_kernels.py", "tests/test_cupy_runner.py")
    session.run("python", "-m", "pytest", *files, *session.posargs, env=env)


@nox.session
def processes(session: nox.Session) -> None:
    """Train in two and four processes, by gloo, MPI and Dask: with the answers of one, and nobody left waiting."""
    session.install("-e.", *group("processes"), TORCH)
    # mpiexec is the system's (apt-get install openmpi-bin libopenmpi-dev); without it the tests of MPI skip.
    require = "dask,gloo,mpi" if shutil.which("mpiexec") else "dask,gloo"
    env = {"XPMLP_PROCESSES": "1", "XPMLP_REQUIRE": require, "XPMLP_BACKENDS": "numpy"}
    files = [
        f"tests/test_{name}.py" for name in ("dask", "dask_tables", "large_examples", "processes", "shards", "reduce")
    ]
    session.run("python", "-m", "pytest", *files, *session.posargs, env=env)


@nox.session(default=False)
def faults(session: nox.Session) -> None:
    """Inject faults for longer: ten times the kills, interrupts and mutations of a plain run; some 15 minutes."""
    session.install("-e.", *group("test"), TORCH, "jax")
    files = ("tests/test_faults.py", "tests/test_storage.py", "tests/test_resume.py")
    session.run("python", "-m", "pytest", *files, *session.posargs, env={"XPMLP_FAULTS": "10"})


@nox.session(default=False, python=["3.11", "3.12", "3.13"])
def fuzz(session: nox.Session) -> None:
    """Fuzz xpmlp.load with atheris, guided by coverage: `nox -s fuzz-3.11 -- -max_total_time=3600`."""
    session.install("-e.", "atheris")
    session.run("python", "tests/fuzz_load.py", *(session.posargs or ["-max_total_time=300"]))


@nox.session(default=False)
@nox.parametrize("extra", [nox.param("cuda12", id="12"), nox.param("cuda13", id="13")])
def cuda(session: nox.Session, extra: str) -> None:
    """Run the tests on a GPU with CuPy and PyTorch, without skips; `nvidia-smi` shows which CUDA the driver knows."""
    session.install(f"-e.[{extra}]", *group("test"), "torch")
    env = {"XPMLP_BACKENDS": "numpy,cupy,torch-cuda", "XPMLP_REQUIRE": "cupy,torch-cuda"}
    session.run("python", "-m", "pytest", *session.posargs, env=env)


@nox.session(default=False)
@nox.parametrize("kernel", [nox.param(name, id=name) for name in ("Prescott", "Haswell", "SkylakeX", "no-SIMD")])
def kernels(session: nox.Session, kernel: str) -> None:
    """Run the tests on NumPy with the BLAS kernels of another processor, two threads; or without NumPy's own SIMD."""
    if kernel == "SkylakeX" and "avx512f" not in Path("/proc/cpuinfo").read_text(encoding="utf-8"):
        session.skip("this processor has no AVX-512")
    session.install("-e.", *group("test"))
    env = {"XPMLP_BACKENDS": "numpy", "OPENBLAS_NUM_THREADS": "2"}
    if kernel == "no-SIMD":
        extensions = "import numpy; print(*numpy.show_config(mode='dicts')['SIMD Extensions']['found'])"
        env["NPY_DISABLE_CPU_FEATURES"] = str(session.run("python", "-c", extensions, silent=True)).strip()
    else:
        env["OPENBLAS_CORETYPE"] = kernel
    chosen = "import numpy, threadpoolctl; print(threadpoolctl.threadpool_info(), numpy.show_config('dicts'))"
    session.run("python", "-c", chosen, env=env)
    session.run("python", "-m", "pytest", *session.posargs, env=env)


@nox.session(default=False)
@nox.parametrize("extra", [nox.param("cuda12", id="12"), nox.param("cuda13", id="13")])
def first_contact(session: nox.Session, extra: str) -> None:
    """Ten minutes on a GPU that has run nothing of this yet: stops at the first red line and keeps what it has."""
    session.install(f"-e.[{extra}]", *group("test-core"), "torch", f"jax[{extra}]")
    env = {"XPMLP_BACKENDS": "numpy,cupy", "XPMLP_REQUIRE": "cupy", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    session.run("nvidia-smi", external=True)
    session.run("python", "-m", "xpmlp", "backends")
    on_gpu = ("python", "-m", "pytest", "-x", "-q", "tests/test_on_a_gpu.py")
    every = env | {"XPMLP_BACKENDS": "cupy,torch-cuda,jax-x32"}
    session.run(*on_gpu, env=every)
    if shutil.which("compute-sanitizer"):  # a read or a write past an array, by the name of its kernel
        check = ("compute-sanitizer", "--error-exitcode", "1", "--tool", "memcheck")
        session.run(*check, *on_gpu, "-k", "captured and cupy", env=env, external=True)
    steps = ("tests/test_runners.py", "tests/test_parity.py", "tests/test_training.py")
    session.run("python", "-m", "pytest", "-x", "-q", *steps, env=env)
    session.run("python", "benchmarks/gpu.py", "--sections", "steps", "nodes", "--sizes", "small", "tabular")
    session.run("python", "benchmarks/gpu.py")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format with ruff; `nox -s lint -- --fix` mends what it can."""
    session.install(*group("lint"))
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", *([] if "--fix" in session.posargs else ["--check"]))


@nox.session
def types(session: nox.Session) -> None:
    """Check the package's types with mypy, strictly."""
    session.install("-e.", *group("types"))
    session.run("mypy", *session.posargs)


@nox.session
def package(session: nox.Session) -> None:
    """Build sdist and wheel, look into the wheel, and test it from outside the checkout."""
    session.install(*group("package"), *group("test-core"))
    here = Path(session.create_tmp()).resolve()
    shutil.rmtree(here)  # what an earlier run left
    here.mkdir()
    dist = here / "dist"
    # The wheel is built from the sdist, so a file missing there is missed here.
    session.run("python", "-m", "build", "--outdir", str(dist), str(ROOT))
    (wheel,) = dist.glob("*.whl")
    (sdist,) = dist.glob("*.tar.gz")

    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    ours = [path for path in (ROOT / "xpmlp").rglob("*") if path.suffix in SHIPPED or path.name == "py.typed"]
    sources = {path.relative_to(ROOT).as_posix() for path in ours}
    if packed != sources:
        session.error(f"the wheel must hold xpmlp and nothing else; these differ: {sorted(packed ^ sources)}")

    # The tests come from the sdist, the package from the wheel: nothing of the checkout is left in the way.
    with tarfile.open(sdist) as archive:
        archive.extractall(here, filter="data")
    unpacked = here / sdist.name.removesuffix(".tar.gz")
    shutil.rmtree(unpacked / "xpmlp")
    session.install(str(wheel))
    session.chdir(unpacked)
    # What could be missing from a wheel is missing everywhere: the core's and the estimators' behaviour will do.
    files = [f"tests/test_{name}.py" for name in ("mlp", "training", "transfer", "backends", "estimators_behaviour")]
    args = session.posargs or files
    session.run("python", "-m", "pytest", *args, env={"XPMLP_BACKENDS": "numpy"})


@nox.session(default=False)
def minimums(session: nox.Session) -> None:
    """Run the tests on the lowest direct dependencies that pyproject.toml admits (on the oldest Python)."""
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"]
    direct = [*project["dependencies"], *extras["plot"], *extras["progress"], *extras["tables"]]
    session.install("-e.", *group("test-core"), *map(lowest, direct))
    session.run("python", "-m", "pip", "list")
    env = {"XPMLP_BACKENDS": "numpy,strict-device1"}
    # Old releases meet new ones of what they need (matplotlib 3.9 and pyparsing 3.3): their deprecations are not ours.
    session.run("python", "-m", "pytest", "-W", "default::DeprecationWarning", *session.posargs, env=env)


@nox.session(default=False)
def coverage(session: nox.Session) -> None:
    """Say which lines of the package no test runs, over every backend that needs no GPU."""
    session.install("-e.", *group("test"), *group("coverage"), TORCH, "jax")
    env = {"XPMLP_REQUIRE": "torch,jax,array_api_strict"}
    session.run("coverage", "run", "-m", "pytest", *session.posargs, env=env)
    session.run("coverage", "combine")
    session.run("coverage", "report")


@nox.session(default=False)
def docs(session: nox.Session) -> None:
    """Build the documentation from nothing into docs/_build/html; a warning is an error. About a minute."""
    build_docs(session, *session.posargs)


def build_docs(session: nox.Session, *options: str) -> None:
    """Build what `docs` builds."""
    session.install("-e.", *group("docs"))
    for made in ("_build", "gallery", "reference/generated"):
        shutil.rmtree(ROOT / "docs" / made, ignore_errors=True)
    session.run("python", "-m", "sphinx", "-W", "--keep-going", "-b", "html", *options, "docs", "docs/_build/html")


@nox.session(default=False)
def pages(session: nox.Session) -> None:
    """Open every page of the docs, and those that xpmlp writes, in Chromium, at a laptop's and a phone's width."""
    if not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))) or not shutil.which(
        "chromedriver"
    ):
        session.skip("needs a browser: apt-get install chromium chromium-driver")
    build_docs(session)
    session.install(*group("test-core"), *group("pages"))
    env = {"XPMLP_PAGES": str(ROOT / "docs" / "_build" / "html"), "XPMLP_BACKENDS": "numpy"}
    session.run("python", "-m", "pytest", "tests/test_pages.py", *session.posargs, env=env)


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Measure speed and memory against the peers; `nox -s bench -- --help` shows what can be chosen."""
    session.install("-e.", TORCH, "jax", "skorch", "numba", "matplotlib", "threadpoolctl")
    session.run("python", "benchmarks/cpu.py", *session.posargs)


if __name__ == "__main__":
    nox.main()
