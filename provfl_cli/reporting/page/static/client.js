// The page of one client, or of two side by side: all that is known of them.

const INPUTS_LISTED = 30;

/** Show one client of a run, or two; a number that is none shows nobody. */
function showClients(index, first, second = null) {
  const run = DATA.runs[index], host = document.getElementById(`client-${index}`);
  const selects = [...host.querySelectorAll("select")], numbers = [first, second].filter((one) => run.clients.number.includes(one));
  selects[0].value = String(numbers[0] ?? "");
  selects[1].value = String(numbers[1] ?? "");
  const shown = host.querySelector(".client-shown");
  if (!numbers.length) { shown.replaceChildren(); return; }
  const columns = numbers.map((client) => factsOf(run, client));
  const keys = columns[0].map(([name]) => name);
  const heads = numbers.map((client) => `client ${clientName(run, client)}`);
  const parts = [tableOf(heads.join(" beside "), ["what", ...heads], keys.map((name, row) => [name, ...columns.map((facts) => facts[row][1])]))];
  const labels = labelsOf(run, numbers);
  if (labels) parts.push(labels);
  const scores = scoresOf(run, numbers);
  if (scores) parts.push(scores);
  if (numbers.length === 2) parts.push(make("p", { class: "told" }, together(run, ...numbers)));
  parts.push(make("div", { class: "pair" }, ...numbers.map((client) => listed(run, client))));
  shown.replaceChildren(...parts);
}

const ownTrace = (run) => run.traces.find((trace) => trace.method === run.own && trace.scope === "round") ?? run.traces[0] ?? null;
const topOf = (trace, at) => trace.top[at].filter((_, row) => trace.rank[at][row] === 1).map((column) => trace.clients[column]);
const toppedBy = (trace, client) => (trace ? range(trace.inputs.length).filter((at) => topOf(trace, at).includes(client)) : []);

/** What is known of a client, as pairs of a name and a value; all clients of a run have the same names. */
function factsOf(run, client) {
  const { number, examples, counts, faulty, last, on_top: onTop, suspicion } = run.clients, at = number.indexOf(client);
  const took = run.participation?.status[at].filter((word) => ["trained", "partial", "arrived"].includes(word)).length;
  const suspect = run.diagnosis?.suspects.find((one) => one.client === client), trace = ownTrace(run), column = trace?.clients.indexOf(client) ?? -1;
  const mean = column < 0 ? null : sum(range(trace.inputs.length).map((row) => mapOf(trace)[row * trace.clients.length + column] / 127)) / Math.max(trace.inputs.length, 1);
  return [
    run.diagnosis && ["stands out", suspect ? "yes" : "no"],
    run.diagnosis && ["right without it, of the mistakes asked about", suspect?.corrected ?? null],
    run.diagnosis && ["wrong without it, of the right ones", suspect?.broken ?? null],
    run.diagnosis && ["stands out since round", suspect?.since ?? null],
    faulty.length && ["planted as faulty", faulty.includes(client) ? "yes ◆" : "no"],
    onTop && ["inputs it is on top of", onTop[at]], suspicion && ["wrong ones among them", suspicion.on_top[at]],
    trace && ["mean contribution, of the largest of each input", mean],
    examples && ["training examples", count(examples[at])],
    counts && ["labels held", counts[at].filter((one) => one > 0).length],
    took !== undefined && ["rounds taken part", took], took !== undefined && ["last round", last[client] ?? null],
  ].filter(Boolean);
}

/** By label: what the clients hold, and their share of its predictions. */
function labelsOf(run, clients) {
  const { number, counts, share } = run.clients, places = clients.map((client) => number.indexOf(client));
  if (!counts && !share) return null;
  const name = (what, client) => (clients.length > 1 ? `${what}, ${clientName(run, client)}` : what);
  const heads = ["label", ...(counts ? clients.map((client) => name("examples held", client)) : []), ...(share ? clients.map((client) => name("mean share", client)) : [])];
  const rows = run.labels.map((label, at) => [label, ...(counts ? places.map((place) => counts[place][at]) : []), ...(share ? places.map((place) => share[at]?.[place] ?? null) : [])]);
  const write = Object.fromEntries(range(heads.length).map((at) => [at, at > (counts ? clients.length : 0) ? percent : count]));
  return tableOf("Labels: what is held, and whose predictions are traced to it", heads, rows, write);
}

/** Every score of suspicion of these clients. */
function scoresOf(run, clients) {
  const scores = (run.diagnosis?.scores ?? []).filter((one) => clients.includes(one.client));
  if (!scores.length) return null;
  return tableOf("Scores beside the other clients'", ["client", "score", "round", "value", "standard deviations away", "stands out from"],
    scores.map((one) => [clientName(run, one.client), one.score, one.round, one.value, one.z, one.threshold]), { 2: count });
}

/** How often two clients push the same predictions. */
function together(run, first, second) {
  const trace = ownTrace(run), columns = [first, second].map((client) => trace?.clients.indexOf(client) ?? -1);
  if (columns.includes(-1)) return "They did not both take part in the last round.";
  const signs = range(trace.inputs.length).map((at) => columns.map((column) => Math.sign(mapOf(trace)[at * trace.clients.length + column])));
  const same = signs.filter(([one, two]) => one > 0 && two > 0).length, against = signs.filter(([one, two]) => one * two < 0).length;
  return `Of ${count(signs.length)} predictions both push ${count(same)}, and they push ${count(against)} in opposite directions.`;
}

/** The inputs that a client is on top of, wrong ones first; each leads to its card. */
function listed(run, client) {
  const trace = ownTrace(run), found = toppedBy(trace, client).sort((left, right) => (isRight(trace, left) ?? true) - (isRight(trace, right) ?? true) || left - right);
  const rows = found.slice(0, INPUTS_LISTED).map((at) => [`input ${trace.inputs[at]}`, labelOf(run, trace.prediction[at]), labelOf(run, trace.label[at]), trace.share[at][0]]);
  const title = found.length > rows.length ? `, the first ${rows.length} of ${count(found.length)}` : "";
  if (!rows.length) return make("p", {}, "Client ", make("bdi", {}, clientName(run, client)), " is on top of no input.");
  return tableOf(`On top: ${clientName(run, client)}${title}`, ["input", "predicted", "labelled", "share"], rows, { 3: percent }, (place) => `#${inputPlace(run, trace.inputs[found[place]])}`);
}

/** Let the controls of a run choose whom its section of clients shows. */
function setUpClients(index) {
  const run = DATA.runs[index], host = document.getElementById(`client-${index}`), selects = [...host.querySelectorAll("select")];
  const options = () => run.clients.number.map((client) => make("option", { value: client }, clientName(run, client)));
  selects[0].append(make("option", { value: "" }, "nobody"), ...options());
  selects[1].append(make("option", { value: "" }, "nobody"), ...options());
  host.addEventListener("input", () => {
    const [first, second] = selects.map((select) => (select.value === "" ? null : Number(select.value)));
    history.replaceState(null, "", `#${clientPlace(run, ...[first, second].filter((one) => one !== null))}`);
    showClients(index, first, second);
  });
  showClients(index, run.first ?? run.clients.number[0] ?? null);
}

/** Scroll to a part of the page, below figures that are drawn first: they would push it down. */
function goTo(target) {
  PLACES.filter((place) => !place.drawn && visible(place) && target.compareDocumentPosition(place.host) & Node.DOCUMENT_POSITION_PRECEDING).forEach(draw);
  target.scrollIntoView({ block: "start", behavior: "instant" });
}

/** Go where the address says: to a client, two of them, or an input. */
function follow() {
  const section = document.getElementById(location.hash.slice(1));
  if (section?.tagName === "SECTION" && visible({ host: section })) goTo(section);
  const [kind, index, ...numbers] = location.hash.slice(1).split("-"), run = DATA.runs[Number(index)];
  if (!run || !["client", "input", "verdict"].includes(kind) || numbers.some((one) => !/^\d+$/.test(one))) return;
  const view = document.getElementById("view");
  if (view && view.value !== index) { view.value = index; showView(index); }
  if (kind === "verdict") goTo(document.getElementById(location.hash.slice(1)));
  if (kind === "client" && numbers.length) {
    showClients(Number(index), ...numbers.slice(0, 2).map(Number));
    goTo(document.getElementById(`client-${index}`));
  }
  if (kind === "input" && numbers.length && CARDS[index]) {
    goTo(document.getElementById(`inputs-${index}`));
    showInput(Number(index), Math.max(run.traces.indexOf(ownTrace(run)), 0), Number(numbers[0]));
  }
}
