// How well the search went: hypervolume, predictions against measurements, sensitivity of every unit.

const HEATS = {
  learned: {title: "drop in points, with all that candidates taught", value: v => 100 * v, digits: 2},
  table: {title: "drop in points, by the damage table alone", value: v => 100 * v, digits: 2},
  ms: {title: "milliseconds saved", value: v => -v, digits: 3},
  bytes: {title: "kB saved", value: v => -v / 1000, digits: 1},
};
const MAX_DOTS = 80;

function drawHealth() {
  drawHistory(byId("history-n"), 0, "candidates measured");
  drawHistory(byId("history-s"), 1, "seconds of candidates");
  const {forecasts, units} = data;
  if (forecasts) {
    drawForecast(byId("forecast-drop"), forecasts.drop, forecasts.dropLimits, "drop, points");
    drawForecast(byId("forecast-latency"), forecasts.latency, forecasts.latencyLimits, "latency, % of the baseline's");
  }
  if (units.sensitivity.length) drawHeat(byId("heat-of").value);
}

// Share of the final hypervolume as steps, since a front is as good as the last candidate made it.
function drawHistory(holder, k, title) {
  const {svg, box} = canvas(holder, 230, `Hypervolume of the front by ${title}`);
  const end = data.history.at(-1)?.[k] || 1;
  const x = scale(0, end, box.left, box.right), y = scale(0, 1.05, box.bottom, box.top);
  const places = data.history.map(point => [x(point[k]), y(point[2])]);
  const steps = places.flatMap((place, i) => [[place[0], i ? places[i - 1][1] : y(0)], place]);
  svg.append(
    frame(box,
      {scale: x, ticks: ticks(0, end, 5), title},
      {scale: y, ticks: [0, 0.25, 0.5, 0.75, 1], title: "share of the final"}),
    s("path", {class: "course nr0", d: path([[x(0), y(0)], ...steps])}),
    ...places.slice(-MAX_DOTS).map(([cx, cy]) => s("circle", {class: "dot", cx, cy, r: 2.5})),
  );
}

// Measured against predicted; of two predictions the first is an open dot and the last a filled one.
function drawForecast(holder, rows, [low, high], quantity) {
  const {svg, box} = canvas(holder, 300, `Predicted against measured ${quantity}`);
  const x = scale(low, high, box.left, box.right), y = scale(low, high, box.bottom, box.top);
  const marks = ticks(low, high, 5), n = rows.filter(row => Math.max(...row) > high).length;
  svg.append(
    frame(box,
      {scale: x, ticks: marks, title: `measured ${quantity}`},
      {scale: y, ticks: marks, title: `predicted ${quantity}`}),
    s("line", {class: "limit", x1: x(low), y1: y(low), x2: x(high), y2: y(high)}),
  );
  if (n) {
    const at = {x: box.right - 6, y: box.bottom - 8, "text-anchor": "end"};
    svg.append(s("text", {class: "mark", ...at}, `△ ${n} beyond the edge`));
  }
  const inside = value => Math.max(low, Math.min(high, value));
  const place = (measured, predicted) => [x(inside(measured)), y(inside(predicted))];
  rows.forEach((row, i) => svg.append(...forecastDots(row, candidateOf.get(data.forecasts.digests[i]), place, high)));
}

function forecastDots([measured, ...predicted], c, place, high) {
  const words = predicted.map(value => value.toFixed(2)).join(", then ");
  const lines = [c ? shortName(c) : "", `measured ${measured.toFixed(2)}`, `predicted ${words}`];
  const dots = predicted.map((value, k) => {
    const kind = k === predicted.length - 1 ? "forecast filled" : "forecast";
    const d = Math.max(measured, value) > high ? "M-5 4H5L0 -5Z" : shape("candidate", 4);
    const dot = s("path", {class: kind, d, transform: `translate(${place(measured, value).join(" ")})`});
    dot.addEventListener("pointerenter", () => tip.show(dot, lines));
    dot.addEventListener("pointerleave", tip.hide);
    if (c) dot.addEventListener("click", () => select(c));
    return dot;
  });
  if (!c?.chosen) return dots;
  const [cx, cy] = place(measured, predicted.at(-1));
  return [...dots, s("circle", {class: "ring chosen", cx, cy, r: 9})];
}

// A row a unit, a cell a choice: its name, the number, and a colour that grows with the square root of the number.
function drawHeat(name) {
  const {value, digits, title} = HEATS[name], units = data.units.sensitivity;
  const n = Math.max(...units.map(unit => unit.choices.length));
  const top = units.flatMap(unit => unit[name]).reduce((most, v) => Math.max(most, value(v)), 1e-9);
  const cell = (unit, j) => {
    if (j >= unit.choices.length) return h("td", {class: "none"});
    const v = value(unit[name][j]), share = Math.sqrt(Math.max(0, v) / top);
    const parts = [h("span", {class: "choice"}, unit.choices[j]), h("b", {}, plain(v, digits))];
    return h("td", {style: `--share: ${share.toFixed(2)}`}, parts);
  };
  const row = unit => h("tr", {},
    h("th", {scope: "row"}, unit.unit),
    Array.from({length: n}, (_, j) => cell(unit, j)));
  const whole = h("table", {class: "heat"}, h("caption", {class: "spoken"}, title), h("tbody", {}, units.map(row)));
  const label = `Sensitivity: ${title}`;
  byId("heat").replaceChildren(h("div", {class: "wide tall", tabindex: 0, role: "group", "aria-label": label}, whole));
}
