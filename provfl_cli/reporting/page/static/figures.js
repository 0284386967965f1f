// One entry a figure: how it is drawn into its place, and the same as a table.

const PARTS = { // of participation.csv: mark, colour, meaning
  trained: ["", "#0072B2", "trained, fused in the round"], partial: ["p", "#56B4E9", "trained fewer passes"],
  late: ["→", "#E69F00", "started, fused later"], arrived: ["←", "#F0E442", "late work fused"],
  dropped: ["x", "#D55E00", "returned nothing"], not_joined: ["·", "#BBBBBB", "not joined yet"], left: ["·", "#999999", "left"],
};
const BARS_SHOWN = 40, ROWS_OF_MAP = 50;

const FIGURES = {
  accuracy(index) {
    const history = DATA.runs[index].history, x = history.map((one) => one.round);
    return {
      draw(host, title) {
        const loss = history.some((one) => one.loss !== null);
        const lines = [{ x, y: history.map((one) => one.accuracy), name: "accuracy", mode: "lines+markers", ...lineStyle(0) }];
        if (loss) lines.push({ x, y: history.map((one) => one.loss), name: "loss", yaxis: "y2", mode: "lines+markers", ...lineStyle(1) });
        drawChart(host, lines, { x: rounds(x), y: { title: "accuracy", range: [0, 1.02] }, ...(loss ? { y2: { title: "loss", rangemode: "tozero", nticks: 6 } } : {}) }, title);
      },
      table: () => tableOf("Rounds", ["round", "accuracy", "loss", "clients"], history.map((one) => [one.round, one.accuracy, one.loss, one.clients]), { 0: count, 3: count }),
    };
  },

  localization(index) {
    const scores = DATA.runs[index].scores;
    const lines = [...new Map(scores.map((one) => [`${one.method} ${one.scope}`, one])).values()];
    return {
      draw(host, title) {
        const traces = lines.flatMap(({ method, scope }, number) => {
          const own = scores.filter((one) => one.method === method && one.scope === scope);
          const x = own.map((one) => one.round), name = scope === "lineage" ? `${method}, all rounds' clients` : method;
          return [
            { x, y: own.map((one) => one.localization_accuracy), name: plain(name), mode: "lines+markers", ...lineStyle(number) },
            chanceLine(x, own.map((one) => one.chance_accuracy), name, number),
          ];
        });
        drawChart(host, traces, { x: rounds(scores.map((one) => one.round)), y: { title: "accuracy", range: [0, 1.02] } }, title);
      },
      table: () => tableOf("Localization accuracy", ["method", "scope", "round", "accuracy", "chance"], scores.map((one) => [one.method, one.scope, one.round, one.localization_accuracy, one.chance_accuracy]), { 2: count }),
    };
  },

  contributions(index) {
    const run = DATA.runs[index], controls = controlsOf("map", index);
    const state = () => {
      const trace = run.traces[Number(controls.trace.value)];
      return { trace, inputs: sortedInputs(trace, controls.inputs.value), clients: sortedClients(run, trace, controls.clients.value) };
    };
    return {
      draw(host, title) {
        const { trace, inputs, clients: all } = state(), numbers = mapOf(trace), width = trace.clients.length;
        const { kept: clients, others } = mostOf(all, (at) => trace.top.filter((best) => best[0] === at).length);
        const one = (column, client) => numbers[inputs[column] * width + client] / 127;
        const rest = others.length ? inputs.map((_, column) => sum(others.map((client) => one(column, client))) / others.length) : [];
        const at = (row, column) => (row < clients.length ? one(column, clients[row]) : rest[column]);
        drawMap(host, {
          title, rows: clients.length + (others.length ? 1 : 0), columns: inputs.length, axes: { rows: "clients", columns: "inputs" },
          colour: (row, column) => cividis((at(row, column) + 1) / 2),
          more: others.length > 0, rowName: (row) => (row < clients.length ? clientName(run, trace.clients[clients[row]]) : othersName(others)),
          groups: groupsOf(run, trace, inputs, controls.inputs.value), columnName: (column) => trace.inputs[inputs[column]],
          said: (row, column) => `${row < clients.length ? `client ${clientName(run, trace.clients[clients[row]])}` : othersName(others)}, input ${trace.inputs[inputs[column]]} (${verdict(run, trace, inputs[column])}): ${Math.round(100 * at(row, column))}% of the largest contribution`,
          pick: (row, column) => showInput(index, Number(controls.trace.value), trace.inputs[inputs[column]]),
          legend: () => scale("against the prediction", "towards the prediction"),
        });
      },
      table() {
        const { trace, inputs } = state();
        return tableOf(`Best clients of each input, ${traceName(trace)}`, ["input", "label", "prediction", "top client", "contribution", "share", "second", "third"],
          inputs.map((at) => [trace.inputs[at], labelOf(run, trace.label[at]), labelOf(run, trace.prediction[at]), ...topCells(run, trace, at)]), { 0: count, 5: percent });
      },
    };
  },

  counts(index) {
    const run = DATA.runs[index], { number, counts } = run.clients, most = Math.max(...counts.map((row) => Math.max(...row)), 1);
    return clientMap(run, (label, client) => counts[client][label], (value) => (value ? Math.sqrt(value / most) : null), {
      text: (value) => (value ? String(value) : ""), said: (value, client, label) => `client ${client} holds ${count(value)} examples of ${label}`,
      legend: () => scale("1 example", `${count(most)}`),
      table: () => tableOf("Training examples by client and label", ["client", ...run.labels], number.map((client, at) => [clientName(run, client), ...counts[at]]), Object.fromEntries(range(run.labels.length + 1).map((at) => [at, count]))),
    });
  },

  shares(index) {
    const run = DATA.runs[index], { number, share } = run.clients;
    const most = Math.max(...share.map((row) => Math.max(...row.map((one) => one ?? 0))), 1e-9);
    return clientMap(run, (label, client) => share[label][client], (value) => (value === null ? null : Math.sqrt(value / most)), {
      text: (value) => (value === null ? "" : String(Math.round(100 * value))),
      said: (value, client, label) => (value === null ? `client ${client}, ${label}: nothing traced` : `client ${client} has on average ${percent(value)} of the predictions of ${label}`),
      legend: () => scale("0%", percent(most)),
      table: () => tableOf("Mean share by client and label", ["client", ...run.labels], number.map((client, at) => [clientName(run, client), ...share.map((row) => row[at])]), Object.fromEntries(range(run.labels.length + 1).map((at) => [at, at ? percent : count]))),
    });
  },

  suspicion(index) {
    const run = DATA.runs[index], { number, suspicion, faulty } = run.clients;
    const ranked = number.map((client, at) => [client, suspicion.on_top[at]]).filter(([, times]) => times !== null).sort((left, right) => right[1] - left[1] || left[0] - right[0]);
    return {
      draw(host, title) {
        const shown = ranked.filter(([, times], at) => times > 0 || at < 10).slice(0, BARS_SHOWN), names = shown.map(([client]) => plain(clientName(run, client)));
        const part = (planted) => ({
          type: "bar", name: planted ? "planted as faulty (◆)" : "client", x: names.filter((_, at) => faulty.includes(shown[at][0]) === planted),
          y: shown.filter(([client]) => faulty.includes(client) === planted).map(([, times]) => times),
          marker: { color: planted ? COLOURS[1] : COLOURS[0], pattern: { shape: planted ? "/" : "" } },
        });
        const chance = { x: names, y: names.map(() => suspicion.chance), name: "chance", mode: "lines", line: { color: theme("ink"), dash: "dot", width: 1.5 } };
        drawChart(host, [part(false), ...(faulty.length ? [part(true)] : []), chance], {
          x: { title: ranked.length > shown.length ? `client (the first ${shown.length} of ${count(ranked.length)})` : "client", type: "category", categoryorder: "array", categoryarray: names }, y: { title: "wrong predictions, on top" }, above: run.clients.names !== null,
        }, title);
      },
      table: () => tableOf("Suspects", ["client", "on top of wrong predictions", "planted"], ranked.map(([client, times]) => [nameOf(run, client), times, faulty.includes(client) ? "yes" : "no"])),
    };
  },

  participation(index) {
    const run = DATA.runs[index], { rounds: numbers, status: all } = run.participation;
    const { kept, others } = clientsShown(run), number = kept.map((at) => run.clients.number[at]), status = kept.map((at) => all[at]);
    const seen = Object.keys(PARTS).filter((one) => status.some((row) => row.includes(one)));
    const colour = (word) => [1, 3, 5].map((from) => parseInt(PARTS[word][1].slice(from, from + 2), 16));
    return {
      draw(host, title) {
        drawMap(host, {
          title, rows: number.length, columns: numbers.length, axes: { rows: "clients", columns: "rounds" },
          colour: (row, column) => (status[row][column] ? colour(status[row][column]) : null),
          text: (row, column) => (status[row][column] ? PARTS[status[row][column]][0] : ""),
          rowName: (row) => clientName(run, number[row]), columnName: (column) => numbers[column],
          said: (row, column) => `client ${nameOf(run, number[row])}, round ${numbers[column]}: ${status[row][column] ? PARTS[status[row][column]][2] : run.clients.names ? "took no part" : "not chosen"}`,
          legend: () => make("div", { class: "scale" }, ...seen.map((word) => {
            const swatch = make("span", { class: "swatch" }, PARTS[word][0]);
            swatch.style.background = PARTS[word][1];
            return make("span", {}, swatch, PARTS[word][2]);
          }), others.length ? make("span", {}, `${count(others.length)} other clients are in the table`) : null),
        });
      },
      table: () => tableOf("Participation", ["client", ...numbers.map((one) => `round ${one}`)], run.clients.number.map((client, row) => [nameOf(run, client), ...all[row].map((word) => (word ? word.replace("_", " ") : "–"))])),
    };
  },

  layers(index) {
    const { layers, inputs } = DATA.runs[index].layers, profiles = Object.values(inputs);
    const share = layers.map((_, at) => sum(profiles.map((one) => Math.abs(one.value[at] ?? 0) / (sum(one.value.map(Math.abs)) || 1))) / profiles.length);
    const active = layers.map((_, at) => { const known = profiles.map((one) => one.active[at]).filter((one) => one !== null); return known.length ? sum(known) / known.length : null; });
    return {
      draw(host, title) {
        const names = layers.map((name) => (name.length > 32 ? `…${name.slice(-31)}` : name));
        drawChart(host, [{ type: "bar", orientation: "h", x: share, y: names.map(plain), marker: { color: COLOURS[0] }, hovertext: active.map((one) => `${percent(one)} of its neurons took part`) }],
          { x: { title: "share of the top client's contribution (absolute)", tickformat: ".0%" }, y: { autorange: "reversed", type: "category" } }, title, Math.max(180, 90 + 18 * layers.length));
      },
      table: () => tableOf("Layers", ["layer", "share of contribution", "neurons that took part"], layers.map((name, at) => [name, share[at], active[at]]), { 1: percent, 2: percent }),
    };
  },

  lineage(index) {
    const run = DATA.runs[index], shown = run.lineage.filter((one) => one.shares.some((share) => share !== null)).slice(0, COLOURS.length);
    return {
      draw(host, title) {
        const lines = shown.flatMap((one, number) => {
          const name = plain(`client ${one.client} (label ${labelOf(run, one.label)})`), style = lineStyle(number);
          const turn = one.rounds.reduce((kept, round, at) => (round <= one.last ? at : kept), 0);
          const before = { x: one.rounds.slice(0, turn + 1), y: one.shares.slice(0, turn + 1), name, legendgroup: name, mode: "lines+markers", ...style, line: { ...style.line, dash: "solid" } };
          const after = { x: one.rounds.slice(turn), y: one.shares.slice(turn), name, legendgroup: name, showlegend: false, mode: "lines+markers", ...style, line: { ...style.line, dash: "dot" } };
          const ring = { x: [one.rounds[turn]], y: [one.shares[turn]], name, legendgroup: name, showlegend: false, mode: "markers", marker: { symbol: "circle-open", size: 15, color: style.marker.color, line: { width: 2 } } };
          return [before, after, ring];
        });
        drawChart(host, lines, { x: rounds(run.lineage[0].rounds), y: { title: "share of the label's contributions", tickformat: ".0%" } }, title, 380);
        if (run.lineage.length > shown.length) host.append(make("p", { class: "key" }, `The ${shown.length} clients that have not taken part for longest; the table has all.`));
      },
      table: () => tableOf("Share over rounds", ["client", "label", "last round", ...run.lineage[0].rounds.map((one) => `round ${one}`)], run.lineage.map((one) => [String(one.client), labelOf(run, one.label), one.last, ...one.shares]), { 2: count }),
    };
  },

  methods(index) {
    const { scores, faults, truth } = DATA.runs[index], last = Math.max(...scores.map((one) => one.round));
    const [metric, chance, title] = truth ? ["lds", "lds_chance", "LDS"] : faults ? ["fault_accuracy", "fault_chance", "fault accuracy"] : ["localization_accuracy", "chance_accuracy", "localization accuracy (saturates)"];
    const least = Math.min(0, ...scores.map((one) => one[metric] ?? 0)), what = truth ? "LDS" : "accuracy";
    const shown = scores.filter((one) => one.round === last && (one[metric] ?? null) !== null);
    const name = (one) => (one.scope === "lineage" ? `${one.method} (all rounds)` : one.method);
    return {
      draw(host, heading) {
        const y = shown.map((one) => plain(name(one)));
        drawChart(host, [
          { type: "bar", orientation: "h", name: what, x: shown.map((one) => one[metric]), y, marker: { color: COLOURS[0] } },
          { mode: "markers", name: "chance", x: shown.map((one) => one[chance]), y, marker: { symbol: "diamond", size: 12, color: COLOURS[4], line: { color: theme("ink"), width: 1.5 } } },
        ], { x: { title, range: [least * 1.05, 1.02] }, y: { autorange: "reversed", type: "category" } }, heading, 150 + 34 * shown.length);
      },
      table: () => tableOf(`${title} beside chance`, ["method", what, "chance"], shown.map((one) => [name(one), one[metric], one[chance]])),
    };
  },

  curve(index) {
    const curve = DATA.curves[index], metric = () => document.getElementById("metric").value;
    const x = curve.numeric ? curve.values.map(Number) : curve.values.map(plain);
    const lines = () => curve.lines.filter((one) => one.metric === metric());
    return {
      draw(host, title) {
        const traces = lines().flatMap((one, number) => {
          const bounds = one.low.some((low) => low !== null) ? { error_y: { type: "data", symmetric: false, array: one.high.map((high, at) => (high ?? one.mean[at]) - one.mean[at]), arrayminus: one.low.map((low, at) => one.mean[at] - (low ?? one.mean[at])), thickness: 1.5 } } : {};
          const mean = { x, y: one.mean, name: plain(one.name), mode: "lines+markers", ...bounds, ...lineStyle(number) };
          return one.chance.some((chance) => chance !== null) ? [mean, chanceLine(x, one.chance, one.name, number)] : [mean];
        });
        const parts = lines().flatMap((one) => [...one.mean, ...one.chance]).every((value) => value === null || (value >= 0 && value <= 1));
        drawChart(host, traces, { x: { title: plain(curve.key), ...(curve.numeric ? {} : { type: "category" }) }, y: { title: curve.metrics[metric()], ...(parts ? { range: [0, 1.05] } : {}) } }, title);
      },
      table: () => tableOf(`${curve.metrics[metric()]} against ${curve.key}`, [curve.key, "method", "mean", "low", "high", "chance"],
        lines().flatMap((one) => curve.values.map((value, at) => [value, one.name, one.mean[at], one.low[at], one.high[at], one.chance[at]]))),
    };
  },

  compared() {
    const both = () => ["first", "second"].map((id) => DATA.compared[Number(document.getElementById(id).value)]);
    return {
      draw(host, title) {
        const lines = both().map((one, number) => ({ x: one.accuracy.map(([round]) => round), y: one.accuracy.map(([, value]) => value), name: `${number ? "second" : "first"}: ${plain(one.name)}`, mode: "lines+markers", ...lineStyle(number) }));
        drawChart(host, lines, { x: rounds(lines.flatMap((one) => one.x)), y: { title: "accuracy", range: [0, 1.02] } }, title);
      },
      table() {
        const [first, second] = both().map((one) => new Map(one.accuracy));
        const numbers = [...new Set([...first.keys(), ...second.keys()])].sort((left, right) => left - right);
        return tableOf("Accuracy by round", ["round", "first", "second"], numbers.map((round) => [round, first.get(round) ?? null, second.get(round) ?? null]), { 0: count });
      },
    };
  },
};

/** An axis of rounds: whole numbers. */
function rounds(numbers) {
  const many = Math.max(...numbers) - Math.min(...numbers);
  return { title: "round", ...(many <= 15 ? { dtick: 1 } : {}) };
}

/** What a client is called, marked where it was planted. */
const clientName = (run, client) => (run.clients.faulty.includes(client) ? `${nameOf(run, client)} ◆` : nameOf(run, client));

/** Of more clients than a map has rows for, those with most, in their order; and the others. */
function mostOf(clients, most) {
  if (clients.length <= ROWS_OF_MAP + 10) return { kept: clients, others: [] };
  const order = [...clients].map((client, place) => [most(client), place, client]).sort((left, right) => right[0] - left[0] || left[1] - right[1]);
  const chosen = new Set(order.slice(0, ROWS_OF_MAP).map(([, , client]) => client));
  return { kept: clients.filter((client) => chosen.has(client)), others: clients.filter((client) => !chosen.has(client)) };
}

const othersName = (others) => `mean of ${count(others.length)} others`;

/** Places of the clients that maps show: all, or those most often on top, else those with most examples. */
function clientsShown(run) {
  const { number, on_top: onTop, examples, faulty } = run.clients;
  return mostOf(range(number.length), (at) => (faulty.includes(number[at]) ? 1e12 : 0) + (onTop?.[at] ?? 0) * 1e6 + (examples?.[at] ?? 0));
}

/** Clients and labels as a map; of few clients these stand beside each other, of many one below the other. */
function clientMap(run, cell, part, words) {
  const { kept, others } = clientsShown(run), number = kept.map((at) => run.clients.number[at]);
  const mean = (label) => { const known = others.map((at) => cell(label, at)).filter((each) => each !== null); return known.length ? Math.round(1e4 * sum(known) / known.length) / 1e4 : null; };
  const rest = others.length ? range(run.labels.length).map(mean) : [];
  const value = (label, row) => (row < kept.length ? cell(label, kept[row]) : rest[label]);
  const name = (row) => (row < kept.length ? clientName(run, number[row]) : othersName(others));
  return {
    draw: (host, title) => drawMap(host, {
      title, rows: number.length + (others.length ? 1 : 0), columns: run.labels.length, axes: { rows: "clients", columns: "labels" },
      colour: (row, column) => { const shade = part(value(column, row)); return shade === null ? null : cividis(shade); },
      text: (row, column) => words.text(value(column, row)),
      more: others.length > 0, rowName: name, columnName: (column) => run.labels[column],
      said: (row, column) => words.said(value(column, row), name(row), run.labels[column]),
      legend: words.legend,
    }),
    table: words.table,
  };
}

/** The selects of a block of controls, by name. */
function controlsOf(name, index) {
  const block = document.querySelector(`[data-controls="${name}"][data-index="${index}"]`);
  return Object.fromEntries([...block.querySelectorAll("[data-control]")].map((one) => [one.dataset.control, one]));
}

function verdict(run, trace, at) {
  const right = isRight(trace, at), predicted = labelOf(run, trace.prediction[at]);
  if (right === null) return run.explains === "classes" ? `predicted ${predicted}` : predicted;
  return right ? `${predicted}, right` : `${labelOf(run, trace.label[at])} taken for ${predicted}`;
}

function sortedInputs(trace, by) {
  const { label, prediction, top } = trace, right = (at) => Number(isRight(trace, at) ?? 2);
  const keys = {
    number: () => [], label: (at) => [label[at], prediction[at]], prediction: (at) => [prediction[at], label[at]],
    correct: (at) => [right(at), label[at]], top: (at) => [trace.clients[top[at][0]], label[at]],
  }[by];
  const keyed = range(label.length).map((at) => [keys(at), at]);
  keyed.sort(([left, one], [second, two]) => (left[0] ?? 0) - (second[0] ?? 0) || (left[1] ?? 0) - (second[1] ?? 0) || trace.inputs[one] - trace.inputs[two]);
  return keyed.map(([, at]) => at);
}

function sortedClients(run, trace, by) {
  const place = new Map(run.clients.number.map((client, at) => [client, at])), known = (at) => place.get(trace.clients[at]);
  const times = new Map();
  if (by === "top") trace.top.forEach(([best]) => times.set(best, (times.get(best) ?? 0) + 1));
  const main = (at) => { const row = run.clients.counts[known(at)]; return row.indexOf(Math.max(...row)); };
  const key = { number: () => 0, top: (at) => -(times.get(at) ?? 0), examples: (at) => -run.clients.examples[known(at)], main }[by];
  return range(trace.clients.length).sort((left, right) => key(left) - key(right) || trace.clients[left] - trace.clients[right]);
}

/** Runs of inputs that are the same in what they are sorted by. */
function groupsOf(run, trace, inputs, by) {
  const name = {
    label: (at) => labelOf(run, trace.label[at]), prediction: (at) => labelOf(run, trace.prediction[at]),
    correct: (at) => (isRight(trace, at) === false ? "wrong" : labelOf(run, trace.label[at])), top: (at) => nameOf(run, trace.clients[trace.top[at][0]]),
  }[by];
  if (!name) return null;
  const groups = [];
  inputs.forEach((at, column) => {
    const last = groups[groups.length - 1];
    if (last && last.name === name(at)) last.to = column + 1;
    else groups.push({ name: name(at), from: column, to: column + 1 });
  });
  return groups;
}

function topCells(run, trace, at) {
  const names = trace.top[at].map((client) => clientName(run, trace.clients[client]));
  return [names[0], trace.value[at][0], trace.share[at][0], names[1] ?? null, names[2] ?? null];
}

/** All clients in a table that sorts. */
function clientTable(index) {
  const run = DATA.runs[index], { number, examples, counts, faulty, last, on_top: onTop, suspicion } = run.clients;
  const took = run.participation?.status.map((row) => row.filter((word) => ["trained", "partial", "arrived"].includes(word)).length);
  const columns = [
    ["client", (at) => nameOf(run, number[at])], ["planted as faulty", faulty.length > 0 && ((at) => (faulty.includes(number[at]) ? "yes ◆" : "no"))],
    ["times on top", onTop && ((at) => onTop[at])], ["on top of wrong predictions", suspicion && ((at) => suspicion.on_top[at])],
    ["examples", examples && ((at) => examples[at])], ["labels held", counts && ((at) => counts[at].filter((one) => one > 0).length)],
    ["holds most of", counts && ((at) => labelOf(run, counts[at].indexOf(Math.max(...counts[at]))))],
    ["rounds taken part", took && ((at) => took[at])], ["last round", took && ((at) => last[number[at]] ?? null)],
  ].filter(([, value]) => value);
  const order = range(number.length);
  if (number.length > ROWS_SHOWN) order.sort((left, right) => (onTop?.[right] ?? 0) - (onTop?.[left] ?? 0) || left - right);
  return tableOf("All clients", columns.map(([heading]) => heading), order.map((at) => columns.map(([, value]) => value(at))), Object.fromEntries(range(columns.length).map((at) => [at, count])), (place) => `#${clientPlace(run, number[order[place]])}`);
}
