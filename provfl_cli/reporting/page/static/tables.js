// Tables that sort by their headings, for figures and for those that stand in the page already.

const ROWS_SHOWN = 500;

/** A table in a box that scrolls; `rows` hold text or numbers, the first column names the row, and leads where `link` says. */
function tableOf(caption, headings, rows, write = {}, link = null) {
  const shown = rows.slice(0, ROWS_SHOWN);
  const more = rows.length > shown.length ? ` (the first ${count(shown.length)} of ${count(rows.length)} rows)` : "";
  const numeric = headings.map((_, column) => shown.some((row) => typeof row[column] === "number"));
  const table = make("table", {}, make("caption", {}, caption + more));
  table.append(make("thead", {}, make("tr", {}, ...headings.map((heading, column) =>
    make("th", { scope: "col", class: numeric[column] && "number" }, heading)))));
  const body = make("tbody");
  for (const [place, row] of shown.entries()) {
    const cells = row.map((cell, column) => {
      const text = typeof cell === "number" ? (write[column] ?? figure)(cell) : cell ?? "–";
      const made = make(column ? "td" : "th", { scope: column ? null : "row", class: numeric[column] && "number" }, column || !link ? make("bdi", {}, text) : make("a", { href: link(place) }, make("bdi", {}, text)));
      made.value = cell;
      return made;
    });
    body.append(make("tr", {}, ...cells));
  }
  table.append(body);
  sortable(table);
  return make("div", {}, make("div", { class: "table-room", role: "region", tabindex: "0", "aria-label": caption }, table), takeTable(table, caption));
}

/** Let headings sort the rows; a second press turns the order around. */
function sortable(table) {
  table.querySelectorAll("thead th").forEach((heading, column) => {
    const button = make("button", { type: "button" }, ...heading.childNodes);
    heading.replaceChildren(button);
    button.addEventListener("click", () => {
      const descending = heading.getAttribute("aria-sort") === "ascending" ||
        (!heading.hasAttribute("aria-sort") && heading.classList.contains("number"));
      table.querySelectorAll("th[aria-sort]").forEach((each) => each.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const rows = [...table.tBodies[0].rows].map((row) => [valueOf(row.cells[column]), row]);
      rows.sort(([left], [right]) => compared(left, right, descending));
      table.tBodies[0].append(...rows.map(([, row]) => row));
    });
  });
}

function valueOf(cell) {
  if (typeof cell.value === "number") return cell.value;
  const text = cell.textContent.trim();
  const number = Number(text.replace(/[,%+]/g, "").replace(/ \[.*| \(.*/, ""));
  return text === "" || Number.isNaN(number) ? text : number;
}

function compared(left, right, descending) {
  const missing = (one) => one === "–" || one === "";
  if (missing(left) || missing(right)) return missing(left) - missing(right);
  const order = typeof left === "number" && typeof right === "number" ? left - right : String(left).localeCompare(String(right), "en", { numeric: true });
  return descending ? -order : order;
}
