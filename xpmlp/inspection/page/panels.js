// The panels of one step: the network, the paths to the chosen weight, the matrix line, the step, the list of arrays.
"use strict";
const Panels = (() => {
  // state: {arrays, sizes, names, chosen, sample (-1: all), equations}; of parts {parts, scales}; of members {members,
  // member, whole (arrays of all), from (where in them an array of `arrays` lies)}
  const n = state => state.arrays["a[0]"].length;
  const MOST_LISTED = 200; // samples in the list
  const ref = (state, name, ...index) => {
    const [of, first] = state.from?.[name] ?? [name, []];
    return `${of}[${[...first, ...index].join(", ")}]`;
  };
  const derivativeOf = (state, w) => (w.i === null ? ref(state, `db[${w.k}]`, w.j) : ref(state, `dW[${w.k}]`, w.i, w.j));
  const shared = (state, w) => Boolean(state.members) && w.i !== null && w.k < state.sizes.length - 1;
  const whose = (state, w) => (!state.members ? dName(w)
    : shared(state, w) ? `what member ${state.member} adds to ${dName(w)}` : `${dName(w)} of member ${state.member}`);
  const ofMember = state => (state.members ? ` of member ${state.member}` : "");
  const derivative = (state, w) => (w.i === null ? state.arrays[`db[${w.k}]`][w.j] : state.arrays[`dW[${w.k}]`][w.i][w.j]);
  const dName = w => `d${label(w)}`;

  function network(state, host, choose) {
    const samples = state.sample < 0 ? null : state.sample;
    const inputs = (k, j) => (samples === null ? null : state.arrays[`a[${k}]`][samples][j]);
    const focused = document.activeElement?.closest?.(".edge");
    const svg = Drawing.network({ ...state, inputs, choose, room: Math.max(host.clientWidth, 300) });
    host.replaceChildren(svg);
    if (focused || state.keepFocus) svg.querySelector(".chosen")?.focus();
    return svg;
  }

  function chain(state, host, svg) {
    const { arrays, chosen: w, sizes } = state, K = sizes.length - 1;
    const samples = state.sample < 0 ? [...Array(n(state)).keys()] : [state.sample];
    const list = Engine.paths(arrays, K, w.k, w.i, w.j, samples, state.scales);
    const where = (state.sample < 0 ? `all ${n(state)} samples` : `sample ${state.sample}`) + ofMember(state);
    const symbols = list && list.length ? (list[0].factors || Engine.paths(arrays, K, w.k, w.i, w.j, [0], state.scales)[0].factors).map(f => f.name) : [];
    const parts = [make("p", {}, `dL/d${label(w)}, a total derivative: the product of the partial derivatives along each path from L, `
      + `added over the paths, for ${where}.`)];
    if (list) parts.push(make("p", { class: "soft" }, symbols.join(" · ")));
    if (!list) {
      parts.push(make("p", { class: "soft" }, "Something between this weight and L mixes the units of a layer (softmax, layer_norm), "
        + "or there are more than 4,096 paths: the matrix line has the sum."));
    } else {
      const order = [...list].sort((p, q) => Math.abs(q.product) - Math.abs(p.product));
      const shown = order.slice(0, 60), sum = list.reduce((s, p) => s + p.product, 0);
      const items = shown.map(p => make("li", { tabindex: 0, onmouseenter: () => Drawing.light(svg, w.k, [p]),
        onfocus: () => Drawing.light(svg, w.k, [p]), onmouseleave: () => Drawing.light(svg, w.k, list),
        onblur: () => Drawing.light(svg, w.k, list) },
        make("div", {}, `L ← ${[...p.units].reverse().map((u, r) => `z[${K - r}] unit ${u}`).join(" ← ")}`),
        ...(p.factors || []).map((f, r) => make("span", { class: "factor" }, r ? "· " : "", make("span", { class: "name" }, `${f.name} = `),
          number(f.value, ref(state, f.of, ...f.index)))),
        make("span", { class: "factor" }, p.factors ? "= " : "sum over the samples = ", number(p.product, ""))));
      parts.push(make("ul", { class: "paths", tabindex: -1 }, ...items));
      if (order.length > shown.length) parts.push(make("p", { class: "soft" }, `and ${order.length - shown.length} smaller ones.`));
      parts.push(make("p", { class: "total" }, `Sum over the ${list.length} ${list.length === 1 ? "path" : "paths"}: `,
        make("data", { value: String(sum), id: "sum" }, short(sum)), ...(state.sample < 0
          ? [`; ${whose(state, w)} = `, number(derivative(state, w), derivativeOf(state, w))]
          : [`, what sample ${state.sample}${ofMember(state)} adds to ${dName(w)}`])));
      if (state.sample < 0 && Math.abs(sum - derivative(state, w)) > 1e-9 * Math.abs(sum))
        parts.push(make("p", { class: "warn" }, `The line for d${w.i === null ? "b" : "W"} does not compute this sum.`));
      Drawing.light(svg, w.k, list);
    }
    host.replaceChildren(...parts);
  }

  function matrix(state, host) {
    const { arrays, chosen: w } = state, K = w.k, dz = arrays[`dz[${K}]`], a = arrays[`a[${K - 1}]`], bias = w.i === null;
    const value = s => (bias ? 1 : a[s][w.i]) * dz[s][w.j];
    const rows = [...Array(n(state)).keys()].sort((s, t) => Math.abs(value(t)) - Math.abs(value(s))).slice(0, 12).sort((s, t) => s - t);
    const line = bias ? `db[${K}] = sum over rows of dz[${K}]` : `dW[${K}] = a[${K - 1}].T @ dz[${K}]`;
    const shape = m => `(${m.length}, ${m[0].length})`;
    const shapes = bias ? `${shape(dz)} → (${dz[0].length})` : `(${a[0].length}, ${a.length}) @ ${shape(dz)} → (${a[0].length}, ${dz[0].length})`;
    host.replaceChildren(
      make("p", {}, make("code", {}, line), " ", make("span", { class: "soft" }, shapes)),
      make("p", {}, bias ? `Element ${w.j}: column ${w.j} of dz, added over the samples.`
        : `Element [${w.i}, ${w.j}]: column ${w.i} of a[${K - 1}] times column ${w.j} of dz[${K}], added over the samples.`),
      make("div", { class: "scroll", tabindex: 0, role: "group", "aria-label": "One row for each sample" }, make("table", {}, make("thead", {}, make("tr", {},
        ...["sample", ...(bias ? [] : [`a[${K - 1}]`]), `dz[${K}]`, "product"].map(t => make("th", { scope: "col" }, t)))),
      make("tbody", {}, ...rows.map(s => make("tr", {}, make("td", {}, String(s)),
        ...(bias ? [] : [make("td", { class: "on" }, number(a[s][w.i], ref(state, `a[${K - 1}]`, s, w.i)))]),
        make("td", { class: "on" }, number(dz[s][w.j], ref(state, `dz[${K}]`, s, w.j))), make("td", {}, number(value(s), "")))))),
      ),
      ...(rows.length < n(state) ? [make("p", { class: "soft" }, `The ${rows.length} largest of ${n(state)} samples.`)] : []),
      make("p", { class: "total" }, `${whose(state, w).replace(/^w/, "W")} = `, number(derivative(state, w), derivativeOf(state, w))),
      ...(shared(state, w) ? [make("p", { class: "total" }, `Added over the ${state.members} members, which share W[${K}]: ${dName(w)} = `,
        number(state.whole[`dW[${K}]`][w.i][w.j], dName(w)))] : []));
  }

  function numbers(value, name, first = []) {
    if (!Array.isArray(value)) return make("p", {}, number(value, name));
    if (Array.isArray(value[0]?.[0])) {
      return make("div", {}, ...value.slice(0, 12).flatMap((block, r) => [make("p", { class: "soft" }, `[${r}]`), numbers(block, name, [r])]),
        ...(value.length > 12 ? [make("p", { class: "soft" }, `and ${value.length - 12} more`)] : []));
    }
    const rows = Array.isArray(value[0]) ? value : [value], two = Array.isArray(value[0]);
    const some = rows.slice(0, 12);
    return make("div", { class: "scroll" }, make("table", {}, ...some.map((row, r) => make("tr", {}, ...row.slice(0, 24).map((v, c) =>
      make("td", {}, number(v, `${name}[${[...first, ...(two ? [r, c] : [c])].join(", ")}]`)))))),
      ...(rows.length > 12 ? [make("p", { class: "soft" }, `and ${rows.length - 12} more rows`)] : []));
  }

  function list(state, host) {
    host.replaceChildren(make("dl", {}, ...state.equations.flatMap(([name, formula, shapes]) => [
      make("dt", {}, make("code", {}, `${name} = ${formula}`), " ", make("span", { class: "soft" }, shapes)),
      make("dd", {}, numbers((state.whole ?? state.arrays)[name], name))])));
  }

  function chooser(state, select, choose) {
    if (!select.options.length) {
      for (let k = 1; k < state.sizes.length; k++) {
        for (let i = 0; i < state.sizes[k - 1]; i++) for (let j = 0; j < state.sizes[k]; j++) add({ k, i, j });
        for (let j = 0; j < state.sizes[k]; j++) add({ k, i: null, j });
      }
      select.addEventListener("change", () => choose(JSON.parse(select.value)));
    }
    select.value = JSON.stringify(state.chosen);
    function add(w) { select.append(make("option", { value: JSON.stringify(w) }, label(w))); }
  }

  function samples(state, select, choose) {
    if (!select.options.length) {
      select.append(make("option", { value: -1 }, `all ${n(state)} samples`));
      for (let s = 0; s < Math.min(n(state), MOST_LISTED); s++) select.append(make("option", { value: s }, `sample ${s}`));
      select.addEventListener("change", () => choose(Number(select.value)));
    }
    select.value = String(state.sample);
  }

  return { network, chain, matrix, list, chooser, samples, derivative, MOST_LISTED };
})();
