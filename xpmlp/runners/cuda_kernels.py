"""The CUDA kernels of a training step, made of the columns of `cuda_columns`.

A kernel has one thread for each element (softmax: each sample; update: several elements), blockIdx.y is the network,
and no thread knows of another: no shared memory, no warp intrinsics, no atomics. So the same text runs in a loop on a
CPU (tests/kernel_shim.py).

What changes from step to step lies in three cells on the device, so that a captured step can be launched again:

    cells[0]   the number of batches gathered in this epoch; the output kernel counts it up
    cells[1]   the number of the batch at work, once the output kernel has run
    cells[2]   the number of updates before this epoch

Before the output kernel cells[0] is the batch at work, after it cells[1]: no kernel reads what it writes.

Small products are kernels too, each together with what comes after it: a thread sums for one element of the result.
Neighbours read neighbouring elements of the second factor and the same one of the first, which asks for a transposed W
on the way back.
"""

import re

from xpmlp.network.activations import Activation
from xpmlp.network.losses import Loss
from xpmlp.optim.optimizers import Optimizer
from xpmlp.runners.cuda_columns import ACTIVATIONS, LOSSES, OPTIMIZERS, SOFTMAX, Column, functions
from xpmlp.runners.step import Task

# One row of x, y (and w, and its share in L) for each sample of the batch.
_GATHER = """
extern "C" __global__ void gather(const T* x, long long x_pitch, const T* y, long long y_pitch, {weights}
    const int* order, long long order_pitch, const int* cells, T* x_batch, T* y_batch,
    unsigned batch, unsigned rows, unsigned n_x, unsigned n_y) {{
  unsigned i = blockIdx.x * blockDim.x + threadIdx.x, columns = n_x + n_y;
  if (i >= rows * columns) return;
  unsigned r = i / columns, c = i - r * columns;
  size_t net = blockIdx.y, from = order[net * order_pitch + (size_t)cells[0] * batch + r], to = net * rows + r;
  if (c < n_x) x_batch[to * n_x + c] = x[net * x_pitch + from * n_x + c];
  else y_batch[to * n_y + c - n_x] = y[net * y_pitch + from * n_y + c - n_x];
  {gather_weights}
}}
"""
_WEIGHTS = """const T* w, long long w_pitch, const T* totals, unsigned batches, T* weights, T* shares,"""
_GATHER_WEIGHTS = """if (c == 0) {
    weights[to] = w[net * w_pitch + from];
    shares[to] = weights[to] * inverse(totals[net * batches + cells[0]]);
  }"""

# a = f(z + b), and h = a * mask where units are dropped; `a` may be the array `z`.
_FORWARD = """
extern "C" __global__ void {name}({product}T* zs, T* as, {drop}const T* b, long long pitch,
    unsigned size, unsigned n) {{
  unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= size) return;
  size_t at = (size_t)blockIdx.y * size + i;
  T z = {score} + b[blockIdx.y * pitch + i % n];
  {keep}
  T a = {function};
  as[at] = a;
  {mask}
}}
"""
_DROP = "{T_h}const int* seeds, const int* cells, unsigned layer, unsigned threshold, T scale, "
_MASK = "mask(seeds[blockIdx.y], (unsigned)cells[2] + cells[{cell}] + 1u, layer, i, threshold, scale)"

# dz = da * f'(z), with the mask of the forward pass
_BACKWARD = """
extern "C" __global__ void {name}({product}T* da, const T* zs, const T* as, {drop}unsigned size) {{
  unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= size) return;
  size_t at = (size_t)blockIdx.y * size + i;
  T a = as[at];
  {z}
  da[at] = {given} {mask}* ({derivative});
}}
"""

# h @ W and dz @ W.T, to be read by rows of the first factor, and of W or of W.T
_OF_W = "const T* below, const T* W, unsigned inner, "
_H_W = "dot(below + ((size_t)blockIdx.y * (size / n) + i / n) * inner, 1, W + blockIdx.y * pitch + i % n, n, inner)"
_OF_WT = "const T* above, const T* WT, unsigned n, unsigned inner, "
_DZ_WT = (
    "dot(above + ((size_t)blockIdx.y * (size / n) + i / n) * inner, 1,"
    " WT + (size_t)blockIdx.y * inner * n + i % n, n, inner)"
)
_PRODUCTS = f"""
extern "C" __global__ void product({_OF_W}T* zs, long long pitch, unsigned size, unsigned n) {{
  unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < size) zs[(size_t)blockIdx.y * size + i] = {_H_W};
}}
extern "C" __global__ void transpose(const T* W, long long pitch, T* WT, unsigned size, unsigned n) {{
  unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < size) WT[(size_t)blockIdx.y * size + i] = W[blockIdx.y * pitch + (size_t)(i % n) * (size / n) + i / n];
}}
extern "C" __global__ void gradients(const T* below, const T* above, T* dW, T* db, long long pitch,
    unsigned rows, unsigned inner, unsigned n) {{
  unsigned i = blockIdx.x * blockDim.x + threadIdx.x, u = i / n, j = i - u * n;
  size_t net = blockIdx.y;
  const T* dz = above + net * rows * n + j;
  T one = T(1);
  if (u < inner) dW[net * pitch + i] = dot(below + net * rows * inner + u, inner, dz, n, rows);
  if (u == inner) db[net * pitch + j] = dot(&one, 0, dz, n, rows);
}}
"""

# From z to dz, and the losses added up over the epoch: each thread has a place of its own to add to.
_OUTPUT = """
extern "C" __global__ void output(T* zs, const T* b, long long pitch, const T* y_batch, {weights}
    double* sums, unsigned sums_pitch, int* cells, unsigned rows, unsigned n, unsigned n_y) {{
  unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i == 0 && blockIdx.y == 0) {{ cells[1] = cells[0]; cells[0] += 1; }}
  if (i >= {threads}) return;
  size_t net = blockIdx.y;
  unsigned r = {row};
  {weight}
  T* row = zs + (net * rows + r) * n;
  const T* targets = y_batch + (net * rows + r) * n_y;
  b += net * pitch;
  {body}
  sums[net * sums_pitch + i] += {sum};
}}
"""
_ELEMENTWISE = """unsigned j = i - r * n;
  T y = targets[n_y == 1 ? 0 : j], z = row[j] + b[j], a = {function};
  T value = {value};
  row[j] = ({derivative}) * share{slope};"""
_SHIFTED = """T top = row[0] + b[0], total = T(0), value = T(0);
  for (unsigned j = 0; j < n; j++) {{ T z = row[j] += b[j]; top = z > top ? z : top; }}
  for (unsigned j = 0; j < n; j++) total += exp(row[j] -= top);"""
_SOFTMAX_CROSS_ENTROPY = (
    _SHIFTED
    + """
  T others = T(0);  // of total, which is 1 and these: log1p keeps what they add, however small
  bool seen = false;
  for (unsigned j = 0; j < n; j++) {{
    T y = targets[j]{smoothed}, z = row[j], p = exp(z);
    if (z < T(0)) others += p; else if (seen) others += T(1); else seen = true;
    value -= y * z;
    row[j] = (p / total - y) * share;
  }}
  value += log1p(others);"""
)
_SOFTMAX_OTHER = (
    _SHIFTED
    + """
  T inner = T(0);
  for (unsigned j = 0; j < n; j++) {{
    T y = targets[n_y == 1 ? 0 : j], a = row[j] = exp(row[j]) / total;
    value += {value};
    inner += ({derivative}) * a;
  }}
  for (unsigned j = 0; j < n; j++) {{
    T y = targets[n_y == 1 ? 0 : j], a = row[j];
    row[j] = a * (({derivative}) - inner) * share;
  }}"""
)

# g += l2 / sum(w) * p on the weights; a kernel of its own only where the norm of g must be known before the update.
_PENALIZE = """
extern "C" __global__ void penalize(const T* ps, T* gs, long long pitch, unsigned n_weights, T l2, {totals}
    const int* cells, double* penalties) {{
  {loop_head}
  for (unsigned i = first; i < n_weights; i += stride) {{
    T p = ps[net * pitch + i];
    {penalty}
    gs[net * pitch + i] += penalize * p;
  }}
  penalties[net * stride + first] += penalty;
}}
"""
_UPDATE = """
extern "C" __global__ void update(T* ps, const T* gs, {slots}long long pitch, unsigned size, const T* rates,
    const int* cells{more}) {{
  {loop_head}
  const T* rate = rates + cells[1] * {n_rates};
  {clip}
  for (unsigned i = first; i < size; i += stride) {{
    size_t at = net * pitch + i;
    T p = ps[at], g = gs[at], step{load};
    {add_penalty}{scale}{step}{store}{decay}{factor}
    ps[at] = p - step;
  }}
  {penalties}
}}
"""
_LOOP_HEAD = """unsigned first = blockIdx.x * blockDim.x + threadIdx.x, stride = gridDim.x * blockDim.x;
  size_t net = blockIdx.y;"""
_PENALTY_HEAD = """
  double penalty = 0.0;
  T penalize = l2{share};"""
_PENALTY = "if (penalize > T(0)) penalty += double(p) * p;"  # a batch whose weights sum to 0 has none either
_TOTALS = "const T* totals, unsigned batches,"


def hidden_name(row: Activation, rate: float) -> str:
    """What the kernels of a hidden layer are called, after `forward_` and `backward_`."""
    return f"{row.name}_dropped" if rate > 0.0 else row.name


def source(task: Task, dtype: str, *, weighted: bool) -> str:
    """The CUDA text of all kernels of a task."""
    network = task.network
    parts = ["#pragma nv_diag_suppress 177  // a function or variable that this task has no use for"]
    parts += [f"typedef {'float' if dtype == 'float32' else 'double'} T;", functions(network.loss)]
    parts.append(
        _GATHER.format(weights=_WEIGHTS if weighted else "", gather_weights=_GATHER_WEIGHTS if weighted else "")
    )
    rates = network.dropout or (0.0,) * (network.layout.n_layers - 1)
    for name, (row, rate) in {
        hidden_name(*pair): pair for pair in zip(network.activations[:-1], rates, strict=True)
    }.items():
        parts += hidden_kernels(name, ACTIVATIONS[row.name], dropped=rate > 0.0)
    parts.append(_PRODUCTS)
    parts.append(output_kernel(network.loss, network.activations[-1], weighted=weighted))
    if task.l2 > 0.0 and task.clip_norm is not None:
        parts.append(_penalize_kernel(weighted))
    parts.append(update_kernel(task, weighted=weighted))
    return "\n".join(parts)


def hidden_kernels(name: str, column: Column, *, dropped: bool) -> list[str]:
    """Bias, activation and dropout of a hidden layer, and the way back; both also with the product before them."""
    texts = []
    for before, of_W, h_W, of_WT, dz_WT in (
        ("", "", "zs[at]", "", "da[at]"),
        ("product_", _OF_W, _H_W, _OF_WT, _DZ_WT),
    ):
        texts.append(
            _FORWARD.format(
                name=f"{before}forward_{name}",
                product=of_W,
                score=h_W,
                drop=_DROP.format(T_h="T* hs, ") if dropped else "",
                keep="zs[at] = z;" if column.needs_z else "",
                function=column.function,
                mask=f"hs[at] = a * {_MASK.format(cell=0)};" if dropped else "",
            )
        )
        texts.append(
            _BACKWARD.format(
                name=f"{before}backward_{name}",
                product=of_WT,
                given=dz_WT,
                drop=_DROP.format(T_h="") if dropped else "",
                z="T z = zs[at];" if column.needs_z else "",
                mask=f"* {_MASK.format(cell=1)} " if dropped else "",
                derivative=column.derivative,
            )
        )
    return texts


def output_kernel(loss: Loss, row: Activation, *, weighted: bool) -> str:
    """Output activation, loss and dz[K] in one, by outputs or (softmax) by samples."""
    column, by_rows = LOSSES[loss.name], row.name == SOFTMAX
    value, derivative = (text.format(**loss.parameters) for text in column[:2])
    if loss.name == "cross_entropy":
        smoothing = loss.parameters.get("label_smoothing", 0.0)
        smoothed = f" * T(1 - {smoothing}) + T({smoothing}) / n" if smoothing else ""
        body = _SOFTMAX_CROSS_ENTROPY.format(smoothed=smoothed)
    elif by_rows:
        body = _SOFTMAX_OTHER.format(value=value, derivative=derivative)
    else:
        canonical = loss.link == row.name
        body = _ELEMENTWISE.format(
            function=ACTIVATIONS[row.name].function,
            value=column.from_scores if canonical else value,
            derivative="a - y" if canonical else derivative,
            slope="" if canonical else f" * ({ACTIVATIONS[row.name].derivative})",
        )
    at = "net * rows + r"
    return _OUTPUT.format(
        weights="const T* weights, const T* shares," if weighted else "",
        threads="rows" if by_rows else "rows * n",
        row="i" if by_rows else "i / n",
        weight=f"T share = shares[{at}];" if weighted else "T share = T(1) / rows;",
        body=body,
        sum=f"double(value) * weights[{at}]" if weighted else "value",
    )


def _penalty_head(weighted: bool) -> str:
    return _PENALTY_HEAD.format(share=" * inverse(totals[net * batches + cells[1]])" if weighted else "")


def _penalize_kernel(weighted: bool) -> str:
    return _PENALIZE.format(
        totals=_TOTALS if weighted else "",
        loop_head=_LOOP_HEAD + _penalty_head(weighted),
        penalty=_PENALTY,
    )


def update_kernel(task: Task, *, weighted: bool) -> str:
    """The whole optimizer, with what is to be done to the gradient before and to the step after."""
    optimizer: Optimizer = task.optimizer
    penalized = task.l2 > 0.0 and task.clip_norm is None
    names = [f"s{k}" for k in range(len(optimizer.slots))]
    more = ""
    if penalized:
        more += f", unsigned n_weights, T l2, {_TOTALS if weighted else ''} double* penalties"
    if task.clip_norm is not None:
        more += ", const T* squared_norm, T limit"
    if task.decays is not None:
        more += ", const T* decays, T decay"
    if task.factors is not None:
        more += ", const T* factors"
    return _UPDATE.format(
        slots="".join(f"T* {name}s, " for name in names),
        more=more,
        loop_head=_LOOP_HEAD + (_penalty_head(weighted) if penalized else ""),
        n_rates=len(optimizer.scalars(1, 0.0)),
        # limit / max(norm, limit); a norm that is not a number makes g one
        clip="T norm = sqrt(squared_norm[net]), scale = norm > limit ? limit / norm : T(1) + T(0) * norm;"
        if task.clip_norm is not None
        else "",
        load="".join(f", {name} = {name}s[at]" for name in names),
        add_penalty=f"if (i < n_weights) {{ {_PENALTY} g += penalize * p; }}\n    " if penalized else "",
        scale="g *= scale;\n    " if task.clip_norm is not None else "",
        step=OPTIMIZERS[optimizer.name].format(**optimizer.parameters),
        store="".join(f"\n    {name}s[at] = {name};" for name in names),
        decay="\n    step += rate[0] * decay * (decays[i] * p);" if task.decays is not None else "",
        factor="\n    step *= factors[i];" if task.factors is not None else "",
        penalties="penalties[net * stride + first] += penalty;" if penalized else "",
    )


def signatures(text: str) -> dict[str, list[tuple[str, str]]]:
    """The arguments of every kernel in a source, each with its C type and its name: ("T*", "ps"), ("unsigned", "n")."""
    found = {}
    for kernel, arguments in re.findall(r'extern "C" __global__ void (\w+)\((.*?)\) \{', text, flags=re.DOTALL):
        split = [" ".join(argument.split()).rpartition(" ") for argument in arguments.split(",")]
        found[kernel] = [(kind.removeprefix("const "), name) for kind, _, name in split]
    return found
