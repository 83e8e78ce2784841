// All candidates as a table: sorted by any column, filtered by text and by what they keep, copied as CSV.

// A title, the text and the value of a candidate, whether that is a word, and how it is sorted first.
const COLUMNS = [
  {title: "name", text: c => c.shown || c.digest, isWord: true},
  {title: "front", text: c => (c.front ? "yes" : "no"), isWord: true},
  {title: "rung", text: c => c.rung, isWord: true},
  {title: "speed-up", text: c => c.cells.speedup, value: c => c.speedup[0]},
  {title: "latency, ms", text: c => c.cells.latency, value: c => c.latency[0]},
  {title: "drop, points", text: c => c.cells.drop, value: c => c.drop[0]},
  {title: "score", text: c => c.cells.score, value: c => c.score},
  {title: "size, kB", text: c => c.cells.size, value: c => c.size},
  {title: "zipped, kB", text: c => c.cells.zipped, value: c => c.zipped ?? 0},
  {title: "MACs", text: c => c.cells.macs, value: c => c.macs},
  {title: "recipe", text: c => c.brief, isWord: true},
].filter(({title}) => title !== "zipped, kB" || data.candidates.some(c => c.zipped));
const PAGE = 60; // rows that are shown at first
const SPEED = 3;

const list = {by: SPEED, isRising: false, words: [], which: "all", showAll: false};

function shownRows() {
  const wanted = {all: () => true, front: c => c.front, limits: c => state.allowed.has(c)}[list.which];
  const has = c => list.words.every(word => c.haystack.includes(word));
  const {text, value = text} = COLUMNS[list.by], sign = list.isRising ? 1 : -1;
  const compare = (a, b) => (value(a) < value(b) ? -sign : value(a) > value(b) ? sign : 0);
  return data.candidates.filter(c => wanted(c) && has(c)).sort(compare);
}

function drawTable() {
  const rows = shownRows(), visible = list.showAll ? rows : rows.slice(0, PAGE), more = byId("more");
  byId("heads").replaceChildren(...COLUMNS.map(tableHead), h("td", {}, h("span", {class: "spoken"}, "compare")));
  byId("rows").replaceChildren(...visible.map(tableRow));
  byId("count").textContent = `${rows.length} of ${data.candidates.length}`;
  more.hidden = visible.length === rows.length;
  more.textContent = `Show all ${rows.length}`;
}

function tableHead({title, isWord}, i) {
  const order = i !== list.by ? "none" : list.isRising ? "ascending" : "descending";
  const arrow = h("span", {"aria-hidden": "true"}, {ascending: " ▲", descending: " ▼", none: ""}[order]);
  const button = h("button", {type: "button", onclick: () => sortBy(i)}, title, arrow);
  return h("th", {scope: "col", class: isWord ? "text" : "", "aria-sort": order}, button);
}

function sortBy(i) {
  list.isRising = i === list.by ? !list.isRising : Boolean(COLUMNS[i].isWord);
  list.by = i;
  drawTable();
  byId("heads").children[i].firstChild.focus();
}

function tableRow(c) {
  const kinds = {front: c.front, chosen: c.chosen, selected: state.selected.includes(c)};
  const kind = Object.keys(kinds).filter(name => kinds[name]).join(" ");
  const name = shortName(c), label = `Compare ${name} with the open one`;
  const open = h("button", {type: "button", class: "open", onclick: () => select(c)}, (c.chosen ? "★ " : "") + name);
  const beside = {type: "button", "aria-label": label, title: label, onclick: () => select(c, true)};
  const cells = COLUMNS.map(({text, isWord}, i) => h("td", {class: isWord ? "text" : ""}, i ? text(c) : open));
  return h("tr", {class: kind, "data-digest": c.digest}, cells, h("td", {}, h("button", beside, "⇄")));
}

// The rows that the table shows, with numbers as numbers.
function csv() {
  const head = ["digest", "label", "front", "chosen", "rung", "speedup", "speedup_low", "speedup_high", "latency_ms",
    "drop", "drop_low", "drop_high", "score", "size_bytes", "zipped_bytes", "macs", "recipe"];
  const rows = shownRows().map(c => [c.digest, c.label, c.front, c.chosen, c.rung, ...c.speedup, c.latency[0],
    ...c.drop, c.score, c.size, c.zipped ?? "", c.macs, c.brief]);
  return [head, ...rows].map(row => `${row.map(csvCell).join(",")}\r\n`).join("");
}

// A text that a spreadsheet could take for a formula gets a quote in front.
function csvCell(value) {
  if (typeof value !== "string") return String(value);
  const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function listenToTable() {
  byId("filter").addEventListener("input", event => {
    list.words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    drawTable();
  });
  byId("which").addEventListener("change", event => {
    list.which = event.target.value;
    drawTable();
  });
  byId("more").addEventListener("click", () => {
    list.showAll = true;
    drawTable();
  });
  byId("csv").replaceWith(copyButton("Copy as CSV", csv));
}
