// Maps: a cell for each row and column, drawn on a canvas, so that a million cells are no slower than a hundred.

const MAP_LEFT = 62, MAP_LEFT_MOST = 170, MAP_TOP = 4, MAP_BOTTOM = 38, SLANT = Math.PI / 4, SLANTED_MOST = 120, TEXT = "12px system-ui, sans-serif";

/**
 * Draw a map and let a pointer or the arrow keys walk over it.
 *
 * `spec`: rows, columns (how many); colour(row, column) gives [r, g, b] or null; rowName, columnName give text;
 * said(row, column) is the sentence about a cell; text(row, column) is written into cells with room for it;
 * groups: [{name, from, to}] of columns, named below them; axes: {rows, columns}; title; pick(row, column).
 */
function drawMap(host, spec) {
  const canvas = make("canvas", { class: "map", tabindex: "0", role: "application", "aria-roledescription": "heat map", "aria-label": `${spec.title} ${spec.rows} ${spec.axes.rows} by ${spec.columns} ${spec.axes.columns}. Arrow keys move from cell to cell.` });
  const said = make("output", { class: "map-said" });
  host.replaceChildren(canvas, said, ...(spec.legend ? [spec.legend()] : []));
  const width = Math.max(host.clientWidth, 240), left = nameRoom(spec, width), room = width - left - 2;
  const cellHeight = Math.min(Math.max(Math.round(300 / spec.rows), 1), 24);
  const height = Math.min(Math.max(cellHeight * spec.rows, 60), 560);
  const cellWidth = spec.columns <= 40 ? Math.min(room / spec.columns, 64) : room / spec.columns;
  const span = cellWidth * spec.columns, tall = height / spec.rows;
  const small = make("canvas", { width: spec.columns, height: spec.rows });
  const image = new ImageData(spec.columns, spec.rows);
  for (let row = 0, at = 0; row < spec.rows; row += 1) {
    for (let column = 0; column < spec.columns; column += 1, at += 4) {
      const colour = spec.colour(row, column);
      if (colour) image.data.set([colour[0], colour[1], colour[2], 255], at);
    }
  }
  small.getContext("2d").putImageData(image, 0, 0);
  const named = namesBelow(spec, cellWidth, left), slanted = named.some(([text, , room]) => widthOf(text) > room && widthOf(text) > 24);
  const below = slanted ? Math.min(Math.max(...named.map(([text]) => widthOf(text))), SLANTED_MOST) * Math.sin(SLANT) + 8 : 12;
  const density = Math.min(window.devicePixelRatio || 1, 3), whole = height + MAP_TOP + below + MAP_BOTTOM - 12;
  canvas.width = width * density;
  canvas.height = whole * density;
  canvas.style.height = `${whole}px`;
  const pen = canvas.getContext("2d");
  let cursor = null;

  function paint() {
    pen.setTransform(density, 0, 0, density, 0, 0);
    pen.clearRect(0, 0, width, whole);
    pen.fillStyle = theme("card");
    pen.fillRect(left, MAP_TOP, span, height);
    pen.imageSmoothingEnabled = cellWidth < 1 || tall < 1;
    pen.drawImage(small, left, MAP_TOP, span, height);
    if (cellWidth >= 6 && tall >= 6) gridLines();
    pen.font = TEXT;
    pen.textBaseline = "middle";
    if (spec.text && cellWidth >= 11 && tall >= 11) cellTexts();
    rowNames();
    columnNames();
    if (cursor) {
      const [row, column] = cursor;
      const box = [left + column * cellWidth, MAP_TOP + row * tall, Math.max(cellWidth, 2), Math.max(tall, 2)];
      pen.lineWidth = 3; pen.strokeStyle = "#000"; pen.strokeRect(...box);
      pen.lineWidth = 1.5; pen.strokeStyle = "#fff"; pen.strokeRect(...box);
    }
  }
  function gridLines() {
    pen.fillStyle = theme("paper");
    range(spec.rows - 1).forEach((row) => pen.fillRect(left, MAP_TOP + (row + 1) * tall - 0.5, span, 1));
    range(spec.columns - 1).forEach((column) => pen.fillRect(left + (column + 1) * cellWidth - 0.5, MAP_TOP, 1, height));
  }
  function cellTexts() {
    pen.textAlign = "center";
    for (let row = 0; row < spec.rows; row += 1) {
      for (let column = 0; column < spec.columns; column += 1) {
        const text = spec.text(row, column), colour = spec.colour(row, column);
        if (!text || pen.measureText(text).width > cellWidth - 3) continue;
        pen.fillStyle = colour && 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] < 130 ? "#fff" : "#000";
        if (!colour) pen.fillStyle = theme("soft");
        pen.fillText(text, left + (column + 0.5) * cellWidth, MAP_TOP + (row + 0.5) * tall);
      }
    }
  }
  function rowNames() {
    pen.fillStyle = theme("ink");
    pen.textAlign = "right";
    const step = Math.max(Math.ceil(13 / tall), 1);
    const last = spec.rows - 1; // where there is more, its name is never left out
    const shown = range(spec.rows).filter((row) => row % step === 0 && (!spec.more || last - row >= step));
    for (const row of spec.more ? [...shown, last] : shown) pen.fillText(cut(spec.rowName(row), left - 8, true), left - 5, MAP_TOP + (row + 0.5) * tall);
  }
  function columnNames() {
    const under = MAP_TOP + height;
    pen.fillStyle = theme("ink");
    (spec.groups ?? []).forEach((group) => { if (group.from) pen.fillRect(left + group.from * cellWidth - 0.5, under, 1, 6); });
    let free = 0;
    for (const [text, middle] of named) {
      const wide = slanted ? 14 : pen.measureText(text).width + 4;
      if (middle - wide / 2 < free) continue;
      free = middle + wide / 2;
      if (!slanted) { pen.textAlign = "center"; pen.fillText(text, middle, under + 13); continue; }
      pen.save();
      pen.translate(middle + 3, under + 8);
      pen.rotate(-SLANT);
      pen.textAlign = "right";
      pen.fillText(cut(text, Math.min(SLANTED_MOST, (middle - 4) / Math.cos(SLANT))), 0, 0);
      pen.restore();
    }
    pen.fillStyle = theme("soft");
    pen.textAlign = "left";
    pen.fillText(`${spec.axes.columns} →   ↑ ${spec.axes.rows}`, left, under + below + 14);
  }
  function cut(text, most, inside = false) {
    const whole = String(text);
    const cutTo = (length) => (inside ? `${whole.slice(0, Math.ceil(length / 2))}…${whole.slice(whole.length - Math.floor(length / 2))}` : `${whole.slice(0, length)}…`);
    if (pen.measureText(whole).width <= most) return whole;
    let length = whole.length - 1;
    while (length > 1 && pen.measureText(cutTo(length)).width > most) length -= 1;
    return cutTo(length);
  }
  function at(event) {
    const box = canvas.getBoundingClientRect(), scale = width / box.width;
    const column = Math.floor(((event.clientX - box.left) * scale - left) / cellWidth);
    const row = Math.floor(((event.clientY - box.top) * scale - MAP_TOP) / tall);
    return row >= 0 && row < spec.rows && column >= 0 && column < spec.columns ? [row, column] : null;
  }
  function go(where) {
    cursor = where;
    said.textContent = where ? spec.said(...where) : "";
    paint();
  }
  canvas.addEventListener("pointermove", (event) => {
    const where = at(event);
    tip(where && event.pointerType === "mouse" ? spec.said(...where) : null, event);
    canvas.style.cursor = where && spec.pick ? "pointer" : "default";
  });
  canvas.addEventListener("pointerleave", () => tip(null));
  canvas.addEventListener("click", (event) => {
    const where = at(event);
    if (!where) return;
    go(where);
    if (spec.pick && event.pointerType !== "touch") spec.pick(...where);
  });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0], PageUp: [-10, 0], PageDown: [10, 0] }[event.key];
    if (event.key === "Enter" && cursor && spec.pick) spec.pick(...cursor);
    if (event.key === "Home") go([cursor ? cursor[0] : 0, 0]);
    else if (event.key === "End") go([cursor ? cursor[0] : 0, spec.columns - 1]);
    else if (step) {
      const [row, column] = cursor ?? [-step[0], -step[1]];
      go([Math.min(Math.max(row + step[0], 0), spec.rows - 1), Math.min(Math.max(column + step[1], 0), spec.columns - 1)]);
    } else return;
    event.preventDefault();
  });
  canvas.addEventListener("blur", () => { cursor = null; paint(); });
  paint();
}

/** Width of a text in the font of maps. */
function widthOf(text) {
  widthOf.pen ??= make("canvas").getContext("2d");
  widthOf.pen.font = TEXT;
  return widthOf.pen.measureText(String(text)).width;
}

/** What stands below a map: text, the middle of its place, and its room. Of numbers, only as many as have room. */
function namesBelow(spec, cellWidth, left) {
  if (spec.groups) return spec.groups.map(({ name, from, to }) => [String(name), left + (from + to) / 2 * cellWidth, Math.max((to - from) * cellWidth - 4, 4)]);
  const names = range(spec.columns).map((column) => String(spec.columnName(column)));
  const numbers = names.every((name) => /^\d+$/.test(name)), step = numbers ? Math.max(Math.ceil((Math.max(...names.map(widthOf)) + 8) / cellWidth), 1) : 1;
  return names.map((name, column) => [name, left + (column + 0.5) * cellWidth, step * cellWidth - 3]).filter((_, column) => column % step === 0);
}

/** Room for the names of the rows: as much as they need, and not more than a third. */
function nameRoom(spec, width) {
  const widest = Math.max(...range(spec.rows).map((row) => widthOf(spec.rowName(row))));
  return Math.round(Math.min(Math.max(widest + 10, MAP_LEFT), MAP_LEFT_MOST, Math.max(width / 3, MAP_LEFT)));
}

/** A short text beside the pointer; null hides it. */
function tip(text, event) {
  const box = document.getElementById("tip");
  box.hidden = !text;
  if (!text) return;
  box.textContent = text;
  const left = Math.min(event.clientX + 14, window.innerWidth - box.offsetWidth - 8);
  box.style.left = `${Math.max(left, 4)}px`;
  box.style.top = `${event.clientY + 18}px`;
}

/** The colours of a map from `low` to `high`. */
function scale(low, high) {
  const canvas = make("canvas", { width: 64, height: 1, "aria-hidden": "true" });
  const image = new ImageData(64, 1);
  range(64).forEach((at) => image.data.set([...cividis(at / 63), 255], at * 4));
  canvas.getContext("2d").putImageData(image, 0, 0);
  return make("div", { class: "scale" }, low, canvas, high);
}
