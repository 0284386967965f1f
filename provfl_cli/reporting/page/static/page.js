// The data of the page, elements made of text (never of markup), numbers in words, colours of the theme.

const DATA = JSON.parse(document.getElementById("data").textContent);
// Okabe and Ito's colours, told apart by colour-blind readers; dashes and marks tell lines apart without colour.
const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F"];
const DASHES = ["solid", "dash", "dashdot", "longdash", "longdashdot", "dash", "dashdot"];
const MARKS = ["circle", "square", "triangle-up", "diamond", "cross", "x", "star"];
const NAME_PIECE = 18; // characters
const CIVIDIS = [
  [0, 34, 78], [18, 53, 112], [59, 73, 108], [87, 93, 109], [112, 113, 115],
  [138, 134, 120], [165, 156, 116], [195, 179, 105], [225, 204, 85], [254, 232, 56],
];

/** An element; `children` are elements or text. */
function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** An element of SVG. */
function makeSvg(tag, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

const theme = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const percent = (part) => (part === null || part === undefined ? "–" : `${(100 * part).toFixed(1)}%`);
const count = (number) => (number === null || number === undefined ? "–" : number.toLocaleString("en-US", { maximumFractionDigits: 1 }));
const labelOf = (run, number) => (number < 0 ? "not known" : run.labels[number] ?? String(number));
/** What a client is called. */
const nameOf = (run, client) => run.clients.names?.[client] ?? String(client);
/** Where a client, and an input, of a run are in the page. */
const clientPlace = (run, ...clients) => `client-${[DATA.runs.indexOf(run), ...clients].join("-")}`;
const inputPlace = (run, number) => `input-${DATA.runs.indexOf(run)}-${number}`;

/** A name that breaks behind its marks alone; pieces that no narrow column has room for lose their middle. */
function brokenName(text) {
  const pieces = String(text).split(/(?<=[_\-./:@ ])/), long = pieces.some((one) => one.length > NAME_PIECE);
  const shown = pieces.flatMap((one, at) => [at ? make("wbr") : null, one.length > NAME_PIECE ? `${one.slice(0, NAME_PIECE - 6)}…${one.slice(-5)}` : one]);
  return make("bdi", { title: long ? text : null }, ...shown);
}

/** The name of a client, which leads to its page. */
const nameOfClient = (run, client) => make("a", { class: "to-client", href: `#${clientPlace(run, client)}` }, brokenName(clientName(run, client)));

/** Whether a prediction is right; null where the true label is not known. */
const isRight = (trace, at) => (trace.label[at] < 0 ? null : trace.label[at] === trace.prediction[at]);
const sum = (numbers) => numbers.reduce((total, one) => total + (one ?? 0), 0);
const range = (length) => Array.from({ length }, (_, position) => position);

/** A number with as many digits as are worth reading. */
function figure(number) {
  if (number === null || number === undefined) return "–";
  if (number !== 0 && Math.abs(number) < 0.001) return number.toExponential(1);
  return Number.isInteger(number) ? count(number) : number.toLocaleString("en-US", { minimumFractionDigits: 3, maximumFractionDigits: 3 });
}

/** Red, green, blue of cividis at a part from 0 to 1. */
function cividis(part) {
  const at = Math.min(Math.max(part, 0), 1) * (CIVIDIS.length - 1);
  const low = Math.min(Math.floor(at), CIVIDIS.length - 2);
  return CIVIDIS[low].map((one, channel) => Math.round(one + (at - low) * (CIVIDIS[low + 1][channel] - one)));
}

/** The map of a trace as numbers from -1 to 1, by input and client. */
function mapOf(trace) {
  if (!trace.numbers) {
    const bytes = atob(trace.map);
    trace.numbers = new Int8Array(bytes.length);
    for (let position = 0; position < bytes.length; position += 1) trace.numbers[position] = bytes.charCodeAt(position);
  }
  return trace.numbers;
}

/** What a trace is called in a list of them. */
function traceName(trace) {
  return `${trace.method}, round ${trace.round}${trace.scope === "lineage" ? ", all rounds' clients" : ""}`;
}
