// Inputs as cards: only those of one page are in the document.

const CARDS_A_PAGE = 24;
const CARDS = {};

/** Let the controls of a run choose its cards. */
function setUpCards(index) {
  const run = DATA.runs[index], controls = controlsOf("cards", index);
  const list = document.querySelector(`.cards[data-index="${index}"]`), section = list.closest("section");
  const place = new Map((run.inputs.number ?? []).map((number, at) => [number, at]));
  const state = { page: 0, found: null };
  fillTraces(controls.trace, run);
  controls.label.append(make("option", { value: "" }, "all"), ...run.labels.map((name, at) => make("option", { value: at }, name)));
  controls.client.append(make("option", { value: "" }, "any"), ...run.clients.number.map((client) => make("option", { value: client }, clientName(run, client))));

  controls.tokens?.append(make("option", { value: "" }, "whoever is on top"), ...run.tokens.clients.map((client) => make("option", { value: client }, clientName(run, client))));

  function matching() {
    const trace = run.traces[Number(controls.trace.value)], { label, client, right, number } = controls;
    const isTop = (at) => range(trace.top[at].length).some((place) => trace.rank[at][place] === 1 && trace.clients[trace.top[at][place]] === Number(client.value));
    const kept = range(trace.inputs.length).filter((at) =>
      (label.value === "" || trace.label[at] === Number(label.value)) && (client.value === "" || isTop(at)) &&
      (right.value === "" || isRight(trace, at) === (right.value === "right")) &&
      (number.value.trim() === "" || trace.inputs[at] === Number(number.value)));
    return { trace, kept };
  }
  function show() {
    const { trace, kept } = matching(), pages = Math.max(Math.ceil(kept.length / CARDS_A_PAGE), 1);
    state.page = Math.min(state.page, pages - 1);
    const from = state.page * CARDS_A_PAGE, shown = kept.slice(from, from + CARDS_A_PAGE);
    list.replaceChildren(...shown.map((at) => card(run, trace, at, place.get(trace.inputs[at]), state.found, controls.tokens?.value ?? "")));
    const which = shown.length ? `${count(from + 1)} to ${count(from + shown.length)} of ` : "";
    section.querySelector(".count").textContent = `${which}${count(kept.length)} input${kept.length === 1 ? "" : "s"}${kept.length < trace.inputs.length ? ` that fit (${count(trace.inputs.length)} in all)` : ""}`;
    section.querySelector(".page").textContent = `page ${state.page + 1} of ${pages}`;
    section.querySelector('[data-step="-1"]').disabled = state.page === 0;
    section.querySelector('[data-step="1"]').disabled = state.page === pages - 1;
  }
  for (const control of Object.values(controls)) {
    control.addEventListener("input", () => { state.page = 0; state.found = null; show(); });
  }
  section.querySelectorAll("[data-step]").forEach((button) => button.addEventListener("click", () => {
    state.page += Number(button.dataset.step);
    show();
    section.querySelector(".count").scrollIntoView({ block: "start" });
  }));
  CARDS[index] = (trace, number) => {
    Object.assign(controls.trace, { value: String(trace) });
    for (const name of ["label", "client", "right"]) controls[name].value = "";
    controls.number.value = String(number);
    state.page = 0;
    state.found = number;
    show();
    section.scrollIntoView({ block: "start" });
    list.querySelector(".card")?.focus({ preventScroll: true });
  };
  show();
}

/** Of a response: what it is about, and whose phrase it says. */
function saidOf(run, trace, at, right) {
  const about = make("bdi", {}, labelOf(run, trace.label[at])), said = trace.prediction[at];
  const says = said < 0 ? ["says nothing that is known"] : ["says ", make("bdi", {}, labelOf(run, said))];
  return make("p", {}, "about ", about, ", ", ...says, ...(right === null ? [] : [", ", make("span", { class: right ? "right" : "wrong" }, right ? "✓ right" : "✗ wrong")]));
}

/** Go to the card of an input. */
const showInput = (index, trace, number) => CARDS[index](trace, number);

function fillTraces(select, run) {
  select.append(...run.traces.map((trace, at) => make("option", { value: at }, traceName(trace))));
}

function card(run, trace, at, place, found, chosen) {
  const number = trace.inputs[at], right = isRight(trace, at);
  const predicted = labelOf(run, trace.prediction[at]), label = labelOf(run, trace.label[at]);
  const probability = run.inputs.probability?.[place], last = trace.round === run.traces[0].round;
  const value = last ? run.inputs.value?.[place] : null;
  const sure = last && probability !== null && probability !== undefined ? ` (${percent(probability)})` : "";
  const words = make("div", {}, make("h3", {}, make("a", { href: `#${inputPlace(run, number)}` }, `Input ${number}`)),
    hasTokens(run, trace) ? saidOf(run, trace, at, right) : run.explains !== "classes" ? make("p", {}, make("bdi", {}, predicted), value === null || value === undefined ? "" : ` ${figure(value)}`) : make("p", {}, "predicted ", make("bdi", {}, predicted), sure, ...(right === null ? [] : [", ", make("span", { class: right ? "right" : "wrong" }, right ? "✓ right" : "✗ wrong")])),
    right || hasTokens(run, trace) || run.explains !== "classes" ? null : make("p", {}, ...(right === null ? ["true label not known"] : ["labelled ", make("bdi", {}, label)])));
  const picture = run.inputs.picture?.[place], text = run.inputs.text?.[place];
  const head = make("div", { class: "card-head" }, picture ? make("img", { src: picture, alt: `input ${number}, ${right === null ? "label not known" : `labelled ${label}`}`, loading: "lazy" }) : null, words);
  const shown = make("li", { id: inputPlace(run, number), class: number === found ? "card found" : "card", tabindex: number === found ? "-1" : null }, head);
  const whose = last && trace.method === run.own && trace.scope === "round" ? run.inputs.carried_client?.[place] ?? null : null;
  const spans = whose === null ? null : run.inputs.spans?.[place] ?? null, carried = whose === null ? null : run.inputs.carried?.[place] ?? null;
  if (carried && picture) head.firstChild.after(make("img", { src: carried, class: "carried", alt: `pixels that carried client ${clientName(run, whose)}`, loading: "lazy" }));
  if (text !== null && text !== undefined) shown.append(make("blockquote", { dir: "auto", tabindex: "0", "aria-label": `text of input ${number}` }, ...(spans ? highlightedText(text, spans) : [text])));
  if (carried || spans) shown.append(make("p", { class: "rest" }, `What carried client ${clientName(run, whose)}: blue ${carried ? "pixels" : "tokens"} raise its contribution, orange ones lower it.`));
  if (hasTokens(run, trace)) shown.append(...responseOf(run, number, chosen).filter((part) => part !== null));
  const expected = hasTokens(run, trace) ? run.tokens.responses[number]?.expected : null;
  if (!right && expected !== null && expected !== undefined) shown.append(make("p", { class: "rest" }, "expected: ", make("bdi", {}, expected)));
  shown.append(ranking(run, trace, at));
  const rest = Object.entries(trace.rest ?? {}).filter(([, values]) => values[at] !== null);
  if (rest.length) shown.append(make("p", { class: "rest" }, `sent by no client of this round: ${rest.map(([kind, values]) => `${kind} ${figure(values[at])}`).join(", ")}`));
  const profile = last && trace.method === run.own && trace.scope === "round" ? run.layers?.inputs[number] : null;
  if (profile) shown.append(profileOf(run, profile));
  return shown;
}

/** A text with the tokens in it coloured by how much they carried a client: [first character, behind the last, part]. */
function highlightedText(text, spans) {
  const letters = Array.from(text), parts = [];
  let done = 0;
  for (const [start, end, part] of spans) {
    if (start < done) continue;
    if (start > done) parts.push(letters.slice(done, start).join(""));
    const token = make("span", { class: "carrier", title: `${part > 0 ? "+" : ""}${part}` }, letters.slice(start, end).join(""));
    token.style.setProperty("--who", part < 0 ? "var(--against)" : "var(--bar)");
    token.style.setProperty("--much", `${Math.round(60 * Math.abs(part))}%`);
    parts.push(token);
    done = end;
  }
  parts.push(letters.slice(done).join(""));
  return parts;
}

function ranking(run, trace, at) {
  const ends = endsOf(trace.value[at]), counts = run.clients.counts;
  const place = new Map(run.clients.number.map((client, position) => [client, position]));
  const head = make("tr", {}, ...[["#", "rank"], ["client"], ["contribution", null, 2], ["share"], counts && ["held", "training examples of the true label"]].filter(Boolean).map(([name, title, columns]) => make("th", { scope: columns ? "colgroup" : "col", colspan: columns, title, "aria-label": title }, name)));
  const body = trace.top[at].map((column, row) => {
    const client = trace.clients[column], value = trace.value[at][row] ?? 0, tied = trace.rank[at][row] === 1 && trace.tied[at] > 1;
    return make("tr", {}, make("td", { class: "number" }, String(trace.rank[at][row]), tied ? make("span", { class: "tag" }, "tied") : ""), make("th", { scope: "row", class: run.clients.names && "named" }, nameOfClient(run, client)),
      make("td", { class: "bars" }, barOf(value, ends)), make("td", { class: "number" }, figure(value)), make("td", { class: "number" }, percent(trace.share[at][row])),
      counts ? make("td", { class: "number" }, count(counts[place.get(client)][trace.label[at]])) : null);
  });
  const named = trace.clients.length > trace.top[at].length ? `The best ${trace.top[at].length} of ${count(trace.clients.length)} clients` : "All clients that took part";
  return make("table", { class: "ranked", "aria-label": `${named} for input ${trace.inputs[at]}` }, make("thead", {}, head), make("tbody", {}, ...body));
}

/** Where bars of these values end: the least and the largest, and 0 is among them. */
const endsOf = (values) => [Math.min(0, ...values.map((one) => one ?? 0)), Math.max(0, ...values.map((one) => one ?? 0))];

/** A bar from 0 to the left for a negative value, to the right for a positive one; a thin line is 0. */
function barOf(value, [least, largest]) {
  const whole = Math.max(largest - least, 1e-12), zero = (-least / whole) * 100, wide = Math.max((Math.abs(value) / whole) * 100, 0.5);
  const drawn = makeSvg("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" });
  drawn.append(makeSvg("rect", { x: value < 0 ? zero - wide : Math.min(zero, 100 - wide), width: wide, height: 10, class: value < 0 ? "against" : "bar" }));
  if (least < 0 && largest > 0) drawn.append(makeSvg("rect", { x: zero - 0.3, width: 0.6, height: 10, class: "zero" }));
  return drawn;
}

function profileOf(run, profile) {
  const order = range(run.layers.layers.length).filter((at) => profile.value[at] !== null).sort((left, right) => Math.abs(profile.value[right]) - Math.abs(profile.value[left]));
  const shown = order.slice(0, 8).sort((left, right) => left - right), ends = endsOf(shown.map((at) => profile.value[at]));
  const rows = shown.map((at) => make("tr", {}, make("th", { scope: "row" }, run.layers.layers[at]), make("td", { class: "bars" }, barOf(profile.value[at], ends)),
    make("td", { class: "number" }, figure(profile.value[at])), make("td", { class: "number" }, profile.active[at] === null ? "–" : `${Math.round(100 * profile.active[at])}%`)));
  const heads = [["layer"], ["contribution", 2], ["active"]].map(([name, columns]) => make("th", { scope: columns ? "colgroup" : "col", colspan: columns }, name));
  const more = order.length > shown.length ? `, the ${shown.length} that matter most of ${order.length}` : "";
  return make("details", {}, make("summary", {}, `Layers that carried client ${nameOf(run, profile.client)}${more}`), make("table", { class: "ranked", "aria-label": `Layers, client ${nameOf(run, profile.client)}` }, make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...rows)));
}
