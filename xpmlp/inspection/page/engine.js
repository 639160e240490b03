// The maths of the page: forward, backward, the paths of the chain rule, the largest curvature. No DOM here.
// Matrices are arrays of rows; lists have the layer as index, as in xpmlp: W[k], z[k], a[k], dz[k], ...
"use strict";
const Engine = (() => {
  const sigmoid = z => (z >= 0 ? 1 / (1 + Math.exp(-z)) : Math.exp(z) / (1 + Math.exp(z)));
  const F = {
    identity: [z => z, () => 1],
    sigmoid: [sigmoid, (z, a) => a * (1 - a)],
    tanh: [Math.tanh, (z, a) => 1 - a * a],
    relu: [z => Math.max(z, 0), z => (z > 0 ? 1 : 0)],
    softplus: [z => Math.max(z, 0) + Math.log1p(Math.exp(-Math.abs(z))), sigmoid],
  };
  const softmax = row => {
    const top = Math.max(...row), e = row.map(z => Math.exp(z - top)), sum = e.reduce((s, x) => s + x, 0);
    return e.map(x => x / sum);
  };
  const LINK = { squared_error: "identity", binary_cross_entropy: "sigmoid", cross_entropy: "softmax" };
  const sampleLoss = {
    squared_error: (y, p) => y.reduce((s, t, j) => s + (p[j] - t) ** 2 / 2, 0),
    binary_cross_entropy: (y, p, z) =>
      y.reduce((s, t, j) => s + Math.max(z[j], 0) + Math.log1p(Math.exp(-Math.abs(z[j]))) - t * z[j], 0),
    cross_entropy: (y, p, z) => {
      const top = Math.max(...z);
      return Math.log(z.reduce((s, x) => s + Math.exp(x - top), 0)) - y.reduce((s, t, j) => s + t * (z[j] - top), 0);
    },
  };

  // net: {sizes, names, loss, W, b}. masks: slopes of ReLU units held as they are, for second differences.
  function forward(net, X, masks) {
    const K = net.sizes.length - 1, z = [null], a = [X];
    for (let k = 1; k <= K; k++) {
      const W = net.W[k], b = net.b[k], below = a[k - 1], name = net.names[k - 1];
      z[k] = below.map(row => {
        const out = b.slice();
        for (let i = 0; i < row.length; i++) { const x = row[i], w = W[i]; for (let j = 0; j < out.length; j++) out[j] += x * w[j]; }
        return out;
      });
      a[k] = name === "softmax" ? z[k].map(softmax)
        : masks && masks[k] ? z[k].map((row, s) => row.map((x, j) => x * masks[k][s][j]))
        : z[k].map(row => row.map(F[name][0]));
    }
    return { z, a };
  }

  // faults: {meanDb, doubled, sum}, the lines of the published class. Without them the derivatives are those of the mean.
  function backward(net, pass, Y, faults = {}, masks = null) {
    const K = net.sizes.length - 1, n = Y.length, { z, a } = pass;
    if (net.names[K - 1] !== LINK[net.loss]) throw new Error(`the engine knows ${net.loss} with ${LINK[net.loss]} only`);
    const dz = [], da = [], dW = [], db = [], slope = [];
    const share = (faults.sum ? 1 : 1 / n) * (faults.doubled ? 2 : 1);
    dz[K] = a[K].map((row, s) => row.map((p, j) => (p - Y[s][j]) * share));
    for (let k = K; k >= 1; k--) {
      dW[k] = net.W[k].map(row => row.map(() => 0));
      db[k] = net.b[k].map(() => 0);
      for (let s = 0; s < n; s++) {
        const d = dz[k][s], x = a[k - 1][s];
        for (let i = 0; i < x.length; i++) { const w = dW[k][i], v = x[i]; for (let j = 0; j < d.length; j++) w[j] += v * d[j]; }
        for (let j = 0; j < d.length; j++) db[k][j] += d[j];
      }
      if (faults.meanDb) db[k] = db[k].map(v => v / n);
      if (k === 1) break;
      da[k - 1] = dz[k].map(d => net.W[k].map(w => w.reduce((t, v, j) => t + v * d[j], 0)));
      const f = F[net.names[k - 2]][1];
      slope[k - 1] = masks && masks[k - 1] ? masks[k - 1]
        : z[k - 1].map((row, s) => row.map((x, j) => f(x, a[k - 1][s][j])));
      dz[k - 1] = da[k - 1].map((row, s) => row.map((d, j) => d * slope[k - 1][s][j]));
    }
    return { dz, da, dW, db, slope };
  }

  const losses = (net, pass, Y) => {
    const K = net.sizes.length - 1;
    return Y.map((y, s) => sampleLoss[net.loss](y, pass.a[K][s], pass.z[K][s]));
  };
  const mean = values => values.reduce((s, v) => s + v, 0) / values.length;

  function updated(net, grads, rate) {
    return {
      ...net,
      W: net.W.map((W, k) => W && W.map((row, i) => row.map((w, j) => w - rate * grads.dW[k][i][j]))),
      b: net.b.map((b, k) => b && b.map((w, j) => w - rate * grads.db[k][j])),
    };
  }

  // Every path from L to W[k][i, j] (i null: to b[k][j]), for the samples given: the units u_k = j, u_{k+1}, ..., u_K,
  // the partial derivatives along it where there is one sample, and the product, summed over the samples. scales[l] names
  // what parts multiply the units of layer l by; null where a part mixes them.
  function paths(arrays, K, k, i, j, samples, scales = []) {
    const widths = [];
    for (let l = k + 1; l <= K; l++) widths.push(arrays[`b[${l}]`].length);
    if (widths.reduce((p, w) => p * w, 1) > 4096) return null;
    for (let l = k; l < K; l++) if (!arrays[`slope[${l}]`] || scales[l] === null) return null;
    let units = [[j]];
    for (const w of widths) units = units.flatMap(u => Array.from({ length: w }, (_, v) => [...u, v]));
    return units.map(u => {
      let sum = 0, factors = null;
      for (const s of samples) {
        const last = [s, u[K - k]], parts = !arrays[`slope[${K}]`] ? [{ name: `∂L/∂z[${K}]`, of: `dz[${K}]`, index: last }]
          : [{ name: `∂L/∂a[${K}]`, of: `da[${K}]`, index: last }, { name: `∂a[${K}]/∂z[${K}]`, of: `slope[${K}]`, index: last }];
        for (let l = K - 1; l >= k; l--) {
          parts.push({ name: `∂z[${l + 1}]/∂a[${l}]`, of: `W[${l + 1}]`, index: [u[l - k], u[l + 1 - k]] });
          const by = scales[l] || [];
          parts.push({ name: `∂a[${l}]/∂${by.length ? "u" : "z"}[${l}]`, of: `slope[${l}]`, index: [s, u[l - k]] });
          for (const of of by) parts.push({ name: `∂u[${l}]/∂z[${l}]`, of, index: [u[l - k]] });
        }
        if (i !== null) parts.push({ name: `∂z[${k}]/∂W[${k}]`, of: `a[${k - 1}]`, index: [s, i] });
        let product = 1;
        for (const p of parts) { p.value = p.index.reduce((v, r) => v[r], arrays[p.of]); product *= p.value; }
        sum += product;
        if (samples.length === 1) factors = parts;
      }
      return { units: u, factors, product: sum };
    });
  }

  // The largest eigenvalue of P^1/2 H P^1/2; ratesW, ratesB are the diagonal of P. ReLU units stay as they are.
  function curvature(net, X, Y, rateW, rateB) {
    const K = net.sizes.length - 1, base = forward(net, X);
    const masks = net.names.map((name, k) => (name === "relu" ? base.z[k + 1].map(row => row.map(z => (z > 0 ? 1 : 0))) : null));
    masks.unshift(null);
    const where = [];
    for (let k = 1; k <= K; k++) {
      net.W[k].forEach((row, i) => row.forEach((_, j) => where.push([k, i, j])));
      net.b[k].forEach((_, j) => where.push([k, null, j]));
    }
    const root = where.map(([, i]) => Math.sqrt(i === null ? rateB : rateW)), h = 1e-5;
    const gradient = moved => {
      const g = backward(moved, forward(moved, X, masks), Y, {}, masks);
      return where.map(([k, i, j]) => (i === null ? g.db[k][j] : g.dW[k][i][j]));
    };
    // P^1/2 H P^1/2 v from two gradients; Lanczos' method needs a dozen of these, as xpmlp.curvature does.
    const product = v => {
      const d = v.map((x, r) => x * root[r]), length = Math.hypot(...d) || 1;
      const moved = sign => {
        const to = { ...net, W: net.W.map(W => W && W.map(r => r.slice())), b: net.b.map(b => b && b.slice()) };
        where.forEach(([k, i, j], r) => {
          const by = sign * h / length * d[r];
          if (i === null) to.b[k][j] += by; else to.W[k][i][j] += by;
        });
        return gradient(to);
      };
      const plus = moved(1), minus = moved(-1);
      return plus.map((g, r) => root[r] * (g - minus[r]) / (2 * h) * length);
    };
    const dot = (u, v) => u.reduce((t, x, r) => t + x * v[r], 0), size = where.length, T = [];
    let v = where.map((_, r) => Math.sin(1 + 7 * r)), largest = 0;
    const basis = [];
    for (let m = 0; m < size; m++) {
      const norm = Math.sqrt(dot(v, v));
      if (m && norm <= 1e-12 * Math.abs(largest)) break;
      basis.push(v.map(x => x / norm));
      T.forEach((row, r) => row.push(r === m - 1 ? norm : 0));
      v = product(basis[m]);
      T.push(basis.map((_, r) => (r === m ? dot(v, basis[m]) : r === m - 1 ? norm : 0)));
      for (let twice = 0; twice < 2; twice++) for (const q of basis) { const c = dot(v, q); v = v.map((x, r) => x - c * q[r]); }
      const now = largestEigenvalue(T.map(row => row.slice()));
      if (m > 3 && Math.abs(now - largest) <= 1e-7 * Math.abs(now)) return now;
      largest = now;
    }
    return largest;
  }

  function largestEigenvalue(A) {  // Jacobi's rotations
    const n = A.length;
    for (let sweep = 0; sweep < 30; sweep++) {
      let off = 0, all = 0;
      for (let p = 0; p < n; p++) for (let q = 0; q < n; q++) { all += A[p][q] ** 2; if (p !== q) off += A[p][q] ** 2; }
      if (off <= 1e-20 * all) break;
      for (let p = 0; p < n; p++) for (let q = p + 1; q < n; q++) {
        if (A[p][q] === 0) continue;
        const theta = (A[q][q] - A[p][p]) / (2 * A[p][q]);
        const t = (theta >= 0 ? 1 : -1) / (Math.abs(theta) + Math.sqrt(theta * theta + 1));
        const c = 1 / Math.sqrt(t * t + 1), s = t * c;
        for (let r = 0; r < n; r++) { const x = A[r][p], y = A[r][q]; A[r][p] = c * x - s * y; A[r][q] = s * x + c * y; }
        for (let r = 0; r < n; r++) { const x = A[p][r], y = A[q][r]; A[p][r] = c * x - s * y; A[q][r] = s * x + c * y; }
      }
    }
    return Math.max(...A.map((row, r) => row[r]));
  }

  return { forward, backward, losses, mean, updated, paths, curvature, LINK };
})();
