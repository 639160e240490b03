// One step of a network that Python has taken: every number comes from its arrays.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = id => document.getElementById(id);
  const state = { ...data };
  const choose = (weight, byKey) => { state.chosen = weight; state.keepFocus = Boolean(byKey); draw(); };

  function draw() {
    const svg = Panels.network(state, at("network"), choose);
    Panels.chain(state, at("chain"), svg);
    Panels.matrix(state, at("matrix"));
    Panels.chooser(state, at("weight"), choose);
    Panels.samples(state, at("sample"), s => { state.sample = s; draw(); });
    at("told").textContent = `${label(state.chosen)}, derivative ${short(Panels.derivative(state, state.chosen))}`;
  }

  function step() {
    const i = Number(at("rate").value), rate = data.rates[i], happened = data.changes[i];
    const predicted = -rate * data.squared;
    at("rate").setAttribute("aria-valuetext", `rate ${short(rate)}`);
    at("step").replaceChildren(
      make("p", {}, "Rate ", number(rate, `rates[${i}]`), ": every w becomes w − rate · dL/dw."),
      make("p", {}, "predicted: dL = Σ (∂L/∂w) dw = ", number(predicted, "")),
      make("p", {}, "happened: L after − L before = ", Number.isFinite(happened) ? number(happened, `changes[${i}]`) : "not finite"),
      make("p", { class: happened > 0 || !Number.isFinite(happened) ? "warn" : "soft" }, !Number.isFinite(happened) || happened > 0
        ? "L rises: the rate is too large for how L bends here."
        : `happened / predicted = ${short(happened / predicted)}; 1 for a small step`));
  }

  Panels.list(state, at("list"));
  at("rate").max = data.rates.length - 1;
  at("rate").value = data.at;
  at("rate").addEventListener("input", step);
  draw();
  step();
})();
