"""A CPU in the place of a GPU: the CUDA text compiled by g++ and run thread by thread, products by NumPy.

`ShimMachine` is what `runners.cuda_machine.Machine` is to the CuPy runner, so that the whole runner, its kernels and
its plan run here, on NumPy arrays. Captured programs are replayed as they were recorded.
"""

import contextlib
import ctypes
import functools
import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from xpmlp.runners.cublas import Product
from xpmlp.runners.cuda_kernels import signatures
from xpmlp.runners.cuda_plan import Join

COMPILER = shutil.which("g++") or shutil.which("c++")

# What CUDA brings without being asked. The using directive makes tanh(float) the one of <cmath>, as in CUDA.
PRELUDE = """
#include <cmath>
#include <cstddef>
using namespace std;
#define __global__
#define __device__
struct Triple { unsigned x, y, z; };
static Triple blockIdx, blockDim, gridDim, threadIdx;
"""
# Threads run one after another, forwards or backwards: a kernel must not care.
LOOP = """
extern "C" void run_{name}(unsigned blocks, unsigned networks, unsigned threads, int backwards, {declared}) {{
  gridDim = {{blocks, networks, 1}}; blockDim = {{threads, 1, 1}};
  size_t total = (size_t)blocks * networks * threads;
  for (size_t i = 0; i < total; i++) {{
    size_t at = backwards ? total - 1 - i : i;
    threadIdx = {{(unsigned)(at % threads), 0, 0}};
    blockIdx = {{(unsigned)(at / threads % blocks), (unsigned)(at / threads / blocks), 0}};
    {name}({names});
  }}
}}
"""
FOLDER = Path(tempfile.gettempdir()) / "xpmlp-kernel-shim"
NUMBERS = {"unsigned": ctypes.c_uint, "int": ctypes.c_int, "long long": ctypes.c_longlong}


@functools.cache
def compiled(text: str) -> ctypes.CDLL:
    """The library of a CUDA source."""
    loops = ""
    for name, arguments in signatures(text).items():
        declared = ", ".join(f"{kind} v{i}" for i, (kind, _) in enumerate(arguments))
        loops += LOOP.format(name=name, declared=declared, names=", ".join(f"v{i}" for i in range(len(arguments))))
    return ctypes.CDLL(str(built(PRELUDE + text + loops)))


def built(text: str, language: str = "c++") -> Path:
    """Where the library of a text lies; compiled once for each text, also across processes."""
    FOLDER.mkdir(exist_ok=True)
    library = FOLDER / f"{hashlib.sha256((language + text).encode()).hexdigest()[:24]}.so"
    if not library.exists():
        assert COMPILER is not None
        with tempfile.TemporaryDirectory(dir=FOLDER) as room:
            made = Path(room) / "kernels.so"
            options = ["-x", language, "-O1", "-ffp-contract=off", "-w", "-shared", "-fPIC", "-o", str(made), "-"]
            done = subprocess.run([COMPILER, *options], input=text, text=True, capture_output=True, check=False)
            assert done.returncode == 0, done.stderr
            made.replace(library)  # whole or not at all: other processes may want it too
    return library


class Kernels:
    """The kernels of a source as Python functions of a grid and of NumPy arrays and numbers."""

    def __init__(self, text: str, dtype: str, *, backwards: bool = False) -> None:
        self.library, self.signatures, self.backwards = compiled(text), signatures(text), backwards
        self.T = ctypes.c_float if dtype == "float32" else ctypes.c_double
        self.elements = {"T*": dtype, "int*": "int32", "double*": "float64"}

    def __call__(self, name: str, blocks: int, networks: int, threads: int, arguments: tuple) -> None:
        values = [self.value(kind, it) for (kind, _), it in zip(self.signatures[name], arguments, strict=True)]
        function = getattr(self.library, f"run_{name}")
        function.restype = None
        function(ctypes.c_uint(blocks), ctypes.c_uint(networks), ctypes.c_uint(threads), int(self.backwards), *values)

    def value(self, kind: str, given: object) -> object:
        if not kind.endswith("*"):
            return self.T(given) if kind == "T" else NUMBERS[kind](int(given))
        assert given.dtype == self.elements[kind], f"{kind} is wanted, an array of {given.dtype} came"
        assert given.flags.c_contiguous
        return ctypes.c_void_p(given.ctypes.data)


class ShimMachine:
    """A machine that runs plans on the CPU, and keeps a list of what it was asked for."""

    xp = np
    device = contextlib.nullcontext()
    backwards = False
    captures = True  # False: a driver that refuses
    late = False  # whether what is put aside runs as late as it may

    def __init__(self, text: str, dtype: str, device: object = None, *, tf32: bool = False) -> None:
        self.kernels = Kernels(text, dtype, backwards=self.backwards)
        self.asked: list[str] = []

    def upload(self, array: np.ndarray, host: np.ndarray) -> None:
        array[...] = np.reshape(host, array.shape)

    def program(self, plan: list) -> list:
        order, aside = [], []
        for node in plan:
            if isinstance(node, Join):
                order, aside = order + aside, []
            else:
                (aside if self.late and getattr(node, "aside", False) else order).append(node)
        assert not aside
        return [functools.partial(self.perform, node) for node in order]

    def perform(self, node: object) -> None:
        if isinstance(node, Product):
            node.out[...] = node.a @ node.b
        else:
            threads = 64  # not that of the GPU: kernels must not depend on it
            blocks = 4 * -(-node.threads // 256)
            arguments = tuple(node.values[name] for _, name in self.kernels.signatures[node.kernel])
            self.kernels(node.kernel, blocks, node.networks, threads, arguments)

    def run(self, program: list) -> None:
        self.asked.append("run")
        for queue in program:
            queue()

    def capture(self, program: list, repeats: int) -> object:
        if not self.captures:
            raise RuntimeError("this driver captures nothing")
        self.asked.append(f"capture {repeats}")

        def launch() -> None:
            self.asked.append(f"launch {repeats}")
            for queue in program * repeats:
                queue()

        return launch

    @contextlib.contextmanager
    def in_order(self) -> Iterator[None]:
        self.asked.append("begin")
        yield
        self.asked.append("end")

    def wait(self) -> None:
        pass
