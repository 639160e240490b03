"""The CUDA kernels without a GPU: they compile for every card, and their arithmetic, run on the CPU, is the tables'."""

import ctypes
import importlib
import re
import sys
from pathlib import Path
from typing import Any

import fake_cupy
import numpy as np
import pytest
from conftest import REQUIRED
from kernel_shim import COMPILER, Kernels, compiled

from xpmlp.network import Network, activations, dropout, losses, output_derivative
from xpmlp.network.parameters import Layout
from xpmlp.optim import optimizers
from xpmlp.runners import Task, cublas, cuda_columns
from xpmlp.runners.cublas import Product
from xpmlp.runners.cuda_kernels import signatures, source

# Random inputs, 200 elements, every row: the largest differences seen were 4e-16 and 3e-7 of the largest value.
TOLERANCE = {"float64": 5e-15, "float32": 2e-6}
PITCH = 16  # of the two networks of these tests, elements
each_dtype = pytest.mark.parametrize("dtype", ["float64", "float32"])


def missing(what: str, tool: str) -> None:
    """Skip, or fail where the tool is demanded, or CuPy, which needs it."""
    if {"cupy", tool} & REQUIRED:
        pytest.fail(f"XPMLP_REQUIRE wants it, and {what}", pytrace=False)
    pytest.skip(what)


@pytest.fixture
def shim() -> Any:
    if COMPILER is None:
        missing("there is no C++ compiler to run the kernels with", "c++")
    return Kernels


def task(
    hidden: str = "relu", output: str = "identity", loss: Any = "squared_error", optimizer: Any = "sgd", **options: Any
) -> Task:
    drop = (options.pop("dropout"),) if "dropout" in options else ()
    rows = (activations.activation(hidden), activations.activation(output))
    network = Network(Layout((3, 5, 4)), rows, losses.loss(loss), drop)
    return Task(network, optimizers.optimizer(optimizer), **options)


def close(got: Any, wanted: Any, dtype: str) -> None:
    assert got.dtype == dtype
    wanted = np.asarray(wanted, dtype="float64")
    scale = max(np.max(np.abs(wanted[np.isfinite(wanted)]), initial=0.0), 1e-30)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(wanted))
    np.testing.assert_allclose(got, wanted, rtol=0.0, atol=TOLERANCE[dtype] * scale)


# --- Columns against rows ---


def test_every_row_has_a_column_of_c():
    elementwise = {name for name, row in activations.ACTIVATIONS.items() if row.name != cuda_columns.SOFTMAX}
    assert set(cuda_columns.ACTIVATIONS) == elementwise
    assert set(cuda_columns.LOSSES) == set(losses.LOSSES)
    assert set(cuda_columns.OPTIMIZERS) == set(optimizers.OPTIMIZERS)


@each_dtype
@pytest.mark.parametrize("name", cuda_columns.ACTIVATIONS)
def test_an_activation_in_c_is_that_of_the_table(name, dtype, shim, rng):
    row, column = activations.ACTIVATIONS[name], cuda_columns.ACTIVATIONS[name]
    kernels = shim(source(task(hidden=name), dtype, weighted=False), dtype)
    z = (4.0 * rng.standard_normal((2, 20, 5))).astype(dtype)
    z[0, 0] = [0.0, -0.0, 30.0, -30.0, 1e-3]
    z[1, 1, 3] = np.nan  # the divergence guard must see it
    b = rng.standard_normal((2, PITCH)).astype(dtype)
    zs, a, da = z.copy(), np.zeros_like(z), rng.standard_normal(z.shape).astype(dtype)
    dz = da.copy()
    kernels(f"forward_{name}", 2, 2, 64, (zs, a, b, PITCH, 100, 5))
    exact = z + b[:, None, :5]
    exact[1, 1, 3] = np.nan
    wide = exact.astype("float64")
    with np.errstate(over="ignore"):
        close(a, row.function(wide), dtype)
    np.testing.assert_array_equal(zs, exact if column.needs_z else z)
    kernels(f"backward_{name}", 2, 2, 64, (dz, zs, a, 100))
    with np.errstate(over="ignore", invalid="ignore"):
        slope = row.derivative(exact.astype("float64"), row.function(wide))
    there = np.isfinite(wide)
    close(dz[there], (da * slope)[there], dtype)


def test_a_kernel_forgets_no_nan(shim):
    for name in cuda_columns.ACTIVATIONS:
        kernels = shim(source(task(hidden=name), "float64", weighted=False), "float64")
        z, a, b = np.full(5, np.nan), np.zeros(5), np.zeros(PITCH)
        kernels(f"forward_{name}", 1, 1, 64, (z, a, b, PITCH, 5, 5))
        assert np.all(np.isnan(a)), name


OUTPUTS = [
    pytest.param(loss, output, id=f"{loss!r}-{output.name}".replace("<loss ", "").replace(">", ""))
    for loss in (
        *losses.LOSSES.values(),
        losses.loss("cross_entropy", label_smoothing=0.2),
        losses.loss("pinball", quantile=(0.1, 0.4, 0.5, 0.9)),
        losses.loss("huber", delta=0.3),
    )
    for output in map(activations.activation, ("identity", "sigmoid", "tanh", "exp", "softmax"))
    if loss.accepts(output.outputs)
]


@each_dtype
@pytest.mark.parametrize("loss, output", OUTPUTS)
def test_the_output_kernel_is_output_activation_loss_and_derivative(loss, output, dtype, shim, rng):
    many, rows, n = 2, 11, 4
    n_y = loss.target_width or n
    network = Network(Layout((3, 4)), (output,), loss)
    y = rng.standard_normal((many, rows, n_y))
    if loss.targets != "real":
        y = np.abs(y) / np.sum(np.abs(y), axis=-1, keepdims=True)
        y[:, 0] = np.eye(n)[1]  # 0 log 0 = 0
    y, z, b = y.astype(dtype), rng.standard_normal((many, rows, n)).astype(dtype), np.zeros((many, PITCH), dtype)
    b[:, :n] = rng.standard_normal((many, n))
    w = np.abs(rng.standard_normal((many, rows))).astype(dtype)
    shares = (w / np.sum(w, axis=-1, keepdims=True)).astype(dtype)
    by_rows = output.name == cuda_columns.SOFTMAX
    sums_pitch = 70
    for weighted in (False, True) if dtype == "float64" else (True,):
        text = source(Task(network, optimizers.optimizer("sgd")), dtype, weighted=weighted)
        zs, sums, cells = z.copy(), np.full((many, sums_pitch), 2.0), np.array([6, 0, 0], "int32")
        weights = (w, shares) if weighted else ()
        shim(text, dtype)("output", 1, many, 64, (zs, b, PITCH, y, *weights, sums, sums_pitch, cells, rows, n, n_y))
        exact = z.astype("float64") + b[:, None, :n]
        share = shares[..., None].astype("float64") if weighted else 1.0 / rows
        a = output.function(exact)
        _, dz = output_derivative(network, exact, a, y.astype("float64"), share)
        close(zs, dz, dtype)
        value = loss.value_from_scores(y.astype("float64"), exact) if network.canonical else loss.value(y, a)
        got = sums[:, : rows if by_rows else rows * n].reshape(many, rows, -1) - 2.0  # what was there before is kept
        close(got.sum(axis=-1).astype(dtype), value * (w if weighted else 1.0), dtype)
        np.testing.assert_array_equal(cells, [7, 6, 0])


OPTIONS = [
    {},
    {"l2": 0.3},
    {"clip_norm": 0.5},
    {"clip_norm": 0.5, "l2": 0.3},
    {"clip_norm": 1e6},
    {"factors": True},
    {"decays": True, "factors": True, "l2": 0.3, "clip_norm": 0.5},
]


@each_dtype
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_an_optimizer_in_c_is_that_of_the_table(name, options, dtype, shim, rng):
    options = dict(options)
    decayed = options.pop("decays", False) or optimizers.OPTIMIZERS[name].weight_decay > 0
    many, layout = 2, Layout((3, 5, 4))
    size, pitch = layout.size, layout.size + 3
    row = optimizers.optimizer(name, weight_decay=0.1 if decayed else None)
    factors = np.linspace(0.0, 2.0, size).astype(dtype) if options.pop("factors", False) else None
    decays = (np.arange(size) < layout.decaying_stop).astype(dtype) if decayed else None
    it = task(optimizer=row, factors=factors, decays=decays, **options)
    kernels = shim(source(it, dtype, weighted=False), dtype)

    def room(values: Any) -> np.ndarray:
        padded = np.zeros((many, pitch), dtype)
        padded[:, :size] = values
        return padded

    p, g = (room(rng.standard_normal((many, size))) for _ in range(2))
    slots = tuple(room(np.abs(rng.standard_normal((many, size)))) for _ in row.slots)
    p0, g0, slots0 = p[:, :size].astype("f8"), g[:, :size].astype("f8"), tuple(s[:, :size].astype("f8") for s in slots)
    rates = np.array([row.rates(t, 0.02 * t, **row.parameters) for t in (1, 2, 3)], dtype)
    cells = np.array([3, 2, 0], "int32")  # update 3
    l2, clip, rows = options.get("l2", 0.0), options.get("clip_norm"), 8
    penalties = np.zeros((many, 64))
    more: tuple[Any, ...] = ()
    if clip is not None:
        if l2:
            kernels("penalize", 1, many, 64, (p, g, pitch, layout.decaying_stop, l2 / rows, cells, penalties))
        norm = np.sum(g.astype("f8") ** 2, axis=-1).astype(dtype)
        more = (norm, clip)
    elif l2:
        more = (layout.decaying_stop, l2 / rows, penalties)
    more += () if decays is None else (decays, row.weight_decay)
    more += () if factors is None else (factors,)
    kernels("update", 1, many, 64, (p, g, *slots, pitch, size, rates, cells, *more))

    g0[:, : layout.decaying_stop] += l2 / rows * p0[:, : layout.decaying_stop]
    g0 = g0 if clip is None else optimizers.clip(g0, clip)
    wide = [None if it is None else it.astype("f8") for it in (factors, decays)]
    wanted, wanted_slots = row.apply(p0.copy(), g0, slots0, tuple(map(float, rates[2])), *wide)
    close(p[:, :size], wanted, dtype)
    for got, slot in zip(slots, wanted_slots, strict=True):
        close(got[:, :size], slot, dtype)
    for array in (p, *slots):
        np.testing.assert_array_equal(array[:, size:], 0.0)  # padding stays 0
    if l2:
        np.testing.assert_allclose(
            penalties.sum(axis=-1), np.sum(p0[:, : layout.decaying_stop] ** 2, axis=-1), rtol=1e-6
        )


@each_dtype
def test_dropout_in_c_draws_the_bits_of_the_table(dtype, shim):
    rate, rows, n = 0.3, 40, 5
    kernels = shim(source(task(hidden="tanh", dropout=rate), dtype, weighted=False), dtype)
    seeds = np.array([5, -17], "int32")
    for t in (1, 12345, 2**31 - 1, 2**31, 2**31 + 7):
        z, b = np.ones((2, rows, n), dtype), np.zeros((2, PITCH), dtype)
        a, h, da = np.zeros_like(z), np.zeros_like(z), np.ones_like(z)
        cells = np.array([3, 0, (t - 4) % 2**31], "int32")  # the fourth batch of an epoch
        drop = (seeds, cells, 1, int(rate * 2**31), 1.0 / (1.0 - rate))
        kernels("forward_tanh_dropped", 4, 2, 64, (z, a, h, *drop, b, PITCH, rows * n, n))
        step = np.full((1, 1), t % 2**31, dtype="int32")
        mask = dropout.mask(rate, seeds.reshape(2, 1, 1), step, 1, like=a)
        np.testing.assert_array_equal(h, a * mask)
        assert 0.5 < np.mean(mask > 0) < 0.9
        cells = np.array([4, 3, (t - 4) % 2**31], "int32")  # the output kernel has counted
        kernels("backward_tanh_dropped", 4, 2, 64, (da, z, a, seeds, cells, *drop[2:], rows * n))
        np.testing.assert_array_equal(da, mask * (1 - a * a))


@pytest.mark.parametrize("shared", [True, False])
def test_gather_brings_the_rows_that_the_permutation_names(shared, shim, rng):
    many, n, batch, n_x, n_y, n_batches = 2, 23, 8, 3, 4, 3
    lead = () if shared else (many,)
    x, y, w = rng.standard_normal((*lead, n, n_x)), rng.standard_normal((*lead, n, n_y)), rng.random((*lead, n))
    order = np.stack([rng.permutation(n) for _ in range(many)]).astype("int32")
    totals = rng.random((many, n_batches))
    totals[1, 1] = 0.0  # a batch whose weights sum to 0
    kernels = shim(source(task(), "float64", weighted=True), "float64")
    for i, rows in enumerate((8, 8, 7)):
        xb, yb, wb, shares = (np.zeros((many, rows, *tail)) for tail in ((n_x,), (n_y,), (), ()))
        pitch = (0, 0, 0) if shared else (n * n_x, n * n_y, n)
        kernels(
            *("gather", 1, many, 64),
            (
                *(x, pitch[0], y, pitch[1], w, pitch[2], totals, n_batches, wb, shares),
                order,
                n,
                np.array([i, 0, 0], "int32"),
                xb,
                yb,
                batch,
                rows,
                n_x,
                n_y,
            ),
        )
        for net in range(many):
            chosen = order[net, i * batch : i * batch + rows]
            for got, full in ((xb, x), (yb, y), (wb, w)):
                np.testing.assert_array_equal(got[net], (full if shared else full[net])[chosen])
            inverse = 1.0 / totals[net, i] if totals[net, i] else 0.0
            np.testing.assert_array_equal(shares[net], wb[net] * inverse)


def test_the_shim_sees_a_derivative_that_is_off(shim, monkeypatch, rng):
    wrong = cuda_columns.Column("tanh(z)", "T(1) - T(1.001) * a * a")
    monkeypatch.setitem(cuda_columns.ACTIVATIONS, "tanh", wrong)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        test_an_activation_in_c_is_that_of_the_table("tanh", "float64", shim, rng)


# --- The text ---


def everything(dtype: str) -> dict[str, str]:
    """Sources that hold every column and every form of every kernel between them."""
    texts = {}
    for rate in (0.0, 0.5):
        rows = tuple(map(activations.activation, (*cuda_columns.ACTIVATIONS, "identity")))
        network = Network(Layout((3,) * (len(rows) + 1)), rows, losses.loss("squared_error"), (rate,) * (len(rows) - 1))
        texts[f"hidden-{rate}"] = source(Task(network, optimizers.optimizer("sgd")), dtype, weighted=False)
    pairs = [
        (loss, output)
        for loss in losses.LOSSES.values()
        for output in dict.fromkeys(("softmax", loss.link or "exp"))
        if loss.accepts(activations.ACTIVATIONS[output].outputs)
    ]
    names = list(optimizers.OPTIMIZERS)
    for i, (loss, output) in enumerate(pairs):
        options = {"l2": 0.1, "factors": 1.0, "decays": 1.0, "clip_norm": None if i < len(names) else 1.0}
        it = task(output=output, loss=loss, optimizer=names[i % len(names)], **options)
        texts[f"{loss.name}-{output}-{names[i % len(names)]}"] = source(it, dtype, weighted=i % 2 == 0)
    assert len(pairs) > len(names)
    return texts


def nvrtc() -> Any:
    """CuPy's binding of the CUDA compiler, which needs no driver; skip where there is none."""
    try:
        found = importlib.import_module("cupy_backends.cuda.libs.nvrtc")
        found.getVersion()
    except Exception as error:  # noqa: BLE001 - a missing library has many faces
        missing(f"NVRTC cannot be loaded: {type(error).__name__}", "nvrtc")
    return found


def assemble(compiler: Any, text: str, arch: str, *, ptx: bool = False) -> str:
    program = compiler.createProgram(text, "step.cu", (), ())
    try:
        compiler.compileProgram(program, (f"--gpu-architecture={arch}", "-std=c++14"))  # as CuPy does
        log = compiler.getProgramLog(program).strip("\x00 \n")
        assert log == "", log
        return compiler.getPTX(program).decode() if ptx else str(len(compiler.getCUBIN(program)))
    finally:
        compiler.destroyProgram(program)


@pytest.mark.parametrize("arch", ["sm_75", "sm_80", "sm_90", "sm_100", "sm_120"])
@each_dtype
def test_every_kernel_compiles_for_every_card_without_a_warning(arch, dtype):
    compiler = nvrtc()
    for name, text in everything(dtype).items():
        assert int(assemble(compiler, text, arch)) > 0, name


def test_the_cuda_compiler_objects():
    with pytest.raises(Exception, match="NVRTC_ERROR_COMPILATION"):
        assemble(nvrtc(), source(task(), "float32", weighted=False).replace("tanh", "tanhh", 1), "sm_90")


def narrowed(compiler: Any, text: str) -> list[str]:
    """The kernels that turn a float64 into a float32."""
    parts = assemble(compiler, text, "compute_80", ptx=True).split(".visible .entry ")[1:]
    return [part.partition("(")[0] for part in parts if re.search(r"\bcvt\.\w+\.f32\.f64\b", part)]


def test_float32_kernels_compute_in_float32():
    # A literal without its T(...) would drag a kernel into float64, 2 to 64 times slower, and then back. The sums of
    # losses are float64 and stay so.
    compiler = nvrtc()
    for name, text in everything("float32").items():
        assert narrowed(compiler, text) == [], name


def test_the_precision_check_objects(monkeypatch):
    monkeypatch.setitem(cuda_columns.ACTIVATIONS, "tanh", cuda_columns.Column("tanh(z)", "1.0 - 0.7 * a * a"))
    assert narrowed(nvrtc(), source(task(hidden="tanh"), "float32", weighted=False)) == ["backward_tanh"]


def test_kernels_know_nothing_of_other_threads():
    # Else they would not run on a CPU, and their results would depend on the order of threads.
    for text in everything("float32").values():
        assert not re.search(r"__shared__|__syncthreads|__shfl|atomic", text)


def test_signatures_are_read_from_the_text():
    assert signatures('extern "C" __global__ void f(const T* x, long long n,\n    int* c, unsigned k) {\n}') == {
        "f": [("T*", "x"), ("long long", "n"), ("int*", "c"), ("unsigned", "k")]
    }


# --- Products ---


@pytest.fixture
def multiply(shim: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A product through the real ctypes calls, by a library that reads by columns."""
    pathfinder = fake_cupy.pretended_cublas()
    monkeypatch.setitem(sys.modules, "cuda.pathfinder", pathfinder)
    library, handle = ctypes.CDLL(pathfinder.load_nvidia_dynamic_lib("cublas").abs_path), ctypes.c_void_p()
    library.cublasCreate_v2(ctypes.byref(handle))
    workspace = np.empty(cublas.WORKSPACE, "uint8").view(fake_cupy.ndarray)

    def multiply(*arrays: np.ndarray, exact: bool = False) -> None:
        ours = cublas.Cublas(lambda: handle.value, workspace, arrays[0].dtype.name)
        ours.use(fake_cupy.null)
        ours.multiply(Product(*(it.view(fake_cupy.ndarray) for it in arrays), exact))

    return multiply


@each_dtype
@pytest.mark.parametrize("lead", [(), (1,), (3,)], ids=str)
@pytest.mark.parametrize("transpose_b", [False, True])
@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize("shape", [(4, 5, 3), (1, 5, 3), (4, 1, 3), (4, 5, 1), (1, 7, 1)])
def test_a_product_by_rows_is_asked_for_by_columns(shape, transpose_a, transpose_b, lead, dtype, multiply, rng):
    rows, inner, columns = shape
    a = rng.standard_normal((*lead, *((inner, rows) if transpose_a else (rows, inner)))).astype(dtype)
    b = rng.standard_normal((*lead, *((columns, inner) if transpose_b else (inner, columns)))).astype(dtype)
    a, b = (it.swapaxes(-1, -2) if turned else it for it, turned in ((a, transpose_a), (b, transpose_b)))
    flat = np.full((*lead, rows * columns + 5), 7.0, dtype)  # networks lie apart
    multiply(a, b, flat[..., : rows * columns].reshape(*lead, rows, columns))
    np.testing.assert_allclose(flat[..., : rows * columns].reshape(*lead, rows, columns), a @ b, rtol=1e-5)
    np.testing.assert_array_equal(flat[..., rows * columns :], 7.0)


def test_one_factor_may_be_shared_by_all_networks(multiply, rng):
    ones, dz, db = np.ones((1, 6)), rng.standard_normal((3, 6, 4)), np.zeros((3, 1, 4))
    multiply(ones, dz, db)
    np.testing.assert_allclose(db, dz.sum(axis=1, keepdims=True))


def test_shapes_that_do_not_fit_are_refused(multiply):
    message = r"the shapes of a product must fit; got \(2, 3\) @ \(4, 2\) into \(2, 2\)"
    with pytest.raises(ValueError, match=message):
        multiply(np.zeros((2, 3)), np.zeros((4, 2)), np.zeros((2, 2)))
    with pytest.raises(ValueError, match="must fit"):
        multiply(np.zeros((2, 3)), np.zeros((2, 3)).T, np.zeros((3, 3)))


def test_what_lies_neither_by_rows_nor_as_a_transpose_is_known():
    whole = np.zeros((4, 6))
    for array, by_rows in ((whole, True), (whole.T, False), (whole[:, :3], False), (whole[:, :1].T, False)):
        assert cublas.by_rows(array) == by_rows
    assert cublas.by_rows(whole[:1, :3])
    assert cublas.by_rows(np.zeros((3, 9))[:, :6].reshape(3, 2, 3))  # networks may lie apart


def test_the_numbers_of_cublas_are_those_of_its_headers():
    for folder in importlib.import_module("site").getsitepackages():
        headers = [
            *Path(folder).glob("nvidia/*/include/cublas_api.h"),
            *Path(folder).glob("nvidia/*/include/library_types.h"),
        ]
        if len(headers) >= 2:
            text = "\n".join(header.read_text(encoding="utf-8") for header in headers)
            break
    else:
        missing("the headers of cuBLAS are not here", "cublas")
    names = {
        "CUBLAS_OP_N": cublas.OP_N,
        "CUBLAS_OP_T": cublas.OP_T,
        "CUDA_R_32F": cublas.R_32F,
        "CUDA_R_64F": cublas.R_64F,
        "CUBLAS_COMPUTE_32F": cublas.COMPUTE_32F,
        "CUBLAS_COMPUTE_64F": cublas.COMPUTE_64F,
        "CUBLAS_COMPUTE_32F_FAST_TF32": cublas.COMPUTE_32F_FAST_TF32,
        "CUBLAS_GEMM_DEFAULT": cublas.GEMM_DEFAULT,
    }
    for name, value in names.items():
        assert re.search(rf"\b{name}\s*=\s*{value}\b", text), name


def test_the_real_library_has_our_functions_and_says_that_there_is_no_driver():
    try:
        found = importlib.import_module("cuda.pathfinder").load_nvidia_dynamic_lib("cublas")
    except Exception as error:  # noqa: BLE001 - a missing library has many faces
        missing(f"cuBLAS cannot be loaded: {type(error).__name__}", "cublas")
    library = cublas._declared(ctypes.CDLL(found.abs_path))
    handle = ctypes.c_void_p()
    status = library.cublasCreate_v2(ctypes.byref(handle))
    assert status in (0, *cublas.STATUS)
    if status == 0:
        assert library.cublasDestroy_v2(handle) == 0  # there is a GPU


def test_the_compiler_is_asked_once_for_each_text(shim):
    text = source(task(), "float64", weighted=False)
    assert compiled(text) is compiled(text)
