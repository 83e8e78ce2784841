// Everything about one candidate, or two side by side.

// Rows of the numbers: a title, the text of a candidate, and what the second is against the first.
const NUMBERS = [
  ["speed-up", c => c.cells.speedup, (a, b) => ratioWords(a.speedup, b.speedup)],
  ["latency, ms", c => c.cells.latency, (a, b) => signed(b.latency[0] - a.latency[0], 3)],
  ["p90 / p99, ms", c => c.cells.tail],
  ["drop, points", c => c.cells.drop, (a, b) => differenceWords(a.drop, b.drop)],
  ["drop for the choice, points", c => c.cells.held, (a, b) => a.held && b.held && differenceWords(a.held, b.held)],
  ["score (of torch)", c => `${c.cells.score} (${c.cells.torch})`],
  ["decides like torch", c => c.cells.agreement],
  ["size, kB", c => c.cells.size, (a, b) => signed((b.size - a.size) / 1000, 1)],
  ["zipped, kB", c => c.cells.zipped],
  ["MACs", c => c.cells.macs, (a, b) => `${signed(100 * (b.macs / a.macs - 1), 1)} %`],
  ["rung", c => c.rung],
  ["speed-up, last timing", c => c.test?.speedup],
  ["drop on test samples, points", c => c.test?.drop],
];

function shortName(c) {
  return c.shown || c.digest;
}

// Says so where two intervals meet.
function overlapWords(a, b) {
  return Math.min(a[2], b[2]) >= Math.max(a[1], b[1]) ? ", can't be told apart" : "";
}

function ratioWords(a, b) {
  return `${(b[0] / a[0]).toFixed(2)}x as fast${overlapWords(a, b)}`;
}

function differenceWords(a, b) {
  return signed(100 * (b[0] - a[0]), 2) + overlapWords(a, b);
}

function drawPanel() {
  const [a, b] = state.selected, shown = state.selected;
  byId("panel").replaceChildren(
    h("h2", {id: "panel-title"}, ...panelTitle(a, b)),
    h("div", {class: "columns"},
      h("div", {}, numberTable(a, b)),
      h("div", {}, exportCommands(shown), compareMenu(a, b), trainingPicture(shown))),
    h("h3", {}, b ? "Layer by layer: ≠ marks those that differ" : "Layer by layer, from input to output"),
    ...strips(a, b),
    stripKeys(),
    h("details", {open: Boolean(b)},
      h("summary", {}, b ? "The layers that differ" : "All layers as a table"),
      layerTable(shown)),
    ...decisions(shown),
    h("details", {}, h("summary", {}, "Recipe in words"), shown.map(recipeWords)),
  );
}

function panelTitle(a, b) {
  const name = c => h("span", {}, c.shown && !c.shown.includes(c.digest) ? `${c.shown} (${c.digest})` : shortName(c));
  if (b) return [name(a), " against ", name(b)];
  const badges = [a.chosen && "chosen", a.front ? "on the front" : "dominated", a.noisy && "noisy latency"];
  return [name(a), ...badges.filter(Boolean).map(text => h("span", {class: "badge"}, text))];
}

function numberTable(a, b) {
  const known = NUMBERS.filter(([, text]) => text(a) || (b && text(b)));
  if (!b) {
    const rows = known.map(([name, text]) => ({cells: [name, text(a)]}));
    return table([["", "text"], ["measured, with interval", ""]], rows, {class: "numbers"});
  }
  const columns = [["", "text"], [shortName(a), ""], [shortName(b), ""], ["second against first", "text"]];
  const rows = known.map(([name, text, compare]) => ({
    cells: [name, text(a) ?? "", text(b) ?? "", (compare && compare(a, b)) || ""],
  }));
  return table(columns, rows, {class: "numbers"});
}

function exportCommands(candidates) {
  return h("div", {class: "export"},
    h("p", {class: "label"}, "Export: OpenVINO, ONNX and weights into chosen/"),
    candidates.map(c => commandLine(`autocompress choose ${studyFolder()} --digest ${c.digest}`)));
}

function compareMenu(a, b) {
  const others = data.candidates.filter(c => c !== a);
  const rankOf = c => 2 * Boolean(c.shown) + c.front;
  others.sort((x, y) => rankOf(y) - rankOf(x) || y.speedup[0] - x.speedup[0]);
  const words = c => `${shortName(c)}: ${c.speedup[0].toFixed(2)}x, ${points(c.drop[0])} points`;
  const pick = event => {
    select(a, false, others.find(c => c.digest === event.target.value));
    byId("compare").focus();
  };
  const menu = h("select", {id: "compare", onchange: pick},
    h("option", {value: ""}, "nothing"),
    others.map(c => h("option", {value: c.digest, selected: c === b}, words(c))));
  return h("p", {class: "noprint"}, h("label", {for: "compare"}, "Compare with "), menu);
}

function recipeWords(c) {
  return h("p", {}, h("strong", {}, shortName(c)), c.lines.flatMap(line => [h("br"), line]));
}
