// Two runs side by side: settings, figures, and whether they name the same clients.

/** Show the two runs that are chosen. */
function compareRuns() {
  const at = ["first", "second"].map((id) => Number(document.getElementById(id).value));
  const [first, second] = at.map((one) => DATA.compared[one]), [one, two] = at.map((each) => DATA.runs[each]);
  const keys = [...new Set([...Object.keys(first.settings), ...Object.keys(second.settings)])].filter((key) => first.settings[key] !== second.settings[key]);
  const names = [...new Set([...Object.keys(first.figures), ...Object.keys(second.figures)])].filter((key) => key !== "seed");
  const value = (run, key) => run.figures[key] ?? null;
  const rows = names.map((key) => [key.replace(/_/g, " "), value(first, key), value(second, key), value(first, key) === null || value(second, key) === null ? null : value(second, key) - value(first, key)]);
  const parts = [keys.length ? tableOf("Settings that differ", ["key", "first", "second"], keys.map((key) => [key, first.settings[key] ?? "–", second.settings[key] ?? "–"])) : make("p", {}, "They have the same settings.")];
  const said = one && two ? agreement(one, two) : null;
  if (said) parts.push(make("p", { class: "told" }, said));
  parts.push(tableOf("Figures", ["figure", "first", "second", "second minus first"], rows, { 3: (number) => `${number > 0 ? "+" : ""}${figure(number)}` }));
  document.getElementById("compared").replaceChildren(...parts);
}

/** How often both runs have the same client on top, of the inputs that both traced. */
function agreement(first, second) {
  const top = (run) => {
    const trace = run.traces.find((each) => each.method === run.own && each.scope === "round");
    return new Map((trace?.inputs ?? []).map((number, at) => [number, trace.clients[trace.top[at][0]]]));
  };
  const [one, two] = [top(first), top(second)];
  const shared = [...one.keys()].filter((number) => two.has(number));
  const federation = (run) => JSON.stringify([run.fingerprint, run.clients.number, run.clients.examples, run.clients.counts]);
  if (!shared.length || federation(first) !== federation(second)) return null; // numbers would name other clients
  const same = shared.filter((number) => one.get(number) === two.get(number)).length;
  return `Of the ${count(shared.length)} inputs that both traced, ${percent(same / shared.length)} have the same client on top.`;
}
