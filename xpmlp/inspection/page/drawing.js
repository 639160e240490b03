// The network as an SVG: units, weights, biases and L. A weight can be chosen by mouse or by keyboard.
"use strict";
const SVG = "http://www.w3.org/2000/svg";
function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "g", "line", "circle", "rect", "text", "path", "title"].includes(tag);
  const node = svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter(child => child !== null));
  return node;
}
const short = v => (v === 0 ? "0" : Math.abs(v) >= 1e-3 && Math.abs(v) < 1e5 ? String(+v.toPrecision(4)) : v.toExponential(2));
const number = (v, of) => make("data", { value: String(v), "data-of": of, title: String(v) }, short(v));
const label = w => (w.i === null ? `b[${w.k}][${w.j}]` : `W[${w.k}][${w.i}, ${w.j}]`);
const same = (v, w) => v.k === w.k && v.i === w.i && v.j === w.j;

const Drawing = {
  // arrays by name; sizes; names of the activations, and of the parts of each layer; chosen {k, i, j}; choose(weight) is
  // called with another
  network({ arrays, sizes, names, parts = [], inputs, chosen, choose, room }) {
    const K = sizes.length - 1, most = Math.max(...sizes) + 1, gap = Math.max(46, Math.min(72, 420 / most));
    // Drawn for the room there is, so that its text is as large on a phone.
    const stepX = Math.max(62, Math.min(190, (room - 150) / K)), width = stepX * K + 150;
    // The parts of a layer stand under its name, on a phone in two lines each.
    const told = parts.map(row => (stepX < 95 ? row.flatMap(part => part.split(/(?<=_)/)) : row));
    const more = 12 * Math.max(0, ...told.map(row => row.length - 1)), height = most * gap + 56 + more;
    const x = k => 44 + k * stepX, y = (k, j) => 44 + more + (height - more - 56) / 2 + (j - (sizes[k] - 1) / 2) * gap - (k < K ? 0.35 * gap : 0);
    const bias = k => ({ x: x(k), y: height - 22 });
    const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, style: `max-width:${width}px;margin:auto`, role: "group",
      "aria-label": "The network drawn. Arrow keys go from weight to weight, each with its derivative." });
    const weights = [];
    const largest = Math.max(1e-300, ...sizes.slice(1).flatMap((_, r) => arrays[`dW[${r + 1}]`].flat().map(Math.abs)));
    const add = (w, from, to) => {
      const value = w.i === null ? arrays[`b[${w.k}]`][w.j] : arrays[`W[${w.k}]`][w.i][w.j];
      const d = w.i === null ? arrays[`db[${w.k}]`][w.j] : arrays[`dW[${w.k}]`][w.i][w.j];
      const is = same(w, chosen), ends = { x1: from.x, y1: from.y, x2: to.x, y2: to.y };
      const text = `${label(w)} = ${short(value)}, dL/d${w.i === null ? "b" : "W"} = ${short(d)}`;
      const group = make("g", { class: `edge${d < 0 ? " minus" : ""}${is ? " chosen" : ""}`, role: "button", "aria-label": text,
        "aria-pressed": String(is), tabindex: is ? 0 : -1, "data-weight": label(w), onclick: () => choose(w),
        onkeydown: event => {
          const move = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
          if (!move) return;
          event.preventDefault();
          const at = weights.findIndex(it => same(it, w));
          choose(weights[(at + move + weights.length) % weights.length], true);
        } }, make("title", {}, text), make("line", { class: "hit", ...ends }),
        make("line", { class: "seen", "stroke-width": 1 + 4 * Math.sqrt(Math.abs(d) / largest), ...ends }));
      weights.push(w);
      svg.append(group);
    };
    for (let k = 1; k <= K; k++) {
      for (let i = 0; i < sizes[k - 1]; i++) for (let j = 0; j < sizes[k]; j++)
        add({ k, i, j }, { x: x(k - 1), y: y(k - 1, i) }, { x: x(k), y: y(k, j) });
      for (let j = 0; j < sizes[k]; j++) add({ k, i: null, j }, bias(k - 1), { x: x(k), y: y(k, j) });
    }
    for (let j = 0; j < sizes[K]; j++) svg.append(make("line", { x1: x(K), y1: y(K, j), x2: x(K) + 70, y2: y(K, (sizes[K] - 1) / 2),
      stroke: "currentColor", "stroke-opacity": 0.5 }));
    for (let k = 0; k <= K; k++) {
      const before = told[k] || [], first = before.length ? "a[0]" : "x";
      svg.append(make("text", { class: "head", x: x(k), y: before.length ? 12 : 16 }, k ? `${names[k - 1]}` : first));
      before.forEach((part, r) => svg.append(make("text", { class: "head part", x: x(k), y: 26 + 12 * r }, part)));
      for (let j = 0; j < sizes[k]; j++) svg.append(make("g", { class: "unit", "data-unit": `${k},${j}` },
        make("circle", { cx: x(k), cy: y(k, j), r: 17 }), make("text", { x: x(k), y: y(k, j) }, short3(inputs(k, j)))));
      if (k < K) svg.append(make("g", { class: "unit" }, make("rect", { x: x(k) - 11, y: height - 33, width: 22, height: 22, rx: 3 }),
        make("text", { x: x(k), y: height - 22 }, "1")));
    }
    svg.append(make("g", { class: "unit" }, make("circle", { cx: x(K) + 70, cy: y(K, (sizes[K] - 1) / 2), r: 15 }),
      make("text", { x: x(K) + 70, y: y(K, (sizes[K] - 1) / 2) }, "L")));
    return svg;
  },

  // Light up what lies on these paths to the weight; units are those of layers k, k + 1, ..., K.
  light(svg, k, list) {
    svg.classList.add("dim");
    for (const node of svg.querySelectorAll(".lit")) node.classList.remove("lit");
    const on = (selector) => svg.querySelector(selector)?.classList.add("lit");
    for (const { units } of list) units.forEach((u, step) => {
      on(`[data-unit="${k + step},${u}"]`);
      if (step) on(`[data-weight="W[${k + step}][${units[step - 1]}, ${u}]"]`);
    });
  },

  chart(values, { title, line = null, least = null }) {
    const finite = values.filter(Number.isFinite), width = 300, height = 110;
    const low = Math.min(...(least === null ? finite : [least, ...finite])), high = Math.max(...finite, line ?? -Infinity);
    const px = i => (i / Math.max(values.length - 1, 1)) * width;
    const py = v => height - 6 - ((v - low) / (high - low || 1)) * (height - 12);
    const d = values.map((v, i) => (Number.isFinite(v) ? `${i ? "L" : "M"}${px(i).toFixed(1)} ${py(v).toFixed(1)}` : "")).join("");
    return make("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title },
      make("path", { d }), line === null ? null : make("line", { class: "edge2", x1: 0, x2: width, y1: py(line), y2: py(line) }));
  },
};
// What fits into a unit: 0.48, 9e-3, 1e+2
const short3 = v => (v === null ? "" : v && (Math.abs(v) >= 100 || Math.abs(v) < 0.01) ? v.toExponential(0) : String(+v.toPrecision(2)));
