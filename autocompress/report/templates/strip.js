// What a candidate does to each layer, along the depth of the net: a table with a column a layer.

function treatmentOf(c, i) {
  return data.treatments[c.layers[i]];
}

// Share of the filters of a layer that are removed.
function removedOf(c, i) {
  return c.removed[i] ?? 0;
}

function differs(a, b, i) {
  return a.layers[i] !== b.layers[i] || removedOf(a, i) !== removedOf(b, i);
}

// Bits of the weights, and of the inputs where they are neither 8 nor those of the weights.
function bitsText(t) {
  if (t.weights === 32 && t.inputs === 32) return "fp";
  const words = bits => (bits === 32 ? "f" : String(bits));
  return words(t.weights) + (t.inputs === 8 || t.inputs === t.weights ? "" : `·${words(t.inputs)}`);
}

function shareText(share, isWorthIt) {
  return isWorthIt ? String(Math.round(100 * share)) : "";
}

// Rows of the strip: a title, whether a candidate has anything to show there, and text and look of a layer's cell.
const STRIP_ROWS = [
  {
    title: "weight bits",
    has: () => true,
    cell: (c, i) => ({text: bitsText(treatmentOf(c, i)), kind: `bits b${treatmentOf(c, i).weights}`}),
  },
  {
    title: "filters kept, %",
    has: c => Object.keys(c.removed).length > 0,
    cell: (c, i) => {
      const kept = 1 - removedOf(c, i);
      return {text: shareText(kept, kept < 1), kind: "kept", fill: kept};
    },
  },
  {
    title: "zeros, %",
    has: c => c.layers.some(code => data.treatments[code].zeros > 0),
    cell: (c, i) => {
      const {zeros} = treatmentOf(c, i);
      return {text: shareText(zeros, zeros > 0), kind: "zeros", fill: zeros};
    },
  },
  {
    title: "rank, %",
    has: c => c.layers.some(code => data.treatments[code].rank < 1),
    cell: (c, i) => {
      const {rank} = treatmentOf(c, i);
      return {text: shareText(rank, rank < 1), kind: "kept", fill: rank};
    },
  },
  {
    title: "ran in",
    has: c => c.ran.some(code => data.kernels[code]),
    cell: (c, i) => {
      const [kernel, isFallback] = data.kernels[c.ran[i]].split(", asked");
      return isFallback ? {text: `!${kernel}`, kind: "ran fallback"} : {text: kernel, kind: "ran"};
    },
  },
];

// The strips of one or two candidates; layers in which two differ are marked.
function strips(a, b) {
  const shown = b ? [a, b] : [a], rows = STRIP_ROWS.filter(row => shown.some(row.has));
  if (!b) return [strip(a, () => "", rows)];
  const mark = i => (differs(a, b, i) ? " differs" : "");
  return shown.flatMap(c => [h("p", {class: "label"}, shortName(c)), strip(c, mark, rows)]);
}

function strip(c, mark, rows) {
  const n = data.layers.length;
  const head = data.layers.map(({name}, i) =>
    h("th", {scope: "col", class: mark(i)}, h("span", {class: "spoken"}, name), mark(i) ? "≠" : String(i + 1)));
  const body = rows.map(row => h("tr", {},
    h("th", {scope: "row"}, row.title),
    data.layers.map((_, i) => stripCell(row.cell(c, i), mark(i), i))));
  const label = `Layers of ${c.name}, from input to output`;
  const holder = h("div", {class: "wide strip", tabindex: 0, role: "group", "aria-label": label},
    h("table", {style: `min-width: ${7 + 1.75 * n}rem`},
      h("thead", {}, h("tr", {}, h("th", {scope: "col"}, "layer"), head)),
      h("tbody", {}, body)));
  holder.addEventListener("pointerover", event => {
    const i = event.target.dataset.layer;
    if (i === undefined) tip.hide();
    else tip.show(event.target, layerLines(c, Number(i)));
  });
  holder.addEventListener("pointerleave", tip.hide);
  return holder;
}

function stripCell({text, kind, fill}, mark, i) {
  const style = fill === undefined ? null : `--fill: ${(100 * fill).toFixed(1)}%`;
  return h("td", {class: kind + mark, style, "data-layer": i}, text);
}

function layerLines(c, i) {
  const {name, kind, n} = data.layers[i], removed = removedOf(c, i), kernel = data.kernels[c.ran[i]];
  const of = n ? `of ${n} filters` : "of the filters";
  return [
    `${i + 1}. ${name}${kind ? ` (${kind})` : ""}`,
    treatmentOf(c, i).text,
    ...(removed ? [`${percent(removed)} ${of} removed`] : []),
    ...(kernel ? [`ran in ${kernel}`] : []),
  ];
}

function stripKeys() {
  const widths = [...new Set(data.treatments.map(t => t.weights))].sort((x, y) => y - x);
  const key = (kind, text, style = null) => h("span", {}, h("i", {class: kind, style}), text);
  return h("p", {class: "keys"},
    widths.map(bits => key(`bits b${bits}`, bits === 32 ? "fp: float" : `${bits}-bit weights`)),
    key("kept", "filled: share that stays", "--fill: 60%"),
    key("zeros", "hatched: share of zeros", "--fill: 60%"),
    h("span", {}, "inputs have 8 bits unless 4·6 says 6"));
}

// A row a layer in words; with two candidates only those that differ.
function layerTable(candidates) {
  const [a, b] = candidates, titles = ["bits, zeros, rank", "filters removed", "ran in"];
  const kept = data.layers.map((_, i) => i).filter(i => !b || differs(a, b, i));
  if (!kept.length) return h("p", {}, "No layer differs.");
  const prefix = c => (b ? `${shortName(c)}: ` : "");
  const columns = ["nr", "layer", "class", ...candidates.flatMap(c => titles.map(title => prefix(c) + title))];
  const cells = (c, i) => [
    treatmentOf(c, i).text,
    removedOf(c, i) ? percent(removedOf(c, i)) : "",
    data.kernels[c.ran[i]] || "not known",
  ];
  const rows = kept.map(i => ({
    cells: [String(i + 1), data.layers[i].name, data.layers[i].kind, ...candidates.flatMap(c => cells(c, i))],
  }));
  return table(columns.map(title => [title, "text"]), rows, {id: "layers"}, "tall");
}
