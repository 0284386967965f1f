// Responses of language models: each token in the colour of who pushed it; pointing at one says by how much.

const CLIENTS_SAID = 4, PART = "◦";

/** The contributions of a response, by token and client, in 127ths of its largest. */
function tokenNumbers(response) {
  if (!response.numbers) response.numbers = Int8Array.from(atob(response.map), (one) => one.charCodeAt(0));
  return response.numbers;
}

/** Columns of the clients by what they gave a token, the best first, with their contributions. */
function pushers(run, response, at) {
  const width = run.tokens.clients.length, numbers = tokenNumbers(response);
  return range(width).map((column) => ({ column, value: numbers[at * width + column] / 127 * response.most }))
    .sort((left, right) => right.value - left.value);
}

/** The colour of each client, those that are on top of most tokens first; the others share the last one. */
function tokenColours(run) {
  if (!run.tokens.colours) {
    const counts = new Map();
    for (const response of Object.values(run.tokens.responses)) {
      range(response.texts.length).forEach((at) => {
        const [best] = pushers(run, response, at);
        if (best && best.value > 0) counts.set(best.column, (counts.get(best.column) ?? 0) + 1);
      });
    }
    const order = [...counts].sort((left, right) => right[1] - left[1]).map(([column]) => column);
    run.tokens.colours = new Map(order.map((column, place) => [column, COLOURS[Math.min(place, COLOURS.length - 1)]]));
  }
  return run.tokens.colours;
}

const hasTokens = (run, trace) => Boolean(run.tokens) && trace.method === run.own && trace.scope === "round" && trace.round === run.tokens.round;
const shownToken = (text) => (text === "" ? PART : text);

/** A response, token by token; `chosen`: "" for who is on top, or the number of the client whose part is shown. */
function responseOf(run, number, chosen) {
  const response = run.tokens.responses[number];
  if (!response) return [];
  const told = make("output", { class: "token-said" }), only = chosen === "" ? null : run.tokens.clients.indexOf(Number(chosen));
  const tokens = response.texts.map((text, at) => {
    const shown = make("span", { class: text === "" ? "token part" : "token" }, shownToken(text));
    colourToken(run, response, at, shown, only);
    return shown;
  });
  const host = make("div", { class: "response", role: "application", "aria-roledescription": "response", tabindex: "0", dir: "auto", "aria-label": `Response to input ${number}, ${count(tokens.length)} tokens. Arrow keys move from token to token.` }, ...tokens);
  let cursor = -1;
  const point = (at) => {
    tokens[cursor]?.classList.remove("pointed");
    cursor = at;
    tokens[at]?.classList.add("pointed");
    told.textContent = at < 0 ? "" : tokenSaid(run, response, at);
  };
  host.addEventListener("pointerover", (event) => { const at = tokens.indexOf(event.target); if (at >= 0) point(at); });
  host.addEventListener("keydown", (event) => {
    const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -tokens.length, End: tokens.length };
    if (!(event.key in steps)) return;
    event.preventDefault();
    point(Math.min(Math.max(cursor + steps[event.key], 0), tokens.length - 1));
  });
  return [
    response.prompt === undefined ? null : make("blockquote", { dir: "auto", tabindex: "0", "aria-label": `prompt of input ${number}` }, response.prompt),
    host, told, tokenLegend(run, response, only), tokenTable(run, response, number),
  ];
}

function colourToken(run, response, at, shown, only) {
  const [best] = pushers(run, response, at);
  if (only === null) {
    if (best && best.value > 0) shown.style.setProperty("--who", tokenColours(run).get(best.column));
    return;
  }
  const value = only < 0 ? 0 : tokenNumbers(response)[at * run.tokens.clients.length + only] / 127;
  shown.style.setProperty("--who", value < 0 ? "var(--against)" : "var(--bar)");
  shown.style.setProperty("--much", `${Math.round(4 + 40 * Math.abs(value))}%`);
}

/** The sentence about a token. */
function tokenSaid(run, response, at) {
  const order = pushers(run, response, at), name = (one) => `client ${nameOf(run, run.tokens.clients[one.column])} (${one.value > 0 ? "+" : ""}${figure(one.value)})`;
  const pushed = order.filter((one) => one.value > 0).slice(0, CLIENTS_SAID), against = order.at(-1);
  const parts = [pushed.length ? `pushed by ${pushed.map(name).join(", ")}` : "pushed by nobody"];
  if (against && against.value < 0) parts.push(`most against it: ${name(against)}`);
  return `token ${at + 1} of ${count(response.texts.length)}, “${shownToken(response.texts[at])}”: ${parts.join("; ")}`;
}

/** Which client has which colour, and how many tokens it is on top of. */
function tokenLegend(run, response, only) {
  if (only !== null) return make("p", { class: "rest" }, `Blue: client ${nameOf(run, run.tokens.clients[only] ?? "–")} pushed the token, the more the stronger the colour; orange: it pushed against it.`);
  const counts = new Map();
  range(response.texts.length).forEach((at) => {
    const [best] = pushers(run, response, at), column = best && best.value > 0 ? best.column : -1;
    counts.set(column, (counts.get(column) ?? 0) + 1);
  });
  const order = [...counts].sort((left, right) => right[1] - left[1]);
  return make("p", { class: "rest scale" }, ...order.map(([column, tokens]) => {
    const swatch = make("span", { class: "swatch", "aria-hidden": "true" });
    if (column >= 0) swatch.style.background = tokenColours(run).get(column);
    return make("span", {}, swatch, column < 0 ? "nobody" : make("bdi", {}, clientName(run, run.tokens.clients[column])), ` on top of ${count(tokens)}`);
  }));
}

function tokenTable(run, response, number) {
  const details = make("details", { class: "tokens" }, make("summary", {}, "Tokens as a table"));
  details.addEventListener("toggle", () => {
    if (!details.open || details.children.length > 1) return;
    const rows = response.texts.map((text, at) => {
      const [best, next] = pushers(run, response, at), named = (one) => (one ? clientName(run, run.tokens.clients[one.column]) : "–");
      return [at + 1, shownToken(text), named(best), best?.value ?? null, named(next), next?.value ?? null];
    });
    details.append(tableOf(`Tokens of the response to input ${number}`, ["token", "text", "most", "contribution", "next", "its"], rows, { 0: String }));
  });
  return details;
}
