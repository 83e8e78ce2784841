// All candidates as a table: sorted by any column, filtered by text and by what they keep, copied as CSV.

const COLUMNS = [
  ["name", c => c.shown || c.digest, c => c.shown || c.digest, "text"],
  ["front", c => (c.front ? "yes" : "no"), c => c.front, "text"],
  ["rung", c => c.rung, c => c.rung, "text"],
  ["speed-up", c => c.cells.speedup, c => c.speedup[0], ""],
  ["latency, ms", c => c.cells.latency, c => c.latency[0], ""],
  ["drop, points", c => c.cells.drop, c => c.drop[0], ""],
  ["score", c => c.cells.score, c => c.score, ""],
  ["size, kB", c => c.cells.size, c => c.size, ""],
  ["zipped, kB", c => c.cells.zipped, c => c.zipped ?? 0, ""],
  ["MACs", c => c.cells.macs, c => c.macs, ""],
  ["recipe", c => c.brief, c => c.brief, "text"],
].filter(([title]) => title !== "zipped, kB" || data.candidates.some(c => c.zipped));
const PAGE = 60;

const list = {by: 3, rising: false, text: "", which: "all", all: false};

function shownRows() {
  const words = list.text.toLowerCase().split(/\s+/).filter(Boolean);
  const wanted = {all: () => true, front: c => c.front, limits: c => state.allowed.has(c)}[list.which];
  const has = c => words.every(word => c.haystack.includes(word));
  const value = COLUMNS[list.by][2], sign = list.rising ? 1 : -1;
  const compare = (a, b) => (value(a) < value(b) ? -sign : value(a) > value(b) ? sign : 0);
  return data.candidates.filter(c => wanted(c) && has(c)).sort(compare);
}

function drawTable() {
  const rows = shownRows(), visible = list.all ? rows : rows.slice(0, PAGE);
  byId("rows").replaceChildren(...visible.map(tableRow));
  byId("count").textContent = `${rows.length} of ${data.candidates.length}`;
  const more = byId("more");
  more.hidden = visible.length === rows.length;
  more.textContent = `Show all ${rows.length}`;
  byId("heads").replaceChildren(...COLUMNS.map(tableHead), h("th", {scope: "col"}, h("span", {class: "spoken"}, "compare")));
}

function tableHead([title, , , kind], i) {
  const order = i === list.by ? (list.rising ? "ascending" : "descending") : "none";
  const arrow = {ascending: " ▲", descending: " ▼", none: ""}[order];
  return h("th", {scope: "col", class: kind, "aria-sort": order}, h("button", {type: "button", onclick: () => sortBy(i)}, title, h("span", {"aria-hidden": "true"}, arrow)));
}

function sortBy(i) {
  list.rising = i === list.by ? !list.rising : i < 3 || i > 9;
  list.by = i;
  drawTable();
  byId("heads").children[i].firstChild.focus();
}

function tableRow(c) {
  const kinds = [c.front ? "front" : "", c.chosen ? "chosen" : "", state.selected.includes(c) ? "selected" : ""].filter(Boolean).join(" ");
  const name = h("button", {type: "button", class: "open", onclick: () => select(c)}, (c.chosen ? "★ " : "") + (c.shown || c.digest));
  const cells = COLUMNS.map(([, text, , kind], i) => h("td", {class: kind}, i ? text(c) : name));
  const compare = h("button", {type: "button", "aria-label": `Compare ${c.shown || c.digest} with the open one`, onclick: () => select(c, true)}, "⇄");
  return h("tr", {class: kinds, "data-digest": c.digest}, cells, h("td", {}, compare));
}

// The rows that the table shows, numbers as numbers; texts that a spreadsheet could take for a formula get a quote.
function csv() {
  const head = ["digest", "label", "front", "chosen", "rung", "speedup", "speedup_low", "speedup_high", "latency_ms",
    "drop", "drop_low", "drop_high", "score", "size_bytes", "zipped_bytes", "macs", "recipe"];
  const rows = shownRows().map(c => [c.digest, c.label, c.front, c.chosen, c.rung, ...c.speedup, c.latency[0], ...c.drop, c.score, c.size, c.zipped ?? "", c.macs, c.brief]);
  return [head, ...rows].map(row => row.map(csvCell).join(",")).join("\r\n") + "\r\n";
}

function csvCell(value) {
  if (typeof value !== "string") return String(value);
  const text = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

function listenToTable() {
  byId("filter").addEventListener("input", event => { list.text = event.target.value; drawTable(); });
  byId("which").addEventListener("change", event => { list.which = event.target.value; drawTable(); });
  byId("more").addEventListener("click", () => { list.all = true; drawTable(); });
  byId("csv").replaceWith(copyButton("Copy as CSV", csv));
}
