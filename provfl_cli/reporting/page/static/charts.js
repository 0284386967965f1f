// Curves and bars by Plotly, in the colours of the theme.

/** Draw a chart; `height` in pixels. `axes.above`: the legend stands above it, for names below that are long. */
function drawChart(host, traces, axes, title, height = 320) {
  let box = host.querySelector(".chart");
  if (!box) {
    box = make("div", { class: "chart", role: "img", "aria-label": title });
    host.replaceChildren(box);
  }
  box.style.height = `${height}px`;
  const ink = theme("ink"), line = theme("line");
  const axis = (given) => ({ gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true, ...given, tickmode: given?.dtick ? "linear" : "auto", title: { text: given?.title ?? "", standoff: 8, font: { size: 13 } } });
  const layout = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: ink, family: "system-ui, sans-serif", size: 13 },
    margin: { l: 48, r: 12, t: axes.above ? 34 : 10, b: 44 }, hovermode: "closest", showlegend: traces.filter((one) => one.showlegend !== false).length > 1,
    legend: { orientation: "h", ...(axes.above ? { y: 1.02, yanchor: "bottom" } : { y: -0.25, yanchor: "top" }) }, hoverlabel: { bgcolor: theme("card"), font: { color: ink } },
    xaxis: axis(axes.x), yaxis: axis(axes.y), ...(axes.y2 ? { yaxis2: { ...axis(axes.y2), overlaying: "y", side: "right", showgrid: false } } : {}),
  };
  Plotly.react(box, traces, layout, { displayModeBar: false, responsive: true, staticPlot: false });
}

/** The look of the line with a number. */
function lineStyle(number) {
  const colour = COLOURS[number % COLOURS.length];
  return { line: { color: colour, dash: DASHES[number % DASHES.length], width: 2 }, marker: { color: colour, symbol: MARKS[number % MARKS.length], size: 7 } };
}

/** A dotted line of chance in the colour of the line that it belongs to. */
function chanceLine(x, y, name, number) {
  return { x, y, name: `chance of ${plain(name)}`, mode: "lines", showlegend: false, hoverinfo: "text", text: y.map((one) => `chance of ${plain(name)}: ${figure(one)}`), line: { color: COLOURS[number % COLOURS.length], dash: "dot", width: 1.5 } };
}

/** Text from data, so that Plotly takes none of it for its own markup. */
function plain(text) {
  return String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}
