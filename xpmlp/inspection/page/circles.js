// The tutorial's network on two circles, step by step, with a switch for each published fault. All of it is computed here.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = id => document.getElementById(id);
  const X = data.X, Y = data.Y, n = X.length;
  const state = { sizes: data.sizes, names: data.names, sample: 0, chosen: { k: 1, i: 0, j: 0 }, arrays: {} };
  const choose = (weight, byKey) => { state.chosen = weight; state.keepFocus = Boolean(byKey); show(); };
  let net, pass, grads, epoch, history, timer = null, next;

  const faults = () => ({ sum: at("sum").checked, meanDb: at("mean").checked, doubled: at("doubled").checked });
  const rate = () => Number(at("rate").value);
  // The rates that the lines amount to, for the mean loss: what the curvature is multiplied by.
  const effective = () => {
    const f = faults(), W = rate() * (f.sum ? n : 1) * (f.doubled ? 2 : 1);
    return [W, f.meanDb ? W / n : W];
  };

  function reset() {
    stop();
    const start = data.starts[at("start").value];
    net = { sizes: data.sizes, names: data.names, loss: data.loss, W: start.W, b: start.b };
    epoch = 0;
    history = { loss: [], edge: [] };
    forward();
    backward();
  }
  function forward() {
    pass = Engine.forward(net, X);
    const loss = Engine.mean(Engine.losses(net, pass, Y)), edge = Engine.curvature(net, X, Y, ...effective());
    history.loss[epoch] = loss;
    history.edge[epoch] = edge;
    next = "backward";
  }
  function backward() { grads = Engine.backward(net, pass, Y, faults()); next = "update"; }
  function update() { net = Engine.updated(net, grads, rate()); epoch += 1; next = "forward"; }
  // What is still missing of the step before a button's own part.
  const upTo = {
    forward: () => { if (next === "backward") backward(); if (next === "update") update(); forward(); },
    backward: () => { if (next === "forward") forward(); backward(); },
    update: () => { if (next === "forward") forward(); if (next === "backward") backward(); update(); },
  };
  const oneEpoch = () => { upTo.update(); forward(); backward(); };

  // To begin with, the weight of layer 1 with the largest derivative, in the sample that weighs most in it.
  function chooseLargest() {
    const all = grads.dW[1].flatMap((row, i) => row.map((d, j) => ({ k: 1, i, j, d: Math.abs(d) })));
    const { k, i, j } = all.reduce((best, it) => (it.d > best.d ? it : best));
    const shares = X.slice(0, Panels.MOST_LISTED).map((x, s) => Math.abs(x[i] * grads.dz[1][s][j]));
    state.chosen = { k, i, j };
    state.sample = shares.indexOf(Math.max(...shares));
  }

  function collect() {
    const K = net.sizes.length - 1, arrays = {};
    for (let k = 0; k <= K; k++) {
      arrays[`a[${k}]`] = pass.a[k];
      if (!k) continue;
      Object.assign(arrays, { [`W[${k}]`]: net.W[k], [`b[${k}]`]: net.b[k], [`z[${k}]`]: pass.z[k], [`dz[${k}]`]: grads.dz[k],
        [`dW[${k}]`]: grads.dW[k], [`db[${k}]`]: grads.db[k] });
      if (k < K) arrays[`slope[${k}]`] = grads.slope[k];
    }
    state.arrays = arrays;
  }

  function show() {
    collect();
    const svg = Panels.network(state, at("network"), choose);
    if (!timer) {
      Panels.chain(state, at("chain"), svg);
      Panels.matrix(state, at("matrix"));
    }
    Panels.chooser(state, at("weight"), choose);
    Panels.samples(state, at("sample"), s => { state.sample = s; show(); });
    const K = net.sizes.length - 1, done = history.loss.length - 1, right = pass.a[K].filter((p, s) => (p[0] > 0.5) === (Y[s][0] > 0.5)).length / n;
    const edge = history.edge[done];
    at("told").replaceChildren(`Epoch ${epoch}. Mean loss ${history.loss[done].toFixed(4)} (sum ${(history.loss[done] * n).toFixed(4)}), `
      + `${(100 * right).toFixed(1)} % right, rate × curvature ${edge.toFixed(2)}. `,
      edge > 2 ? make("span", { class: "warn" }, "Above 2: the next steps grow.") : "",
      next === "forward" ? " Updated: press Forward to see what it did." : next === "backward" ? " Forward is done: next, Backward." : "");
    if (done < 1) for (const id of ["loss", "edge"])
      at(id).replaceChildren(make("p", { class: "soft" }, "A line from the second epoch on: press One epoch, or Play."));
    else at("loss").replaceChildren(Drawing.chart(history.loss, { title: `Mean loss over ${epoch} epochs` }));
    if (done > 0) at("edge").replaceChildren(Drawing.chart(history.edge, { title: `Rate times curvature over ${epoch} epochs, with a line at 2`, line: 2, least: 0 }));
    boundary();
  }

  function boundary() {
    const canvas = at("boundary"), side = 60, lim = 1.6, context = canvas.getContext("2d");
    const grid = [];
    for (let r = 0; r < side; r++) for (let c = 0; c < side; c++) grid.push([(2 * (c + 0.5) / side - 1) * lim, (1 - 2 * (r + 0.5) / side) * lim]);
    const { a } = Engine.forward(net, grid), p = a[a.length - 1];
    const low = Math.min(...p.map(v => v[0])), high = Math.max(...p.map(v => v[0])), cell = canvas.width / side;
    const style = getComputedStyle(document.documentElement), outer = style.getPropertyValue("--outer"), inner = style.getPropertyValue("--inner");
    p.forEach((v, i) => {
      context.fillStyle = v[0] > 0.5 ? inner : outer;
      context.fillRect((i % side) * cell, Math.floor(i / side) * cell, cell + 1, cell + 1);
    });
    X.forEach(([x, y], s) => {
      if (s % 3) return;
      context.fillStyle = style.getPropertyValue(Y[s][0] > 0.5 ? "--plus" : "--minus");
      context.beginPath();
      const px = (x / lim + 1) * canvas.width / 2, py = (1 - y / lim) * canvas.height / 2;
      if (Y[s][0] > 0.5) context.arc(px, py, 3, 0, 7); else context.rect(px - 2.5, py - 2.5, 5, 5);
      context.fill();
    });
    at("range").textContent = `yhat from ${low.toPrecision(3)} to ${high.toPrecision(3)}; blue ground: above 0.5. Round: inner circle (y = 1).`;
  }

  function stop() { clearTimeout(timer); timer = null; at("play").textContent = "Play"; }
  function play() {
    if (timer) { stop(); show(); return; }
    at("play").textContent = "Pause";
    const tick = () => {
      oneEpoch();
      if (epoch >= 1000) stop(); else timer = setTimeout(tick, 20);
      show();
    };
    timer = setTimeout(tick, 0);
  }

  for (const name of ["forward", "backward", "update"]) at(name).addEventListener("click", () => { stop(); upTo[name](); show(); });
  at("epoch").addEventListener("click", () => { stop(); oneEpoch(); show(); });
  at("play").addEventListener("click", play);
  at("reset").addEventListener("click", () => { reset(); show(); });
  at("start").addEventListener("change", () => { reset(); show(); });
  // Without 1/n in da[K] the rate is one of n times as much: switching it keeps the step what it was.
  at("sum").addEventListener("change", () => { at("rate").value = at("sum").checked ? rate() / n : rate() * n; changed(); });
  for (const name of ["mean", "doubled", "rate"]) at(name).addEventListener("change", changed);
  at("mended").addEventListener("click", () => { set(false, 0.5, "he"); });
  at("published").addEventListener("click", () => { set(true, 0.005, "published"); });
  function set(wrong, to, start) {
    for (const name of ["sum", "mean", "doubled"]) at(name).checked = wrong;
    at("rate").value = to;
    at("start").value = start;
    reset();
    show();
  }
  function changed() { forward(); backward(); show(); }

  reset();
  chooseLargest();
  show();
  window.circles = { run: epochs => { for (let e = 0; e < epochs; e++) oneEpoch(); show(); return history; } };
})();
