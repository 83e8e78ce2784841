// How well the search went: hypervolume, predictions against measurements, sensitivity of every unit.

const HEATS = {
  learned: {title: "drop in points, with all that candidates taught", value: v => 100 * v, digits: 2, signs: 1},
  table: {title: "drop in points, by the damage table alone", value: v => 100 * v, digits: 2, signs: 1},
  ms: {title: "milliseconds saved", value: v => -v, digits: 3, signs: -1},
  bytes: {title: "kB saved", value: v => -v / 1000, digits: 1, signs: -1},
};

function drawHealth() {
  drawHistory(byId("history-n"), 0, "candidates measured");
  drawHistory(byId("history-s"), 1, "seconds of candidates");
  if (data.forecasts) {
    drawForecast(byId("forecast-drop"), data.forecasts.drop, data.forecasts.dropLimits, "drop, points");
    drawForecast(byId("forecast-latency"), data.forecasts.latency, data.forecasts.latencyLimits, "latency, % of the baseline's");
  }
  if (data.units.sensitivity.length) drawHeat("learned");
}

// Share of the final hypervolume as steps, since a front is as good as the last candidate made it.
function drawHistory(holder, k, title) {
  const {svg, box} = canvas(holder, 230, `Hypervolume of the front by ${title}`), end = data.history.at(-1)?.[k] || 1;
  const x = scale(0, end, box.left, box.right), y = scale(0, 1.05, box.bottom, box.top);
  const steps = data.history.flatMap((point, i) => [[x(point[k]), y(i ? data.history[i - 1][2] : 0)], [x(point[k]), y(point[2])]]);
  svg.append(frame(box, {scale: x, ticks: ticks(0, end, 5), title}, {scale: y, ticks: [0, 0.25, 0.5, 0.75, 1], title: "share of the final"}),
    s("path", {class: "course nr0", d: path([[x(0), y(0)], ...steps])}),
    ...data.history.slice(-80).map(point => s("circle", {class: "dot", cx: x(point[k]), cy: y(point[2]), r: 2.5})));
}

// Measured against predicted; two predictions, where there are two, are an open and a filled dot.
function drawForecast(holder, rows, [low, high], quantity) {
  const {svg, box} = canvas(holder, 300, `Predicted against measured ${quantity}`);
  const x = scale(low, high, box.left, box.right), y = scale(low, high, box.bottom, box.top), pinned = v => Math.max(low, Math.min(high, v));
  svg.append(frame(box, {scale: x, ticks: ticks(low, high, 5), title: `measured ${quantity}`}, {scale: y, ticks: ticks(low, high, 5), title: `predicted ${quantity}`}),
    s("line", {class: "limit", x1: x(low), y1: y(low), x2: x(high), y2: y(high)}));
  const n = rows.filter(row => Math.max(...row) > high).length;
  if (n) svg.append(s("text", {class: "mark", x: box.right - 6, y: box.bottom - 8, "text-anchor": "end"}, `△ ${n} beyond the edge`));
  rows.forEach(([measured, ...predicted], i) => {
    const digest = data.forecasts.digests[i], c = candidateOf.get(digest);
    predicted.forEach((value, k) => {
      const isFilled = k === predicted.length - 1, isPinned = Math.max(measured, value) > high;
      const dot = s("path", {class: isFilled ? "forecast filled" : "forecast", transform: `translate(${x(pinned(measured))} ${y(pinned(value))})`, d: isPinned ? "M-5 4H5L0 -5Z" : shape("candidate", 4)});
      const lines = [c ? shortName(c) : digest, `measured ${measured.toFixed(2)}`, `predicted ${predicted.map(v => v.toFixed(2)).join(", then ")}`];
      dot.addEventListener("pointerenter", () => tip.show(dot, lines));
      dot.addEventListener("pointerleave", tip.hide);
      if (c) dot.addEventListener("click", () => select(c));
      svg.append(dot);
    });
    if (c?.chosen) svg.append(s("circle", {class: "ring chosen", cx: x(pinned(measured)), cy: y(pinned(predicted.at(-1))), r: 9}));
  });
}

function drawHeat(name) {
  const {value, digits, title} = HEATS[name], units = data.units.sensitivity;
  const n = Math.max(...units.map(u => u.choices.length));
  const all = units.flatMap(u => u[name].map(v => Math.max(0, value(v)))), top = all.reduce((a, b) => Math.max(a, b), 1e-9);
  const cell = (u, j) => {
    if (j >= u.choices.length) return h("td", {class: "none"});
    const v = value(u[name][j]), share = Math.sqrt(Math.max(0, v) / top);
    const text = Math.abs(v) < 0.5 * 10 ** -digits ? "0" : v.toFixed(digits).replace("-", "−");
    return h("td", {style: `--heat: ${share.toFixed(2)}`}, h("span", {class: "choice"}, u.choices[j]), h("b", {}, text));
  };
  const rows = units.map(u => h("tr", {}, h("th", {scope: "row"}, u.unit), Array.from({length: n}, (_, j) => cell(u, j))));
  byId("heat").replaceChildren(h("div", {class: "wide tall", tabindex: 0, role: "group", "aria-label": `Sensitivity: ${title}`},
    h("table", {class: "heat"}, h("caption", {class: "spoken"}, title), h("tbody", {}, rows))));
}
