// What if clients had not been there: what the run has measured, or what who serves the page computes.

/** The answer for one client that was measured, as who serves the page would give it. */
function measuredWithout(run, client) {
  const { inputs, label, prediction, clients, without } = run.without, after = without[clients.indexOf(client)];
  if (after.some((one) => one < 0)) return { clients: [client], reason: "the fusion does not work without it" };
  const places = range(inputs.length), known = places.filter((at) => label[at] >= 0);
  const changed = places.filter((at) => after[at] !== prediction[at]);
  return {
    clients: [client], how: run.without.method, inputs: inputs.length, changed_inputs: changed.length,
    wrong_before: known.filter((at) => prediction[at] !== label[at]).length, wrong_after: known.filter((at) => after[at] !== label[at]).length,
    corrected: known.filter((at) => prediction[at] !== label[at] && after[at] === label[at]).length,
    broken: known.filter((at) => prediction[at] === label[at] && after[at] !== label[at]).length,
    changed: changed.map((at) => ({ input: inputs[at], label: label[at], before: prediction[at], after: after[at], probability: null })),
  };
}

/** Show an answer: a sentence, and the predictions that change, each leading to its card. */
function showWithout(index, found) {
  const run = DATA.runs[index], host = document.querySelector(`.without[data-index="${index}"] .without-shown`);
  if (found.reason) { host.replaceChildren(make("p", { class: "told warning" }, String(found.reason))); return; }
  const names = found.clients.map((client) => clientName(run, client)).join(", "), known = found.wrong_before + found.broken > 0 || found.wrong_after > 0;
  const said = `Without client${found.clients.length > 1 ? "s" : ""} ${names}, ${count(found.changed_inputs)} of ${count(found.inputs)} traced predictions change` +
    (known ? `: ${count(found.corrected)} become right, ${count(found.broken)} become wrong (${count(found.wrong_before)} wrong before, ${count(found.wrong_after)} after).` : ".");
  const sure = found.changed.some((one) => one.probability !== null), heads = ["input", "labelled", "predicted", "without", ...(sure ? ["probability"] : [])];
  const rows = found.changed.map((one) => [`input ${one.input}`, labelOf(run, one.label), labelOf(run, one.before), labelOf(run, one.after), ...(sure ? [one.probability] : [])]);
  host.replaceChildren(make("p", { class: "verdict" }, said),
    rows.length ? tableOf("Predictions that change", heads, rows, { 4: percent }, (place) => `#${inputPlace(run, found.changed[place].input)}`) : "");
}

/** Let the controls ask. */
function setUpWithout(host) {
  const index = Number(host.dataset.index), run = DATA.runs[index], select = host.querySelector("select");
  if (select) {
    select.append(...run.without.clients.map((client) => make("option", { value: client }, clientName(run, client))));
    if (run.without.clients.includes(run.first)) select.value = String(run.first);
    select.addEventListener("input", () => showWithout(index, measuredWithout(run, Number(select.value))));
    showWithout(index, measuredWithout(run, Number(select.value)));
    return;
  }
  const input = host.querySelector("input"), button = host.querySelector("button");
  const ask = async () => {
    button.disabled = true;
    try {
      const answer = await fetch(`without?clients=${encodeURIComponent(input.value)}`);
      showWithout(index, await answer.json());
    } catch { showWithout(index, { reason: "nobody answers: is provfl report --serve still running?" }); }
    button.disabled = false;
  };
  button.addEventListener("click", ask);
  input.addEventListener("keydown", (event) => { if (event.key === "Enter") ask(); });
}
