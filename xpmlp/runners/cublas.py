"""Matrix products through a cuBLAS handle of our own, by ctypes.

CuPy refuses its own products while a stream is capturing, so a captured step brings its own. The handle has a
workspace of its own too: else cuBLAS would take one anew for every graph.

cuBLAS reads matrices by columns, and C by rows is C.T by columns: C = op(A) @ op(B) is asked for as
C.T = op(B).T @ op(A).T, with the operands swapped and nothing copied.
"""

import ctypes
import importlib
from typing import Any, NamedTuple

from xpmlp._typing import Array

WORKSPACE = 32 * 2**20  # bytes: what NVIDIA recommends for Hopper, and more than older cards ask for

# From cublas_api.h and library_types.h; tests/test_cuda_kernels.py compares them where the headers are at hand.
OP_N, OP_T = 0, 1
R_32F, R_64F = 0, 1
COMPUTE_32F, COMPUTE_64F, COMPUTE_32F_FAST_TF32 = 68, 70, 77
GEMM_DEFAULT = -1


class Matrix(NamedTuple):
    """A matrix by rows, without gaps, that begins with `array`; that of network i begins `stride` elements later."""

    array: Array
    rows: int
    columns: int
    stride: int = 0


class Product(NamedTuple):
    """A node of a plan: out = op(a) @ op(b) for each network, op the transpose where asked."""

    a: Matrix
    b: Matrix
    out: Matrix
    transpose_a: bool = False
    transpose_b: bool = False
    networks: int = 1
    exact: bool = False  # never in less than the precision of the elements: sums, norms


class Gemm(NamedTuple):
    """The arguments of cublasGemmStridedBatchedEx in its order, without types and scalars."""

    op_a: int
    op_b: int
    m: int
    n: int
    k: int
    a: Array
    lda: int
    stride_a: int
    b: Array
    ldb: int
    stride_b: int
    c: Array
    ldc: int
    stride_c: int
    networks: int


def gemm_arguments(product: Product) -> Gemm:
    """What cuBLAS, which reads by columns, is to be asked for.

    Raises
    ------
    ValueError
        If the shapes do not fit.
    """
    a, b, out = product.a, product.b, product.out
    rows, inner = (a.columns, a.rows) if product.transpose_a else (a.rows, a.columns)
    inner_b, columns = (b.columns, b.rows) if product.transpose_b else (b.rows, b.columns)
    if inner != inner_b or (out.rows, out.columns) != (rows, columns):
        shapes = f"({rows}, {inner}) @ ({inner_b}, {columns}) into ({out.rows}, {out.columns})"
        raise ValueError(f"the shapes of a product must fit; got {shapes}.")
    return Gemm(
        *(OP_T if product.transpose_b else OP_N, OP_T if product.transpose_a else OP_N),
        *(columns, rows, inner),
        *(b.array, b.columns, b.stride),
        *(a.array, a.columns, a.stride),
        *(out.array, out.columns, out.stride),
        product.networks,
    )


class Cublas:
    """A cuBLAS handle bound to a stream and a workspace, both of which must outlive it.

    Raises
    ------
    Exception
        Of many kinds, where the library cannot be loaded or there is no driver.
    """

    def __init__(self, stream: Any, workspace: Array, dtype: str, *, tf32: bool = False) -> None:
        found = importlib.import_module("cuda.pathfinder").load_nvidia_dynamic_lib("cublas")
        self._library = _declared(ctypes.CDLL(found.abs_path))
        self._handle = ctypes.c_void_p()
        self._check(self._library.cublasCreate_v2(ctypes.byref(self._handle)), "cublasCreate")
        single = dtype == "float32"
        number = ctypes.c_float if single else ctypes.c_double
        self._type = R_32F if single else R_64F
        self._exact = COMPUTE_32F if single else COMPUTE_64F
        self._compute = COMPUTE_32F_FAST_TF32 if single and tf32 else self._exact
        self._one, self._zero = number(1.0), number(0.0)
        # Setting the stream takes the workspace away again: this order.
        self._check(self._library.cublasSetStream_v2(self._handle, stream.ptr), "cublasSetStream")
        size = int(workspace.nbytes)
        self._check(self._library.cublasSetWorkspace_v2(self._handle, workspace.data.ptr, size), "cublasSetWorkspace")

    def multiply(self, product: Product) -> None:
        """Queue a product; scalars are read here and now, and so are frozen in a captured graph."""
        it = gemm_arguments(product)
        a, b, c = ((array.data.ptr, self._type) for array in (it.a, it.b, it.c))
        head = (self._handle, it.op_a, it.op_b, it.m, it.n, it.k, ctypes.byref(self._one))
        beta, how = ctypes.byref(self._zero), (self._exact if product.exact else self._compute, GEMM_DEFAULT)
        if it.networks == 1:  # asked for alone, a product may be split along k
            status = self._library.cublasGemmEx(*head, *a, it.lda, *b, it.ldb, beta, *c, it.ldc, *how)
        else:
            first, second, out = (it.lda, it.stride_a), (it.ldb, it.stride_b), (it.ldc, it.stride_c)
            status = self._library.cublasGemmStridedBatchedEx(
                *head, *a, *first, *b, *second, beta, *c, *out, it.networks, *how
            )
        self._check(status, "cublasGemmEx" if it.networks == 1 else "cublasGemmStridedBatchedEx")

    def close(self) -> None:
        """Give the handle back; what was queued through it must have run."""
        if self._handle.value:
            self._library.cublasDestroy_v2(self._handle)
            self._handle = ctypes.c_void_p()

    @staticmethod
    def _check(status: int, function: str) -> None:
        if status != 0:
            raise RuntimeError(f"{function} failed with status {status}")


def _declared(library: Any) -> Any:
    pointer, whole, long = ctypes.c_void_p, ctypes.c_int, ctypes.c_longlong
    matrix = [pointer, whole, whole, long]
    library.cublasCreate_v2.argtypes = [pointer]
    library.cublasDestroy_v2.argtypes = [pointer]
    library.cublasSetStream_v2.argtypes = [pointer, pointer]
    library.cublasSetWorkspace_v2.argtypes = [pointer, pointer, ctypes.c_size_t]
    head, flat = [pointer, whole, whole, whole, whole, whole, pointer], matrix[:-1]
    library.cublasGemmEx.argtypes = [*head, *flat, *flat, pointer, *flat, whole, whole]
    library.cublasGemmStridedBatchedEx.argtypes = [*head, *matrix, *matrix, pointer, *matrix, whole, whole, whole]
    return library
