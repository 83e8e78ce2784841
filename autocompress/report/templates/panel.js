// Everything about one candidate, or two side by side.

const NUMBERS = [
  ["speed-up", c => c.cells.speedup, (a, b) => ratioWords(a.speedup, b.speedup, "as fast")],
  ["latency, ms", c => c.cells.latency, (a, b) => `${signed(b.latency[0] - a.latency[0], 3)} ms`],
  ["p90 / p99, ms", c => c.cells.tail],
  ["drop, points", c => c.cells.drop, (a, b) => `${signed(100 * (b.drop[0] - a.drop[0]), 2)}${overlapWords(a.drop, b.drop)}`],
  ["drop for the choice", c => c.cells.held, (a, b) => (a.held && b.held ? signed(100 * (b.held[0] - a.held[0]), 2) : "")],
  ["score (torch)", c => `${c.cells.score} (${c.cells.torch})`],
  ["decides like torch", c => c.cells.agreement],
  ["size, kB", c => c.cells.size, (a, b) => `${signed((b.size - a.size) / 1000, 1)} kB`],
  ["zipped, kB", c => c.cells.zipped],
  ["MACs", c => c.cells.macs, (a, b) => `${signed(100 * (b.macs / a.macs - 1), 1)} %`],
  ["rung", c => c.rung],
  ["speed-up, last timing", c => c.test?.speedup],
  ["drop on test samples", c => c.test?.drop],
];

function shortName(c) {
  return c.shown || c.digest;
}

function overlaps(a, b) {
  return Math.min(a[2], b[2]) >= Math.max(a[1], b[1]);
}

function overlapWords(a, b) {
  return overlaps(a, b) ? ", can't be told apart" : "";
}

function ratioWords(a, b, words) {
  return `${(b[0] / a[0]).toFixed(2)}x ${words}${overlapWords(a, b)}`;
}

function drawPanel() {
  const [a, b] = state.selected, shown = b ? [a, b] : [a];
  byId("panel").replaceChildren(...[
    h("h2", {id: "panel-title", tabindex: -1}, ...title(shown)),
    h("div", {class: "columns"},
      h("div", {}, numberTable(shown)),
      h("div", {}, exportCommands(shown), compareChoice(a, b), trainingPicture(shown))),
    h("h3", {}, b ? "Layer by layer: ≠ marks those that differ" : "Layer by layer, from input to output"),
    ...shown.flatMap(c => [b ? h("p", {class: "label"}, shortName(c)) : null, strip(c, b ? (c === a ? b : a) : null, stripRows(shown))]),
    legend(),
    h("details", {open: Boolean(b)}, h("summary", {}, b ? "The layers that differ" : "All layers as a table"), layerTable(shown)),
    ...decisions(shown),
    h("details", {class: "plain"}, h("summary", {}, "Recipe in words"), ...shown.map(c => h("p", {}, `${shortName(c)}: `, ...c.lines.flatMap(line => [line, h("br")])))),
  ].filter(part => part !== null));
}

function title([a, b]) {
  const of = c => h("span", {}, c.shown && !c.shown.includes(c.digest) ? `${c.shown} (${c.digest})` : c.shown || c.digest);
  const badges = c => [c.chosen ? "chosen" : null, c.front ? "on the front" : "dominated", c.noisy ? "noisy latency" : null].filter(Boolean);
  return b ? [of(a), " against ", of(b)] : [of(a), ...badges(a).map(text => h("span", {class: "badge"}, text))];
}

function numberTable([a, b]) {
  const filled = NUMBERS.filter(([, text]) => text(a) || (b && text(b)));
  const rows = filled.map(([name, text, difference]) => ({
    cells: b ? [name, text(a), text(b), difference ? difference(a, b) : ""] : [name, text(a)],
  }));
  const columns = b
    ? [["", "text"], [shortName(a), ""], [shortName(b), ""], ["second against first", "text"]]
    : [["", "text"], ["measured, with its interval", ""]];
  return table(columns, rows, {class: "numbers"});
}

function exportCommands(candidates) {
  return h("div", {class: "export"}, h("p", {class: "label"}, "Export: OpenVINO, ONNX and weights into chosen/"),
    candidates.map(c => commandLine(`autocompress choose ${studyFolder()} --digest ${c.digest}`)));
}

function compareChoice(a, b) {
  const others = data.candidates.filter(c => c !== a);
  others.sort((x, y) => Boolean(y.shown) - Boolean(x.shown) || y.front - x.front || y.speedup[0] - x.speedup[0]);
  const pick = event => {
    select(a, false, others.find(c => c.digest === event.target.value));
    byId("compare").focus();
  };
  const menu = h("select", {id: "compare", onchange: pick},
    h("option", {value: ""}, "nothing"),
    others.map(c => h("option", {value: c.digest, selected: c === b}, `${shortName(c)}: ${c.speedup[0].toFixed(2)}x, ${points(c.drop[0])} points`)));
  return h("p", {class: "noprint"}, h("label", {for: "compare"}, "Compare with "), menu);
}

function legend() {
  const widths = [...new Set(data.treatments.map(t => t.weights))].sort((x, y) => y - x);
  return h("p", {class: "keys"},
    widths.map(bits => h("span", {}, h("i", {class: `bits b${bits}`}), bits === 32 ? "fp: float" : `${bits}-bit weights`)),
    h("span", {}, h("i", {class: "kept", style: "--fill: 60%"}), "filled: share that stays"),
    h("span", {}, h("i", {class: "zeros", style: "--fill: 60%"}), "hatched: share of zeros"),
    h("span", {}, "4·6: weights 4, inputs 6 bits; inputs have 8 where nothing is said"));
}

// What each decision gains and costs, against the gentlest choice of its unit; a bar and a number each.
function decisions(candidates) {
  const known = candidates.filter(c => c.decisions), [first, second] = candidates;
  return [...(known.length ? decisionTable(known) : []), ...(second ? [] : alternatives(first))];
}

function decisionTable(known) {
  const units = data.units.sensitivity, both = known.length > 1;
  const kept = units.map((_, i) => i).filter(i => !both || known[0].decisions[0][i] !== known[1].decisions[0][i]);
  const most = k => Math.max(1e-9, ...known.flatMap(c => c.decisions[k].map(Math.abs)));
  const scales = [most(1), most(2), most(3)];
  const columns = [["unit", "text"], ...known.flatMap(c => [[both ? `${shortName(c)}: choice` : "choice", "text"], ["costs, points", "bar"], ["saves, ms", "bar"], ["saves, kB", "bar"]])];
  const rows = kept.map(i => ({cells: [units[i].unit, ...known.flatMap(c => {
    const [choices, drops, times, sizes] = c.decisions;
    return [units[i].choices[choices[i]], bar(100 * drops[i], 100 * scales[0], 2, "cost"), bar(-times[i], scales[1], 3, "gain"), bar(-sizes[i] / 1000, scales[2] / 1000, 1, "gain")];
  })]}));
  const note = "Predicted, for a change of one unit with all others as they are, against the gentlest choice of the unit.";
  return [
    h("h3", {}, both ? "Decisions that differ: what each gains and costs" : "What each decision gained and cost"),
    kept.length ? table(columns, rows, {id: "decisions"}, "tall") : h("p", {}, "No decision differs."),
    h("p", {class: "note"}, note),
  ];
}

function bar(value, most, digits, kind) {
  const text = Math.abs(value) < 0.5 * 10 ** -digits ? "0" : value.toFixed(digits).replace("-", "−");
  const width = `--fill: ${Math.min(100, 100 * Math.abs(value) / most).toFixed(1)}%`;
  return h("span", {class: `bar ${kind}${value < 0 ? " negative" : ""}`, style: width}, text);
}

// What the next choices of each unit would have been; known for the chosen candidate only.
function alternatives(c) {
  if (!data.units.rows.length || c.digest !== data.units.explained) return [];
  const columns = byId("unit-head").textContent.split("|").map((head, i) => [head, [0, 1, 4, 7].includes(i) ? "text" : ""]);
  const rows = data.units.rows.map(cells => ({cells}));
  return [h("details", {}, h("summary", {}, "What the next cheaper and the next gentler choice of each unit would have been"),
    table(columns, rows, {id: "units"}), h("p", {class: "note"}, byId("unit-note").textContent))];
}
