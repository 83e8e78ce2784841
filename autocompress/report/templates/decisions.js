// What each decision gained and cost, and what the next choices would have been.

function decisions(candidates) {
  const known = candidates.filter(c => c.decisions), [first, second] = candidates;
  return [...(known.length ? decisionTable(known) : []), ...(second ? [] : alternatives(first))];
}

// Against the gentlest choice of each unit: a bar and a number each; with two candidates only units that differ.
function decisionTable(known) {
  const units = data.units.sensitivity, [first, second] = known;
  const isShown = i => !second || first.decisions[0][i] !== second.decisions[0][i];
  const kept = units.map((_, i) => i).filter(isShown);
  const tops = [1, 2, 3].map(k => Math.max(1e-12, ...known.flatMap(c => c.decisions[k].map(Math.abs))));
  const titles = [["choice", "text"], ["costs, points", "bar"], ["saves, ms", "bar"], ["saves, kB", "bar"]];
  const prefix = c => (second ? `${shortName(c)}: ` : "");
  const columns = [["unit", "text"], ...known.flatMap(c => titles.map(([title, kind]) => [prefix(c) + title, kind]))];
  const rows = kept.map(i => ({cells: [units[i].unit, ...known.flatMap(c => decisionCells(c, i, tops))]}));
  return [
    h("h3", {}, second ? "Decisions that differ: what each gains and costs" : "What each decision gained and cost"),
    kept.length ? table(columns, rows, {id: "decisions"}, "tall") : h("p", {}, "No decision differs."),
    h("p", {class: "note"}, "Predicted: one unit changed from its gentlest choice, all others as they are."),
  ];
}

function decisionCells(c, i, [mostDrop, mostTime, mostBytes]) {
  const [choices, drops, times, sizes] = c.decisions;
  return [
    data.units.sensitivity[i].choices[choices[i]],
    bar(100 * drops[i], drops[i] / mostDrop, 2, "cost"),
    bar(-times[i], -times[i] / mostTime, 3, "gain"),
    bar(-sizes[i] / 1000, -sizes[i] / mostBytes, 1, "gain"),
  ];
}

// A number in front of a bar whose length is `share` of the cell; hatched for a negative one.
function bar(value, share, digits, kind) {
  const style = `--fill: ${(100 * Math.abs(share)).toFixed(1)}%`;
  return h("span", {class: `bar ${kind}${value < 0 ? " negative" : ""}`, style}, plain(value, digits));
}

// The next cheaper and the next gentler choice of each unit; known for the chosen candidate only.
function alternatives(c) {
  if (!data.units.rows.length || c.digest !== data.units.explained) return [];
  const isText = i => [0, 1, 4, 7].includes(i);
  const columns = data.units.head.map((title, i) => [title, isText(i) ? "text" : ""]);
  return [h("details", {},
    h("summary", {}, "What the next cheaper and the next gentler choice of each unit would have been"),
    table(columns, data.units.rows.map(cells => ({cells})), {id: "units"}),
    h("p", {class: "note"}, data.units.note))];
}
