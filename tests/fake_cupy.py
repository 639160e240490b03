"""What `runners.cuda_machine` uses of CuPy, on the CPU: streams that queue, graphs that replay, a pool that counts.

Not a numerical proxy of CuPy: it is there to see whether the machine does things in the right order. What is queued on
a stream runs when somebody waits for the stream, or makes another stream wait for it; what CuPy refuses while a stream
captures is refused; every call is noted in `log`.

`pretended_cublas` finds a libcublas of forty lines of C, behind the real ctypes calls.
"""

import contextlib
import types
from typing import Any

import numpy as np
from kernel_shim import Kernels, built

log: list[str] = []


class Pointer:
    def __init__(self, ptr: int) -> None:
        self.ptr = ptr


class ndarray(np.ndarray):  # noqa: N801 - as CuPy calls it
    """A NumPy array with CuPy's ways in; what is computed with it while a stream captures is recorded."""

    @property
    def data(self) -> Pointer:  # type: ignore[override]
        return Pointer(self.ctypes.data)

    def set(self, host: np.ndarray) -> None:
        refuse_in_capture("a copy from the host")
        assert type(host) is np.ndarray
        assert host.shape == self.shape
        assert host.dtype == self.dtype
        self[...] = host

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None, **options: Any) -> Any:
        if ufunc is np.matmul:
            refuse_in_capture("cuBLAS through CuPy", NotImplementedError)
        if out is None:
            return perform(getattr(ufunc, method), inputs, options)
        enqueue(lambda: getattr(ufunc, method)(*map(plain, inputs), out=tuple(map(plain, out)), **options), inputs)
        return out[0]

    def __getitem__(self, key: Any) -> Any:
        item = super().__getitem__(key)
        if isinstance(item, np.ndarray):
            return item
        return super().__getitem__((*(key if isinstance(key, tuple) else (key,)), ...))  # a number on the device

    def __setitem__(self, key: Any, value: Any) -> None:
        enqueue(lambda: plain(self).__setitem__(key, plain(value)), (value,))

    def astype(self, dtype: Any) -> Any:  # type: ignore[override]
        return perform(np.astype, (self, np.dtype(dtype)), {})

    def _to_host(self) -> Any:
        refuse_in_capture("a number brought to the host")
        return plain(self).item()

    __bool__ = __float__ = __int__ = __index__ = item = _to_host  # type: ignore[assignment]


def plain(it: Any) -> Any:
    return it.view(np.ndarray) if isinstance(it, ndarray) else it


def enqueue(call: Any, inputs: Any = ()) -> None:
    """Do it, or record it while a stream captures."""
    if Stream.capturing is None:
        current[-1].drain()
        call()
        return
    if any(type(it) is np.ndarray for it in inputs):
        refuse_in_capture("a copy from the host")
    Stream.capturing.put(call)


def perform(function: Any, inputs: Any, options: dict[str, Any]) -> Any:
    """The result, as an array that a captured graph will fill anew."""
    if Stream.capturing is None:
        current[-1].drain()
    with np.errstate(all="ignore"):  # what a capture reads means nothing yet
        result = function(*map(plain_deep, inputs), **options)
    if not isinstance(result, np.ndarray | np.generic):
        return result
    array = np.asarray(result)
    if Stream.capturing is not None and not any(np.may_share_memory(array, it) for it in arrays_of(inputs)):
        if not pools:
            refuse_in_capture("an allocation outside of the plan")
        array = np.array(array)
        enqueue(lambda: np.copyto(array, function(*map(plain_deep, inputs), **options)), arrays_of(inputs))
    return array.view(ndarray)


def plain_deep(it: Any) -> Any:
    return [plain(part) for part in it] if isinstance(it, list | tuple) and arrays_of(it) else plain(it)


def arrays_of(inputs: Any) -> list[np.ndarray]:
    flat = [part for it in inputs for part in (it if isinstance(it, list | tuple) else (it,))]
    return [it for it in flat if isinstance(it, np.ndarray)]


class Event:
    def __init__(self, disable_timing: bool = False) -> None:
        assert disable_timing  # timing costs, and nobody reads it
        self.stream: Stream | None = None


class Stream:
    """A queue; `null` runs at once."""

    capturing: "Stream | None" = None
    branches: "list[Stream]" = []  # noqa: RUF012 - of what is captured

    def __init__(self, non_blocking: bool = False, name: str = "own") -> None:
        assert non_blocking or name == "null"  # a blocking stream waits for the default one at every launch
        self.name, self.ptr = name, id(self)
        self.queue: list[Any] = []
        self.recorded: list[Any] | None = None

    def __enter__(self) -> "Stream":
        current.append(self)
        return self

    def __exit__(self, *error: object) -> None:
        current.pop()

    def put(self, call: Any) -> None:
        if self.recorded is not None:
            self.recorded.append(call)
        elif self.name == "null":
            call()
        else:
            self.queue.append(call)

    def drain(self) -> None:
        queue, self.queue = self.queue, []
        for call in queue:
            call()

    def synchronize(self) -> None:
        refuse_in_capture("a synchronisation")
        log.append(f"synchronize {self.name}")
        self.drain()

    def record(self, event: Event) -> Event:
        log.append(f"record {self.name}")
        event.stream = self
        return event

    def wait_event(self, event: Event) -> None:
        log.append(f"{self.name} waits")
        assert event.stream is not None
        event.stream.drain()
        if event.stream is Stream.capturing and self.recorded is None:  # a branch of the graph
            self.recorded = []
            Stream.branches.append(self)
        elif self is Stream.capturing:  # which ends; as late as it may, so that a step which does not wait is seen
            assert event.stream in Stream.branches, "what was not captured cannot be waited for"
            assert self.recorded is not None
            self.recorded.extend(event.stream.recorded or [])
            event.stream.recorded = None
            Stream.branches.remove(event.stream)

    def begin_capture(self) -> None:
        log.append("begin_capture")
        self.recorded, Stream.capturing = [], self

    def end_capture(self) -> "Graph":
        log.append("end_capture")
        recorded, self.recorded, Stream.capturing = self.recorded, None, None
        unjoined, Stream.branches = Stream.branches, []
        for branch in unjoined:
            branch.recorded = None
        assert recorded is not None
        assert not unjoined, "work on another stream that nobody waits for"
        return Graph(recorded)


class Graph:
    alive = 0

    def __init__(self, recorded: list[Any]) -> None:
        self.recorded = recorded
        Graph.alive += 1

    def __del__(self) -> None:
        Graph.alive -= 1
        log.append("graph destroyed")

    def upload(self, stream: Stream) -> None:
        log.append("upload")

    def launch(self, stream: Stream) -> None:
        log.append(f"launch {len(self.recorded)}")
        for call in self.recorded:
            stream.put(call)


class MemoryPool:
    def malloc(self, size: int) -> None:
        raise NotImplementedError


class Device:
    def __init__(self, number: int = 0) -> None:
        self.id = number

    def __enter__(self) -> "Device":
        devices.append(self.id)
        return self

    def __exit__(self, *error: object) -> None:
        devices.pop()


class RawModule:
    broken = ""  # the kernel that does not launch
    why = "CUDA_ERROR_LAUNCH_FAILED: unspecified launch failure\nand more"

    def __init__(self, code: str) -> None:
        assert devices[-1] == 3, "kernels must be made for the device of the data"
        dtype = "float32" if "typedef float T;" in code else "float64"
        self.kernels = Kernels(code, dtype)

    def compile(self) -> None:
        self.compiled = True

    def get_function(self, name: str) -> Any:
        assert self.compiled

        def launch(grid: tuple, block: tuple, arguments: tuple) -> None:
            if name == RawModule.broken:
                raise RuntimeError(RawModule.why)
            assert current[-1].name == "own", "a kernel must go to the stream of the machine"
            assert all(isinstance(it, ndarray | np.generic) for it in arguments), "Python numbers guess their C type"
            current[-1].put(lambda: self.kernels(name, *grid, *block, arguments))

        return launch


def refuse_in_capture(what: str, kind: type[Exception] = RuntimeError) -> None:
    if Stream.capturing is not None:
        raise kind(f"{what} is not permitted while a stream is capturing")


@contextlib.contextmanager
def using_allocator(malloc: Any) -> Any:
    assert isinstance(malloc.__self__, MemoryPool)
    pools.append(malloc.__self__)
    try:
        yield
    finally:
        pools.pop()


null = Stream(name="null")
current = [null]
devices = [0]
pools: list[MemoryPool] = []
cuda = types.SimpleNamespace(
    Device=Device,
    Event=Event,
    MemoryPool=MemoryPool,
    Stream=Stream,
    get_cublas_handle=lambda: None,  # the tests put that of their library here
    get_current_stream=lambda: current[-1],
    using_allocator=using_allocator,
)


def __getattr__(name: str) -> Any:
    """The functions of NumPy, which make arrays of this library."""
    function = getattr(np, name)
    if not callable(function) or isinstance(function, type):
        return function

    def made(*arguments: Any, **options: Any) -> Any:
        assert devices[-1] == 3, "arrays must be made on the device of the data"
        if name == "matmul":
            refuse_in_capture("cuBLAS through CuPy", NotImplementedError)
        if name in ("asarray", "array") and not isinstance(arguments[0], ndarray):
            refuse_in_capture("a copy from the host")
        if name == "concat" and len(arguments[0]) > 8:
            refuse_in_capture("a table of pointers from the host")
        return perform(function, arguments, options)

    return made


def of_array_api_compat(name: str) -> Any:
    """Those of array-api-compat, some of which write through a mask: CuPy reads that to the host."""
    if name in ("sign", "clip"):
        refuse_in_capture("a copy to the host")
    return __getattr__(name)


functions = types.ModuleType("functions")  # without what is of this file alone, `log`
functions.__getattr__ = of_array_api_compat  # type: ignore[method-assign]

CUBLAS = r"""
#include <stddef.h>
#include <stdlib.h>
struct Handle { void *stream, *workspace; int live; };
static struct Handle only; static int calls;
int cublasCreate_v2(void** handle) { only.live = 1; only.stream = only.workspace = NULL; *handle = &only; return 0; }
int cublasDestroy_v2(struct Handle* h) { h->live = 0; return 0; }
int cublasSetStream_v2(struct Handle* h, void* stream) { h->stream = stream; h->workspace = NULL; return 0; }
int cublasSetWorkspace_v2(struct Handle* h, void* workspace, size_t size) {
  if (size < (32u << 20)) return 7;
  h->workspace = workspace; return 0;
}
int cublasSetMathMode(struct Handle* h, int mode) { return mode ? 7 : 0; }
int live(void) { return only.live; }
int batched_calls(void) { return calls; }
#define GEMM(T) { const T *A = a; const T *B = b; T *C = c; \
  for (int i = 0; i < m; i++) for (int j = 0; j < n; j++) { T sum = 0; \
    for (int l = 0; l < k; l++) sum += A[ta ? i * lda + l : l * lda + i] * B[tb ? l * ldb + j : j * ldb + l]; \
    C[j * ldc + i] = *(const T*)alpha * sum;  /* beta is 0: C is not read */ } }
static int gemm(struct Handle* h, int ta, int tb, int m, int n, int k, const void* alpha, const void* a, int type_a,
    int lda, const void* b, int type_b, int ldb, const void* beta, void* c, int type_c, int ldc, int how, int algo) {
  if (!h->live || !h->stream || !h->workspace) return 1;  /* the workspace must be ours, and stay */
  if (type_a != type_b || type_a != type_c || algo != -1) return 7;
  if (lda < (ta ? k : m) || ldb < (tb ? n : k) || ldc < m) return 7;
  if (type_a == 0 && (how == 68 || how == 77)) GEMM(float)
  else if (type_a == 1 && how == 70) GEMM(double)
  else return 15;
  return 0;
}
int cublasGemmEx(struct Handle* h, int ta, int tb, int m, int n, int k, const void* alpha, const void* a, int type_a,
    int lda, const void* b, int type_b, int ldb, const void* beta, void* c, int type_c, int ldc, int how, int algo) {
  return gemm(h, ta, tb, m, n, k, alpha, a, type_a, lda, b, type_b, ldb, beta, c, type_c, ldc, how, algo);
}
int cublasGemmStridedBatchedEx(struct Handle* h, int ta, int tb, int m, int n, int k, const void* alpha, const void* a,
    int type_a, int lda, long long stride_a, const void* b, int type_b, int ldb, long long stride_b, const void* beta,
    void* c, int type_c, int ldc, long long stride_c, int count, int how, int algo) {
  size_t size = type_a ? 8 : 4;
  calls++;
  for (int i = 0; i < count; i++) {
    int status = gemm(h, ta, tb, m, n, k, alpha, (const char*)a + i * stride_a * size, type_a, lda,
        (const char*)b + i * stride_b * size, type_b, ldb, beta,
        (char*)c + i * stride_c * size, type_c, ldc, how, algo);
    if (status) return status;
  }
  return 0;
}
"""


def pretended_cublas() -> Any:
    """The library, as `cuda.pathfinder` would find it."""
    return types.SimpleNamespace(
        load_nvidia_dynamic_lib=lambda _: types.SimpleNamespace(abs_path=str(built(CUBLAS, "c")))
    )
