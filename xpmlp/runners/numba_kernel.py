"""Steps of training, many in one call, for Numba: `steps` is the eager step, written out for what small networks use.

Whoever imports this needs Numba; runners/numba_epoch.py does, where it pays. Functions and symbols are those of
network/ and optim/. Arrays of a step are transposed, (units, batch), as in runners/inplace.py; h[0] alone is kept by
rows. NaN stays NaN: "reassoc" and "contract" let sums be taken in parallel and multiply and add be one, nothing more.
"""

import numba
import numpy as np

from xpmlp.network.activations import LEAKY_SLOPE

_part = numba.njit(error_model="numpy", fastmath={"reassoc", "contract"})
_exact = numba.njit(error_model="numpy", fastmath={"contract"})


@_exact
def exp(x, floats, bits):  # type: ignore[no-untyped-def]
    """Write exp(x) into x; `bits` are the bits of `floats`, which are scratch.

    exp(x) = 2^k exp(r) with k = round(x / log 2) and r = x - k log 2, |r| < 0.35, in two parts, so that r is exact
    (Cody & Waite, 1980); exp(r) by its Taylor series. Within 2 units of the last digit; beyond what a float can hold,
    the largest and the smallest power of 2.
    """
    T = x.dtype.type
    if x.itemsize == 4:
        magic = T(12582912.0)  # 1.5 * 2^23: what is added to it is rounded to an integer, which its last bits hold
        for i in range(x.shape[0]):
            a = x[i]
            a = T(88.0) if a > T(88.0) else (T(-87.0) if a < T(-87.0) else a)
            t = a * T(1.44269504) + magic
            k = t - magic
            r = a - k * T(0.693359375) - k * T(-2.12194440e-4)
            floats[i] = t
            s = T(1 / 720) + r * T(1 / 5040)
            s = T(1 / 6) + r * (T(1 / 24) + r * (T(1 / 120) + r * s))
            x[i] = T(1.0) + r * (T(1.0) + r * (T(0.5) + r * s))
        for i in range(x.shape[0]):
            bits[i] = (bits[i] + 127) << 23
    else:
        magic = T(6755399441055744.0)  # 1.5 * 2^52
        for i in range(x.shape[0]):
            a = x[i]
            a = T(708.0) if a > T(708.0) else (T(-708.0) if a < T(-708.0) else a)
            t = a * T(1.4426950408889634) + magic
            k = t - magic
            r = a - k * T(6.93145751953125e-1) - k * T(1.42860682030941723212e-6)
            floats[i] = t
            s = 1 / 3628800 + r * (1 / 39916800 + r * (1 / 479001600 + r * (1 / 6227020800)))
            s = 1 / 720 + r * (1 / 5040 + r * (1 / 40320 + r * (1 / 362880 + r * s)))
            x[i] = 1.0 + r * (1.0 + r * (0.5 + r * (1 / 6 + r * (1 / 24 + r * (1 / 120 + r * s)))))
        for i in range(x.shape[0]):
            bits[i] = (bits[i] + 1023) << 52
    for i in range(x.shape[0]):
        x[i] *= floats[i]


@_part
def activate(kind, z, b, floats, bits):  # type: ignore[no-untyped-def]
    """Write f(z + b) into z, shape (units, batch)."""
    T = z.dtype.type
    zero, one, slope = T(0.0), T(1.0), T(LEAKY_SLOPE)
    if kind == 1:
        for j in range(z.shape[0]):
            for s in range(z.shape[1]):
                q = z[j, s] + b[j]
                z[j, s] = zero if q <= zero else q
        return
    if kind == 2:
        for j in range(z.shape[0]):
            for s in range(z.shape[1]):
                q = z[j, s] + b[j]
                z[j, s] = slope * q if q <= zero else q
        return
    scale = T(-2.0) if kind == 3 else T(-1.0) if kind == 4 else one
    for j in range(z.shape[0]):
        for s in range(z.shape[1]):
            z[j, s] = scale * (z[j, s] + b[j])
    if kind >= 3:
        flat = z.reshape(-1)
        exp(flat, floats, bits)
        if kind == 3:  # tanh(z) = 2 / (1 + exp(-2 z)) - 1
            for i in range(flat.shape[0]):
                flat[i] = T(2.0) / (one + flat[i]) - one
        else:
            for i in range(flat.shape[0]):
                flat[i] = one / (one + flat[i])


@_part
def pull_back(kind, a, da):  # type: ignore[no-untyped-def]
    """Write dz = da * f'(z) into a, both flat."""
    T = a.dtype.type
    zero, one, slope = T(0.0), T(1.0), T(LEAKY_SLOPE)
    for i in range(a.shape[0]):
        if kind == 1:
            a[i] = da[i] if a[i] > zero else zero * da[i]
        elif kind == 2:
            a[i] = da[i] if a[i] > zero else slope * da[i]
        elif kind == 3:
            a[i] = da[i] * (one - a[i] * a[i])
        elif kind == 4:
            a[i] = da[i] * (a[i] * (one - a[i]))
        else:
            a[i] = da[i]


@_part
def softmax_cross_entropy(z, y, share, top, others, floats, bits):  # type: ignore[no-untyped-def]
    """The loss of the scores z, shape (classes, batch), which become dL/dz; `top` and `others` are scratch."""
    T = z.dtype.type
    zero, one = T(0.0), T(1.0)
    classes, batch = z.shape
    for s in range(batch):
        top[s] = z[0, s]
    for j in range(1, classes):
        for s in range(batch):
            top[s] = z[j, s] if z[j, s] > top[s] else top[s]
    loss = zero
    for j in range(classes):
        for s in range(batch):
            z[j, s] -= top[s]
            loss -= share[s] * y[j, s] * z[j, s]
    exp(z.reshape(-1), floats, bits)
    for s in range(batch):
        others[s] = zero
        top[s] = -one
    for j in range(classes):  # the largest is 1 and stays out of the sum: log1p keeps what the others add
        for s in range(batch):
            others[s] += zero if z[j, s] >= one else z[j, s]
            top[s] += one if z[j, s] >= one else zero
    for s in range(batch):
        others[s] += top[s]
        loss += share[s] * np.log1p(others[s])
        others[s] = one / (one + others[s])
    for j in range(classes):
        for s in range(batch):
            z[j, s] = (z[j, s] * others[s] - y[j, s]) * share[s]
    return loss


@_part
def sigmoid_cross_entropy(z, y, share, weighted, e, floats, bits):  # type: ignore[no-untyped-def]
    """The loss of the scores z, shape (outputs, batch), which become dL/dz; `e` is scratch of that shape, flat."""
    T = z.dtype.type
    zero, one = T(0.0), T(1.0)
    outputs, batch = z.shape
    for j in range(outputs):
        for s in range(batch):
            q = z[j, s]
            e[j * batch + s] = q if q <= zero else -q
    exp(e, floats, bits)  # of -|z|
    loss = zero
    for j in range(outputs):
        for s in range(batch):  # max(z, 0) - y z
            q = z[j, s]
            loss += share[s] * ((zero if q <= zero else q) - y[j, s] * q)
    if weighted:
        for j in range(outputs):
            for s in range(batch):
                loss += share[s] * np.log1p(e[j * batch + s])
    else:  # the sum of log(1 + e), one logarithm for 32 samples: (1 + beyond)(1 + e) = 1 + (beyond + e + beyond e)
        beyond, total = 0.0, 0.0
        for i in range(e.shape[0]):
            beyond += e[i] + beyond * e[i]
            if i & 31 == 31:
                total += np.log1p(beyond)
                beyond = 0.0
        loss += share[0] * T(total + np.log1p(beyond))
    for j in range(outputs):
        for s in range(batch):
            r = one / (one + e[j * batch + s])
            z[j, s] = ((r if z[j, s] > zero else one - r) - y[j, s]) * share[s]
    return loss


@_part
def identity_squared_error(z, y, share):  # type: ignore[no-untyped-def]
    """The loss of the scores z, shape (outputs, batch), which become dL/dz."""
    T = z.dtype.type
    loss = T(0.0)
    for j in range(z.shape[0]):
        for s in range(z.shape[1]):
            r = z[j, s] - y[j, s]
            loss += T(0.5) * share[s] * r * r
            z[j, s] = r * share[s]
    return loss


@_part
def update(method, p, g, m, v, first, last, l2, keep, numbers, rates):  # type: ignore[no-untyped-def]
    """Update p[first:last] and return the sum of squares as they were; a decoupled decay keeps `keep` of them."""
    T = p.dtype.type
    squares = T(0.0)
    lr, lr_t, epsilon = T(rates[0]), T(rates[1]), T(rates[2])
    beta_1, beta_2 = T(numbers[0]), T(numbers[1])
    for i in range(first, last):
        w = p[i]
        squares += w * w
        d = g[i] + l2 * w
        if method == 3:
            m_i = beta_1 * m[i] + d
            v_i = beta_2 * v[i] + d * d
            m[i], v[i] = m_i, v_i
            p[i] = keep * w - lr_t * m_i / (np.sqrt(v_i) + epsilon)
        elif method == 0:
            p[i] = keep * w - lr * d
        else:
            step = lr * d
            velocity = beta_1 * m[i] + step
            m[i] = velocity
            p[i] = keep * w - (velocity if method == 1 else step + beta_1 * velocity)
    return squares


def steps(  # type: ignore[no-untyped-def]
    p, g, m, v, X, Y, w, order, sizes, kinds, at, rooms, buffer, floats, bits, numbers, rates, first, last, sums
):
    """Train on the batches first to last - 1 of an epoch.

    Parameters
    ----------
    p, g, m, v : array of shape (P,)
        Parameters, their gradient (scratch), and the optimizer's slots; those that it lacks are empty.
    X, Y, w : array of shape (n, n_0), (n, n_K), (n,)
        Samples; w is empty where they have no weights.
    order : int array of shape (n,)
        Of the samples; empty where they keep their own.
    sizes : n_0 ... n_K
    kinds : int array of shape (K + 1,)
        The optimizer, the activations of layers 1 ... K - 1, and the loss, numbered as in runners/numba_epoch.py.
    at : int array of shape (2, K + 1)
        Where W[k] and b[k] begin in p.
    rooms : int array of shape (K + 6,)
        Where h[0] ... h[K], y, da, the shares of the samples, and scratch begin in `buffer`; then the batch size.
    floats, bits : array
        Scratch of the largest layer, twice the same memory; see `exp`.
    numbers : float64 array of shape (5,)
        beta_1 or the momentum, beta_2, l2, the decoupled decay, label smoothing.
    rates : float64 array of shape (batches, 3)
        Of each batch: lr, lr_t, epsilon.
    sums : float64 array of shape (2,)
        The losses of the batches, times their weights, and the weights, are added to it.
    """
    T = p.dtype.type
    K = sizes.shape[0] - 1
    n, batch = X.shape[0], rooms[K + 5]
    n_0, n_K, n_weights = sizes[0], sizes[K], at[1, 1]
    method, kind_of_loss = kinds[0], kinds[K]
    smoothing, l2 = T(numbers[4]), numbers[2]
    weighted = w.shape[0] > 0
    for i in range(first, last):
        start = i * batch
        B = min(batch, n - start)
        x = buffer[rooms[0] : rooms[0] + B * n_0].reshape(B, n_0)
        y = buffer[rooms[K + 1] : rooms[K + 1] + n_K * B].reshape(n_K, B)
        share = buffer[rooms[K + 3] : rooms[K + 3] + B]
        scratch = buffer[rooms[K + 4] : rooms[K + 4] + n_K * B + B]
        weight = float(B)
        if weighted:
            weight = 0.0
        for s in range(B):
            row = start + s
            if order.shape[0] > 0:
                row = order[row]
            for c in range(n_0):
                x[s, c] = X[row, c]
            for c in range(n_K):
                y[c, s] = Y[row, c] * (T(1.0) - smoothing) + smoothing / T(n_K)
            if weighted:
                share[s] = w[row]
                weight += w[row]
        per_weight = 1.0 / weight if weight > 0.0 else 0.0
        if weighted:
            for s in range(B):
                share[s] = T(share[s] * per_weight)
        else:
            share[:] = T(per_weight)

        for k in range(1, K + 1):
            W = p[at[0, k] : at[0, k] + sizes[k - 1] * sizes[k]].reshape(sizes[k - 1], sizes[k])
            b = p[at[1, k] : at[1, k] + sizes[k]]
            z = buffer[rooms[k] : rooms[k] + sizes[k] * B].reshape(sizes[k], B)
            if k == 1:
                np.dot(W.T, x.T, z)  # z[k] = W[k].T @ h[k-1]
            else:
                np.dot(W.T, buffer[rooms[k - 1] : rooms[k - 1] + sizes[k - 1] * B].reshape(sizes[k - 1], B), z)
            activate(kinds[k] if k < K else 0, z, b, floats[: sizes[k] * B], bits[: sizes[k] * B])

        z = buffer[rooms[K] : rooms[K] + n_K * B].reshape(n_K, B)
        of_z = floats[: n_K * B], bits[: n_K * B]
        if kind_of_loss == 2:
            loss = softmax_cross_entropy(z, y, share, scratch[:B], scratch[B : 2 * B], *of_z)
        elif kind_of_loss == 1:
            loss = sigmoid_cross_entropy(z, y, share, weighted, scratch[: n_K * B], *of_z)
        else:
            loss = identity_squared_error(z, y, share)

        for k in range(K, 0, -1):
            dz = buffer[rooms[k] : rooms[k] + sizes[k] * B].reshape(sizes[k], B)
            dW = g[at[0, k] : at[0, k] + sizes[k - 1] * sizes[k]].reshape(sizes[k - 1], sizes[k])
            db = g[at[1, k] : at[1, k] + sizes[k]]
            for j in range(sizes[k]):
                total = T(0.0)
                for s in range(B):
                    total += dz[j, s]
                db[j] = total  # db[k] = sum over rows of dz[k]
            if k == 1:
                np.dot(x.T, dz.T, dW)  # dW[k] = h[k-1] @ dz[k].T
            else:
                a = buffer[rooms[k - 1] : rooms[k - 1] + sizes[k - 1] * B].reshape(sizes[k - 1], B)
                da = buffer[rooms[K + 2] : rooms[K + 2] + sizes[k - 1] * B].reshape(sizes[k - 1], B)
                W = p[at[0, k] : at[0, k] + sizes[k - 1] * sizes[k]].reshape(sizes[k - 1], sizes[k])
                np.dot(a, dz.T, dW)
                np.dot(W, dz, da)  # da[k-1] = W[k] @ dz[k]
                pull_back(kinds[k - 1], a.reshape(-1), da.reshape(-1))  # a becomes dz[k-1]

        penalty = l2 * per_weight
        keep = T(1.0 - rates[i, 0] * numbers[3])
        squares = update(method, p, g, m, v, 0, n_weights, T(penalty), keep, numbers, rates[i])
        update(method, p, g, m, v, n_weights, p.shape[0], T(0.0), T(1.0), numbers, rates[i])
        if l2 > 0.0:
            loss += T(0.5 * penalty) * squares
        sums[0] += loss * weight
        sums[1] += weight
