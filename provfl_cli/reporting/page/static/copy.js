// Tables and figures to take away: copied, or saved as CSV, PNG or SVG.

/** A table as comma-separated values; what a spreadsheet would take for a formula stays text. */
function csvOf(table) {
  const quoted = (cell) => {
    let text = (typeof cell.value === "number" ? String(cell.value) : cell.textContent).trim();
    if (/^[=+\-@＝＋－＠\t\r]/.test(text) && Number.isNaN(Number(text))) text = `'${text}`;
    return /[",\n\r]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text;
  };
  return [...table.rows].map((row) => [...row.cells].map(quoted).join(",")).join("\r\n") + "\r\n";
}

/** Offer a file; nothing leaves the page. */
function save(blob, name) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

const fileName = (title, end) => `${title.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "").slice(0, 60) || "provfl"}.${end}`;

/** A button that says for a moment whether it worked. */
function doing(label, named, work) {
  const button = make("button", { type: "button", class: "take", "aria-label": `${label}: ${named}` }, label);
  button.addEventListener("click", async () => {
    try { await work(); button.textContent = "Done"; } catch { button.textContent = "Not possible here"; }
    setTimeout(() => { button.textContent = label; }, 1500);
  });
  return button;
}

/** Buttons for a table. */
function takeTable(table, title) {
  return make("div", { class: "takes" },
    doing("Copy", title, () => navigator.clipboard.writeText([...table.rows].map((row) => [...row.cells].map((cell) => cell.textContent.trim()).join("\t")).join("\n"))),
    doing("CSV", title, () => save(new Blob(["\ufeff", csvOf(table)], { type: "text/csv;charset=utf-8" }), fileName(title, "csv"))));
}

/** The bytes of a data: address. */
function bytesOf(address) {
  const [head, body] = address.split(/,(.*)/s), type = head.slice(5).split(";")[0];
  const text = head.endsWith(";base64") ? atob(body) : decodeURIComponent(body);
  return new Blob([head.endsWith(";base64") ? Uint8Array.from(text, (one) => one.charCodeAt(0)) : text], { type });
}

/** A figure as a picture: of a map its canvas, of a chart what Plotly draws. */
async function pictureOf(host, format) {
  const chart = host.querySelector(".chart"), canvas = host.querySelector("canvas.map");
  if (chart) return bytesOf(await Plotly.toImage(chart, { format, width: chart.clientWidth, height: chart.clientHeight, scale: format === "png" ? 2 : 1 }));
  const paper = make("canvas", { width: canvas.width, height: canvas.height }), pen = paper.getContext("2d");
  pen.fillStyle = theme("paper");
  pen.fillRect(0, 0, paper.width, paper.height);
  pen.drawImage(canvas, 0, 0);
  return new Promise((done) => { paper.toBlob(done, "image/png"); });
}

/** Buttons for a figure that has been drawn. */
function takeFigure(host, title) {
  if (host.parentElement.querySelector(".takes.of-figure")) return;
  const short = title.split(". ")[0], chart = host.querySelector(".chart");
  host.after(make("div", { class: "takes of-figure" },
    doing("Copy", short, async () => navigator.clipboard.write([new ClipboardItem({ "image/png": await pictureOf(host, "png") })])),
    doing("PNG", short, async () => save(await pictureOf(host, "png"), fileName(short, "png"))),
    chart ? doing("SVG", short, async () => save(await pictureOf(host, "svg"), fileName(short, "svg"))) : null));
}
