// What a candidate does to each layer, along the depth of the net: a table with a column a layer.

// Colour and text of a bit width; text alone is enough to read it.
function bitsText(t) {
  if (t.weights === 32 && t.inputs === 32) return "fp";
  const inputs = t.inputs === 8 || t.inputs === t.weights ? "" : `·${t.inputs === 32 ? "f" : t.inputs}`;
  return `${t.weights === 32 ? "f" : t.weights}${inputs}`;
}

function treatmentOf(c, i) {
  return data.treatments[c.layers[i]];
}

function removedOf(c, i) {
  return c.removed[i] ?? 0;
}

function differs(a, b, i) {
  return a.layers[i] !== b.layers[i] || removedOf(a, i) !== removedOf(b, i);
}

// Rows of the strip: a title, whether a candidate has anything of it, and the cell of a layer.
const STRIP_ROWS = [
  {title: "weight bits", has: () => true, cell: (c, i) => {
    const t = treatmentOf(c, i);
    return {text: bitsText(t), kind: `bits b${t.weights}`};
  }},
  {title: "filters kept, %", has: c => Object.keys(c.removed).length > 0, cell: (c, i) => {
    const kept = 1 - removedOf(c, i);
    return {text: kept < 1 ? String(Math.round(100 * kept)) : "", kind: "kept", fill: kept};
  }},
  {title: "zeros, %", has: c => c.layers.some(code => data.treatments[code].zeros > 0), cell: (c, i) => {
    const {zeros} = treatmentOf(c, i);
    return {text: zeros ? String(Math.round(100 * zeros)) : "", kind: "zeros", fill: zeros};
  }},
  {title: "rank, %", has: c => c.layers.some(code => data.treatments[code].rank < 1), cell: (c, i) => {
    const {rank} = treatmentOf(c, i);
    return {text: rank < 1 ? String(Math.round(100 * rank)) : "", kind: "kept", fill: rank};
  }},
  {title: "ran in", has: c => c.ran.some(code => data.kernels[code]), cell: (c, i) => {
    const kernel = data.kernels[c.ran[i]];
    const isFallback = kernel.includes("asked for");
    return {text: isFallback ? "!" + kernel.split(",")[0] : kernel, kind: isFallback ? "ran fallback" : "ran"};
  }},
];

function layerLines(c, i) {
  const {name, kind, n} = data.layers[i], removed = removedOf(c, i), kernel = data.kernels[c.ran[i]];
  return [
    `${i + 1}. ${name}${kind ? ` (${kind})` : ""}`,
    treatmentOf(c, i).text,
    removed ? `${percent(removed)} of the ${n || ""} filters removed`.replace("the  ", "the ") : null,
    kernel ? `ran in ${kernel}` : null,
  ].filter(line => line !== null);
}

// The strip of one candidate; layers in which it differs from `other` are marked.
function strip(c, other, rows) {
  const n = data.layers.length;
  const marked = i => (other && differs(c, other, i) ? " differs" : "");
  const head = data.layers.map(({name}, i) => h("th", {scope: "col", class: marked(i)}, h("span", {class: "spoken"}, name), marked(i) ? "≠" : String(i + 1)));
  const body = rows.map(row => h("tr", {}, h("th", {scope: "row"}, row.title), data.layers.map((_, i) => {
    const {text, kind, fill} = row.cell(c, i);
    const style = fill === undefined ? null : `--fill: ${(100 * fill).toFixed(1)}%`;
    return h("td", {class: kind + marked(i), style, "data-layer": i}, text);
  })));
  const holder = h("div", {class: "wide strip", tabindex: 0, role: "group", "aria-label": `Layers of ${c.name}, from input to output`},
    h("table", {style: `min-width: ${7 + 1.75 * n}rem`}, h("thead", {}, h("tr", {}, h("th", {scope: "col"}, "layer"), head)), h("tbody", {}, body)));
  holder.addEventListener("pointerover", event => {
    const i = event.target.dataset?.layer;
    if (i !== undefined) tip.show(event.target, layerLines(c, Number(i)));
    else tip.hide();
  });
  holder.addEventListener("pointerleave", tip.hide);
  return holder;
}

function stripRows(candidates) {
  return STRIP_ROWS.filter(row => candidates.some(row.has));
}

// A row a layer in words; with two candidates only those that differ.
function layerTable(candidates) {
  const [a, b] = candidates;
  const kept = data.layers.map((_, i) => i).filter(i => !b || differs(a, b, i));
  if (!kept.length) return h("p", {}, "No layer differs.");
  const titles = ["bits, zeros, rank", "filters removed", "ran in"];
  const columns = [["nr", ""], ["layer", "text"], ["class", "text"],
    ...candidates.flatMap(c => titles.map(title => [b ? `${shortName(c)}: ${title}` : title, "text"]))];
  const rows = kept.map(i => ({cells: [String(i + 1), data.layers[i].name, data.layers[i].kind,
    ...candidates.flatMap(c => [treatmentOf(c, i).text, removedOf(c, i) ? percent(removedOf(c, i)) : "", data.kernels[c.ran[i]] || "not known"])]}));
  return table(columns, rows, {id: "layers"});
}
