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
STATUS = {1: "NOT_INITIALIZED", 3: "ALLOC_FAILED", 7: "INVALID_VALUE", 13: "EXECUTION_FAILED", 15: "NOT_SUPPORTED"}


class Product(NamedTuple):
    """A node of a plan: out = a @ b of matrices (rows, columns), or of those of m networks (m, rows, columns).

    A matrix lies by rows without gaps; a factor may be the transpose of one. Networks lie any distance apart.
    """

    a: Array
    b: Array
    out: Array
    exact: bool = False  # never in less than the precision of the elements: sums, norms


def by_rows(array: Array) -> bool:
    """Whether matrices lie by rows without gaps."""
    rows, columns = array.shape[-2:]
    step, item = array.strides, array.itemsize
    return bool((columns == 1 or step[-1] == item) and (rows == 1 or step[-2] == columns * item))


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
        """Queue a product; scalars are read here and now, and so are frozen in a captured graph.

        Raises
        ------
        ValueError
            If the shapes do not fit.
        """
        a, b, out, exact = product
        (rows, inner), columns = a.shape[-2:], b.shape[-1]
        if inner != b.shape[-2] or out.shape[-2:] != (rows, columns):
            raise ValueError(f"the shapes of a product must fit; got {a.shape} @ {b.shape} into {out.shape}.")
        alone = out.ndim == 2 or out.shape[0] == 1  # asked for alone, a product may be split along its inner axis
        name = "cublasGemmEx" if alone else "cublasGemmStridedBatchedEx"

        def read(array: Array) -> tuple[int, ...]:
            leading = array.shape[-1] if by_rows(array) else array.shape[-2]
            stride = array.strides[0] // array.itemsize if array.ndim == 3 else 0  # 0: all networks share it
            return (array.data.ptr, self._type, leading, *(() if alone else (stride,)))

        operations = (OP_N if by_rows(it) else OP_T for it in (b, a))
        status = getattr(self._library, name)(
            *(self._handle, *operations, columns, rows, inner, ctypes.byref(self._one)),
            *(*read(b), *read(a), ctypes.byref(self._zero), *read(out), *(() if alone else (out.shape[0],))),
            *(self._exact if exact else self._compute, GEMM_DEFAULT),
        )
        self._check(status, name)

    @staticmethod
    def _check(status: int, function: str) -> None:
        if status != 0:
            raise RuntimeError(f"{function} failed with CUBLAS_STATUS_{STATUS.get(status, status)}; see cublas_api.h")


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
