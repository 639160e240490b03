"""A CPU in the place of a GPU: the CUDA text compiled by g++ and run thread by thread, products by a pretended cuBLAS.

`ShimMachine` is what `runners.cuda_machine.Machine` is to the CuPy runner, so that the whole runner, its kernels, its
plan and its GEMM arguments run here, on NumPy arrays. Captured programs are replayed as they were recorded.
"""

import contextlib
import ctypes
import functools
import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from xpmlp.runners.cublas import OP_T, Gemm, Product, gemm_arguments
from xpmlp.runners.cuda_kernels import signatures

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
    """The library of a CUDA source; compiled once for each text, also across processes."""
    loops = ""
    for name, types in signatures(text).items():
        declared = ", ".join(f"{kind} v{i}" for i, kind in enumerate(types))
        loops += LOOP.format(name=name, declared=declared, names=", ".join(f"v{i}" for i in range(len(types))))
    whole = PRELUDE + text + loops
    FOLDER.mkdir(exist_ok=True)
    library = FOLDER / f"{hashlib.sha256(whole.encode()).hexdigest()[:24]}.so"
    if not library.exists():
        assert COMPILER is not None
        with tempfile.TemporaryDirectory(dir=FOLDER) as room:
            made = Path(room) / "kernels.so"
            command = [
                COMPILER,
                "-x",
                "c++",
                "-O1",
                "-ffp-contract=off",
                "-w",
                "-shared",
                "-fPIC",
                "-o",
                str(made),
                "-",
            ]
            done = subprocess.run(command, input=whole, text=True, capture_output=True, check=False)
            assert done.returncode == 0, done.stderr
            made.replace(library)  # whole or not at all: other processes may want it too
    return ctypes.CDLL(str(library))


class Kernels:
    """The kernels of a source as Python functions of a grid and of NumPy arrays and numbers."""

    def __init__(self, text: str, dtype: str, *, backwards: bool = False) -> None:
        self.library, self.types, self.backwards = compiled(text), signatures(text), backwards
        self.T = ctypes.c_float if dtype == "float32" else ctypes.c_double
        self.elements = {"T*": dtype, "int*": "int32", "double*": "float64"}

    def __call__(self, name: str, blocks: int, networks: int, threads: int, arguments: tuple) -> None:
        values = [self.value(kind, given) for kind, given in zip(self.types[name], arguments, strict=True)]
        function = getattr(self.library, f"run_{name}")
        function.restype = None
        function(ctypes.c_uint(blocks), ctypes.c_uint(networks), ctypes.c_uint(threads), int(self.backwards), *values)

    def value(self, kind: str, given: object) -> object:
        if not kind.endswith("*"):
            return self.T(given) if kind == "T" else NUMBERS[kind](int(given))
        assert given.dtype == self.elements[kind], f"{kind} is wanted, an array of {given.dtype} came"
        assert given.flags.c_contiguous
        return ctypes.c_void_p(given.ctypes.data)


def columns_view(flat: np.ndarray, rows: int, columns: int, leading: int) -> np.ndarray:
    """What cuBLAS sees: a matrix by columns that lie `leading` elements apart."""
    assert leading >= max(rows, 1)
    assert columns == 0 or flat.size >= (columns - 1) * leading + rows, "a product reads or writes past its array"
    step = flat.itemsize
    return np.lib.stride_tricks.as_strided(flat, (rows, columns), (step, step * leading))


def pretended_gemm(it: Gemm) -> None:
    """What cublasGemmStridedBatchedEx does with its arguments, in memory that is read by columns."""
    for i in range(it.networks):
        transposed_a, transposed_b = it.op_a == OP_T, it.op_b == OP_T
        a = columns_view(it.a.reshape(-1)[i * it.stride_a :], *((it.k, it.m) if transposed_a else (it.m, it.k)), it.lda)
        b = columns_view(it.b.reshape(-1)[i * it.stride_b :], *((it.n, it.k) if transposed_b else (it.k, it.n)), it.ldb)
        c = columns_view(it.c.reshape(-1)[i * it.stride_c :], it.m, it.n, it.ldc)
        c[...] = (a.T if transposed_a else a) @ (b.T if transposed_b else b)


class ShimMachine:
    """A machine that runs plans on the CPU, and keeps a list of what it was asked for."""

    xp = np
    backwards = False
    captures = True  # False: a driver that refuses

    def __init__(self, text: str, dtype: str, device: object = None, *, tf32: bool = False) -> None:
        self.kernels = Kernels(text, dtype, backwards=self.backwards)
        self.asked: list[str] = []

    def here(self) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext()

    def forget_uploads(self) -> None:
        pass

    def upload(self, array: np.ndarray, host: np.ndarray) -> None:
        array[...] = np.reshape(host, array.shape)

    def program(self, plan: list) -> list:
        return [functools.partial(self.perform, node) for node in plan]

    def perform(self, node: object) -> None:
        if isinstance(node, Product):
            pretended_gemm(gemm_arguments(node))
        else:
            threads = 64  # not that of the GPU: kernels must not depend on it
            blocks = 4 * -(-node.threads // 256)
            self.kernels(node.kernel, blocks, node.networks, threads, node.arguments)

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

    def begin(self) -> None:
        self.asked.append("begin")

    def end(self) -> None:
        self.asked.append("end")

    def wait(self) -> None:
        pass
