// Sets the page up: figures are drawn when they come into view, in the colours of the theme.

const PLACES = [...document.querySelectorAll(".plot")].map((host) => ({ host, drawn: false, figure: null }));

function draw(place) {
  const { figure: kind, index, title } = place.host.dataset;
  place.figure ??= FIGURES[kind](Number(index));
  place.figure.draw(place.host, title);
  takeFigure(place.host, title);
  place.drawn = true;
  place.width = place.host.clientWidth;
}

const visible = (place) => place.host.offsetParent !== null;
const redraw = (which = () => true) => PLACES.filter((place) => place.drawn && visible(place) && which(place)).forEach((place) => {
  draw(place);
  fillTable(place);
});

/** Fill the table below a figure where it is open. */
function fillTable(place) {
  const details = place.host.parentElement.querySelector(".as-table");
  if (!details.open) return;
  place.figure ??= FIGURES[place.host.dataset.figure](Number(place.host.dataset.index));
  details.querySelector(".filled").replaceChildren(place.figure.table());
}

function setTheme(name) {
  document.documentElement.dataset.theme = name;
  const button = document.getElementById("theme");
  button.setAttribute("aria-pressed", String(name === "dark"));
  redraw();
}

function remember(name) {
  try { localStorage.setItem("provfl-theme", name); } catch { /* a page in a file may keep nothing */ }
}

function remembered() {
  try { return localStorage.getItem("provfl-theme"); } catch { return null; }
}

function showView(name) {
  document.querySelectorAll(".view").forEach((view) => { view.hidden = view.dataset.view !== name; });
  observe();
}

function observe() {
  PLACES.filter((place) => visible(place) && !place.drawn).forEach((place) => WATCH.observe(place.host));
}

const WATCH = new IntersectionObserver((seen) => {
  for (const { target, isIntersecting } of seen) {
    const place = PLACES.find((each) => each.host === target);
    if (isIntersecting && !place.drawn) { draw(place); WATCH.unobserve(target); }
  }
}, { rootMargin: "400px" });

const preference = window.matchMedia("(prefers-color-scheme: dark)");
setTheme(remembered() ?? (preference.matches ? "dark" : "light"));
preference.addEventListener("change", () => { if (!remembered()) setTheme(preference.matches ? "dark" : "light"); });
document.getElementById("theme").addEventListener("click", () => {
  const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  remember(next);
  setTheme(next);
});

document.querySelectorAll("table.sortable").forEach(sortable);
document.querySelectorAll(".table-room > table").forEach((table) => table.parentElement.after(takeTable(table, table.caption.textContent)));
document.querySelectorAll(".client-table").forEach((host) => host.replaceChildren(clientTable(Number(host.dataset.index))));
document.querySelectorAll(".cards").forEach((list) => setUpCards(Number(list.dataset.index)));
document.querySelectorAll(".one-client").forEach((host) => setUpClients(Number(host.dataset.index)));
document.querySelectorAll('[data-controls="map"]').forEach((block) => {
  const index = Number(block.dataset.index);
  fillTraces(controlsOf("map", index).trace, DATA.runs[index]);
  block.addEventListener("input", () => redraw((place) => place.host.dataset.figure === "contributions" && Number(place.host.dataset.index) === index));
});
document.querySelectorAll(".as-table").forEach((details) => details.addEventListener("toggle", () => {
  fillTable(PLACES.find((place) => place.host.parentElement === details.parentElement));
}));

const metric = document.getElementById("metric");
if (metric) {
  const names = Object.assign({}, ...DATA.curves.map((curve) => curve.metrics));
  metric.append(...Object.entries(names).map(([name, heading]) => make("option", { value: name }, heading)));
  metric.addEventListener("input", () => redraw((place) => place.host.dataset.figure === "curve"));
}
if (document.getElementById("first")) {
  const choose = () => { compareRuns(); redraw((place) => place.host.dataset.figure === "compared"); };
  for (const id of ["first", "second"]) document.getElementById(id).addEventListener("input", choose);
  compareRuns();
}
document.getElementById("view")?.addEventListener("input", (event) => { history.replaceState(null, "", location.pathname + location.search); showView(event.target.value); window.scrollTo(0, 0); });
window.addEventListener("hashchange", follow);
document.querySelectorAll("section.without").forEach(setUpWithout);

let waiting = null;
window.addEventListener("resize", () => {
  clearTimeout(waiting);
  waiting = setTimeout(() => redraw((place) => place.host.clientWidth !== place.width), 150);
});
let before = null;
window.addEventListener("beforeprint", () => {
  before = document.documentElement.dataset.theme;
  PLACES.filter((place) => visible(place) && !place.drawn).forEach(draw);
  setTheme("light");
});
window.addEventListener("afterprint", () => setTheme(before));
observe();
follow();
