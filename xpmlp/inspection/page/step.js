// One step of a network that Python has taken: every number comes from its arrays.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = id => document.getElementById(id);
  const state = { ...data };
  // Of members: the arrays of one of them, without their axis; of weights that they share, dW is what that one adds.
  function view() {
    if (!data.members) return;
    state.whole = data.arrays;
    state.arrays = { ...data.arrays };
    state.from = {};
    const m = state.member;
    for (const name of data.each) {
      const vector = /^d?b\[|\.scale\[/.test(name), to = name.replace("dW_members[", "dW[");
      state.arrays[to] = vector ? data.arrays[name][m][0] : data.arrays[name][m];
      state.from[to] = [name, vector ? [m, 0] : [m]];
    }
  }
  const choose = (weight, byKey) => { state.chosen = weight; state.keepFocus = Boolean(byKey); draw(); };

  function draw() {
    const svg = Panels.network(state, at("network"), choose);
    Panels.chain(state, at("chain"), svg);
    Panels.matrix(state, at("matrix"));
    Panels.chooser(state, at("weight"), choose);
    Panels.samples(state, at("sample"), s => { state.sample = s; draw(); });
    const select = at("member");
    at("of-member").hidden = !data.members;
    if (!select.options.length) for (let m = 0; m < data.members; m++) select.append(make("option", { value: m }, String(m)));
    select.value = String(state.member);
    at("told").textContent = `${label(state.chosen)}, ${state.members ? `member ${state.member}'s ` : ""}derivative ${short(Panels.derivative(state, state.chosen))}`;
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

  view();
  Panels.list(state, at("list"));
  at("member").addEventListener("change", () => { state.member = Number(at("member").value); view(); draw(); });
  at("rate").max = data.rates.length - 1;
  at("rate").value = data.at;
  at("rate").addEventListener("input", step);
  draw();
  step();
})();
