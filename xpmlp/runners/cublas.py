"""Matrix products by cuBLAS, called by ctypes on CuPy's own handle.

CuPy refuses its own products while a stream is capturing, so a captured step brings its own. They have a workspace of
their own too: else cuBLAS would take one anew for every graph.

cuBLAS reads matrices by columns, and C by rows is C.T by columns: C = op(A) @ op(B) is asked for as
C.T = op(B).T @ op(A).T, with the operands swapped and nothing copied.
"""

import ctypes
import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

from xpmlp._typing import Array

WORKSPACE = 32 * 2**20  # bytes: what NVIDIA recommends for Hopper, and more than older cards ask for

# From cublas_api.h and library_types.h; tests/test_cuda_kernels.py compares them where the headers are at hand.
OP_N, OP_T = 0, 1
R_32F, R_64F = 0, 1
COMPUTE_32F, COMPUTE_64F, COMPUTE_32F_FAST_TF32 = 68, 70, 77
GEMM_DEFAULT = -1
DEFAULT_MATH = 0
STATUS = {
    1: "CUBLAS_STATUS_NOT_INITIALIZED",
    3: "CUBLAS_STATUS_ALLOC_FAILED",
    7: "CUBLAS_STATUS_INVALID_VALUE",
    13: "CUBLAS_STATUS_EXECUTION_FAILED",
    14: "CUBLAS_STATUS_INTERNAL_ERROR",
    15: "CUBLAS_STATUS_NOT_SUPPORTED",
}


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


def product_of(a: Array, b: Array, out: Array, contiguous: Callable[[Array], Array]) -> Product:
    """The product out = a @ b of arrays with a leading axis for several networks, or without; transposes are read so.

    Parameters
    ----------
    contiguous : function
        Makes a copy by rows of what cuBLAS cannot read as it lies.
    """
    operands, transposed = [], []
    for array in (a, b):
        turned = not _by_rows(array) and _by_rows(array.swapaxes(-1, -2))
        operands.append(array.swapaxes(-1, -2) if turned else array if _by_rows(array) else contiguous(array))
        transposed.append(turned)
    networks = int(out.shape[0]) if out.ndim == 3 else 1
    (left, right), (turned_a, turned_b) = map(_matrix, operands), transposed
    return Product(left, right, _matrix(out), turned_a, turned_b, networks)


def _by_rows(array: Array) -> bool:
    rows, columns = array.shape[-2:]
    step, item = array.strides, array.itemsize
    return bool((columns == 1 or step[-1] == item) and (rows == 1 or step[-2] == columns * item))


def _matrix(array: Array) -> Matrix:
    stride = array.strides[0] // array.itemsize if array.ndim == 3 else 0
    return Matrix(array, int(array.shape[-2]), int(array.shape[-1]), stride)


class Cublas:
    """CuPy's cuBLAS handle, lent to a stream and a workspace of ours.

    Raises
    ------
    Exception
        Of many kinds, where the library cannot be loaded or there is no driver.
    """

    def __init__(self, handle: Callable[[], int], workspace: Array, dtype: str, *, tf32: bool = False) -> None:
        """`handle` tells CuPy's, which it has one of for each thread and device."""
        found = importlib.import_module("cuda.pathfinder").load_nvidia_dynamic_lib("cublas")
        self._library = _declared(ctypes.CDLL(found.abs_path))
        self._handle_here, self._workspace = handle, workspace
        self._handle = 0
        single = dtype == "float32"
        number = ctypes.c_float if single else ctypes.c_double
        self._type = R_32F if single else R_64F
        self._exact = COMPUTE_32F if single else COMPUTE_64F
        self._compute = COMPUTE_32F_FAST_TF32 if single and tf32 else self._exact
        self._one, self._zero = number(1.0), number(0.0)

    def use(self, stream: Any) -> None:
        """Before products are queued on a stream; at CuPy's own next product it takes its handle back by itself."""
        handle = self._handle = self._handle_here()
        # Setting the stream takes the workspace away again: this order.
        self._check(self._library.cublasSetStream_v2(handle, stream.ptr), "cublasSetStream")
        size = int(self._workspace.nbytes)
        self._check(self._library.cublasSetWorkspace_v2(handle, self._workspace.data.ptr, size), "cublasSetWorkspace")
        self._check(self._library.cublasSetMathMode(handle, DEFAULT_MATH), "cublasSetMathMode")

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

    @staticmethod
    def _check(status: int, function: str) -> None:
        if status != 0:
            raise RuntimeError(f"{function} failed with status {status} ({STATUS.get(status, 'see cublas_api.h')})")


def _declared(library: Any) -> Any:
    pointer, whole, long = ctypes.c_void_p, ctypes.c_int, ctypes.c_longlong
    matrix = [pointer, whole, whole, long]
    library.cublasSetMathMode.argtypes = [pointer, whole]
    library.cublasSetStream_v2.argtypes = [pointer, pointer]
    library.cublasSetWorkspace_v2.argtypes = [pointer, pointer, ctypes.c_size_t]
    head, flat = [pointer, whole, whole, whole, whole, whole, pointer], matrix[:-1]
    library.cublasGemmEx.argtypes = [*head, *flat, *flat, pointer, *flat, whole, whole]
    library.cublasGemmStridedBatchedEx.argtypes = [*head, *matrix, *matrix, pointer, *matrix, whole, whole, whole]
    return library
