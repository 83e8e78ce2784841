// The picture of the front: a marker a candidate, axes to choose, limits as lines.

const AXES = {
  speedup: {title: "speed-up over FP32, times", better: "right", ends: c => c.speedup},
  latency: {title: "latency, ms", better: "left", ends: c => c.latency},
  size: {title: "size, kB", better: "left", ends: c => [c.size / 1000, c.size / 1000, c.size / 1000]},
  drop: {title: "accuracy drop, points (higher up is better)", better: "left", ends: c => c.drop.map(v => 100 * v)},
  score: {title: "", better: data.study.higherIsBetter ? "right" : "left", ends: scoreEnds},
};
const RADIUS = 13, LEAST_RADIUS = 4.5; // of the baseline, and of whatever is much smaller; pixels

const front = {x: "speedup", y: "drop", bySize: true, showAll: false, zoom: null, focus: null, marks: []};

// The score with the interval of the drop, turned to the side of the score.
function scoreEnds(c) {
  const sign = data.study.higherIsBetter ? -1 : 1, [value, low, high] = c.drop;
  const ends = [c.score + sign * (high - value), c.score + sign * (low - value)];
  return [c.score, Math.min(...ends), Math.max(...ends)];
}

// The value of the y axis beyond which candidates are pinned to its edge; null where all are shown.
function edgeOf(axis) {
  if (front.showAll || data.edge === null) return null;
  if (axis === "drop") return 100 * data.edge;
  if (axis === "score") return baseline.score + (data.study.higherIsBetter ? -1 : 1) * data.edge;
  return null;
}

function isBeyond(c, edge) {
  return edge !== null && c.drop[0] > data.edge && !c.chosen && c.kind !== "baseline";
}

// Whether smaller values are drawn higher up.
function isReversed(axis) {
  return AXES[axis].better === "left";
}

// Both ends of an axis, so that every value and the interval of each that matters is inside; candidates beyond the
// edge are left out.
function ends(axis, edge) {
  const shown = data.candidates.filter(c => !isBeyond(c, edge));
  const values = shown.flatMap(c => (c.front || c.shown ? AXES[axis].ends(c) : [AXES[axis].ends(c)[0]]));
  if (axis === "drop") values.push(0, 100 * data.study.maxDrop);
  return padded(values.filter(Number.isFinite));
}

function drawFront() {
  const holder = byId("front"), height = holder.clientWidth < 560 ? 400 : 520;
  const {svg, box} = canvas(holder, height, `Candidates: ${AXES[front.y].title || scoreTitle()} against ${AXES[front.x].title}`);
  const edge = edgeOf(front.y);
  const [xLow, xHigh] = front.zoom ? front.zoom.x : ends(front.x, null);
  const [yLow, yHigh] = front.zoom ? front.zoom.y : ends(front.y, edge);
  const x = scale(xLow, xHigh, box.left, box.right);
  const y = isReversed(front.y) ? scale(yLow, yHigh, box.top, box.bottom) : scale(yLow, yHigh, box.bottom, box.top);
  Object.assign(front, {svg, box, scales: {x, y}, edge});
  const n = Math.max(3, Math.round(box.right / 90));
  svg.append(
    s("clipPath", {id: "inside"}, s("rect", {x: box.left, y: box.top, width: box.right - box.left, height: box.bottom - box.top})),
    frame(box, {scale: x, ticks: ticks(xLow, xHigh, n), title: AXES[front.x].title},
      {scale: y, ticks: ticks(yLow, yHigh, 7), title: AXES[front.y].title || scoreTitle()}),
    s("g", {"clip-path": "url(#inside)"}, stairs(x, y), s("g", {id: "limits"})),
  );
  drawMarks(svg, x, y, box, edge);
  svg.append(s("g", {id: "rings", "aria-hidden": "true"}), s("g", {id: "names", "aria-hidden": "true"}));
  byId("better").textContent = `Better: up and to the ${AXES[front.x].better}.`;
  noteBeyond(edge);
  updateFront();
  listenToFront(svg);
}

function scoreTitle() {
  return `${data.study.score} (higher up is better)`;
}

// The line of those that no other beats in the two values shown, as steps.
function stairs(x, y) {
  const sign = axis => (isReversed(axis) ? 1 : -1);
  const pairs = data.candidates.map(c => [sign(front.x) * AXES[front.x].ends(c)[0], sign(front.y) * AXES[front.y].ends(c)[0]]);
  pairs.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  const line = [];
  for (const pair of pairs) if (!line.length || pair[1] < line.at(-1)[1]) line.push(pair);
  const places = line.map(([a, b]) => [x(sign(front.x) * a), y(sign(front.y) * b)]);
  const steps = places.flatMap((place, i) => (i ? [[place[0], places[i - 1][1]], place] : [place]));
  return s("path", {class: "stairs", d: path(steps), "aria-hidden": "true"});
}

function drawMarks(svg, x, y, box, edge) {
  const order = [...data.candidates].sort((a, b) => rank(a) - rank(b));
  const bars = s("g", {class: "bars", "clip-path": "url(#inside)", "aria-hidden": "true"}), marks = s("g", {});
  front.marks = [];
  for (const c of order) {
    const [xs, ys] = [AXES[front.x].ends(c), AXES[front.y].ends(c)], beyond = isBeyond(c, edge);
    const at = [x(xs[0]), beyond ? box.bottom - 7 : y(ys[0])];
    if (at[0] < box.left - 1 || at[0] > box.right + 1 || at[1] < box.top - 1 || at[1] > box.bottom + 1) continue;
    const faint = !c.front && !c.shown;
    if (!beyond) bars.append(s("path", {class: faint ? "faint" : c.kind, d: `M${x(xs[1])} ${at[1]}H${x(xs[2])}M${at[0]} ${y(ys[1])}V${y(ys[2])}`}));
    const mark = s("path", {class: `mark-of ${c.kind} ${c.front ? "member" : "beaten"}${faint ? " faint" : ""}`,
      d: beyond ? TRIANGLE : shape(c.kind, radius(c)), transform: `translate(${at[0]} ${at[1]})`,
      tabindex: -1, role: "button", "aria-label": spoken(c), "data-digest": c.digest});
    marks.append(mark);
    front.marks.push({c, at, mark});
  }
  svg.append(bars, marks);
  front.marks.sort((a, b) => a.at[0] - b.at[0] || a.at[1] - b.at[1]);
  const first = front.marks.find(m => m.c === state.selected[0]) ?? front.marks[0];
  if (first) first.mark.setAttribute("tabindex", 0);
  front.focus = first ?? null;
}

// Later ones are drawn above earlier ones.
function rank(c) {
  return (c.chosen ? 8 : 0) + (c.shown ? 4 : 0) + (c.front ? 2 : 0);
}

function radius(c) {
  return front.bySize ? Math.max(LEAST_RADIUS, RADIUS * Math.sqrt(c.size / baseline.size)) : 6;
}

function spoken(c) {
  const place = c.front ? "on the front" : "dominated";
  return `${c.shown || c.digest}, ${place}: speed-up ${c.cells.speedup}, drop ${c.cells.drop} points, size ${c.cells.size} kB`;
}

function tipLines(c) {
  const zipped = c.cells.zipped ? `, zipped ${c.cells.zipped} kB` : "";
  return [
    c.shown && !c.shown.includes(c.digest) ? `${c.shown} (${c.digest})` : c.shown || c.digest,
    `speed-up ${c.cells.speedup}, ${c.cells.pairs} pairs${c.noisy ? ", noisy" : ""}`,
    `latency ${c.cells.latency} ms`,
    `drop ${c.cells.drop} points`,
    c.cells.held ? `drop on samples for the choice ${c.cells.held} points` : null,
    `score ${c.cells.score} (torch ${c.cells.torch})`,
    `size ${c.cells.size} kB${zipped}`,
    c.brief,
    c.front ? "on the front" : "dominated",
  ].filter(line => line !== null);
}

// What changes with the sliders and the selection, without drawing all candidates again.
function updateFront() {
  for (const {c, mark} of front.marks) mark.classList.toggle("out", !state.allowed.has(c));
  byId("limits").replaceChildren(...limitLines());
  byId("rings").replaceChildren(...rings());
  byId("names").replaceChildren(...names());
}

function limitLines() {
  const {maxDrop, maxLatency, maxSize, targetSpeedup} = state.wishes;
  const at = {drop: maxDrop && 100 * maxDrop, latency: maxLatency, size: maxSize && maxSize / 1000, speedup: targetSpeedup};
  if (maxDrop === 0) at.drop = 0;
  if (maxDrop !== null) at.score = baseline.score + (data.study.higherIsBetter ? -maxDrop : maxDrop);
  const said = {drop: v => `floor: a drop of at most ${v.toFixed(2)} points`, score: () => `floor: a drop of at most ${points(maxDrop)} points`,
    latency: v => `at most ${v} ms`, size: v => `at most ${grouped(v, 1)} kB`, speedup: v => `at least ${v}x`};
  const {box, scales} = front, lines = [];
  for (const way of ["x", "y"]) {
    const value = at[front[way]];
    if (value === null || value === undefined) continue;
    const place = scales[way](value), text = said[front[way]](value);
    const line = way === "y" ? {x1: box.left, x2: box.right, y1: place, y2: place} : {x1: place, x2: place, y1: box.top, y2: box.bottom};
    const label = way === "y" ? {x: box.left + 6, y: place + 14} : {x: place + 4, y: box.top + 12};
    lines.push(s("line", {class: "limit", ...line}), s("text", {class: "limit", ...label}, text));
  }
  return lines;
}

function rings() {
  const ring = (c, kind, r) => front.marks.filter(m => m.c === c).map(m => s("circle", {class: kind, cx: m.at[0], cy: m.at[1], r}));
  return [
    ...data.candidates.filter(c => c.chosen).flatMap(c => ring(c, "ring chosen", 15)),
    ...ring(state.choice.candidate, "ring choice", 19),
    ...state.selected.flatMap((c, i) => ring(c, `ring selected nr${i}`, 12)),
  ];
}

// Names beside their points, each at the first place where it covers the least.
function names() {
  const {box} = front, choice = state.choice.candidate;
  const named = front.marks.filter(m => m.c.shown || m.c === choice);
  const taken = front.marks.filter(m => m.c.front || m.c.shown).map(m => [m.at[0] - 6, m.at[1] - 6, m.at[0] + 6, m.at[1] + 6]);
  return named.flatMap(({c, at}) => {
    const text = c === choice && !c.chosen ? `your choice: ${c.shown || c.digest}` : c.shown;
    const width = 6.6 * text.length, places = [];
    for (const far of [12, 22, 36, 54])
      for (const [dx, dy] of [[1, -1], [1, 1], [-1, -1], [-1, 1], [0, -1], [0, 1]]) {
        const left = at[0] + dx * far - (dx < 0 ? width : dx === 0 ? width / 2 : 0), top = at[1] + dy * far - 7;
        places.push({far, area: [left, top, left + width, top + 14]});
      }
    const best = places.reduce((a, b) => (cost(b.area, taken, box) < cost(a.area, taken, box) ? b : a));
    taken.push(best.area);
    const [left, top, right] = best.area, kind = c === choice || c.chosen ? "name strong" : "name";
    const leader = best.far > 30 ? [s("line", {class: "leader", x1: at[0], y1: at[1], x2: (left + right) / 2, y2: top + 7})] : [];
    return [...leader, s("text", {class: kind, x: left, y: top + 11}, text)];
  });
}

function cost(area, taken, box) {
  const overlap = ([l, t, r, b]) => Math.max(0, Math.min(area[2], r) - Math.max(area[0], l)) * Math.max(0, Math.min(area[3], b) - Math.max(area[1], t));
  const inside = overlap([box.left, box.top, box.right, box.bottom]);
  const outside = (area[2] - area[0]) * (area[3] - area[1]) - inside;
  return 10 * outside + taken.reduce((sum, other) => sum + overlap(other), 0);
}

function noteBeyond(edge) {
  const n = data.candidates.filter(c => isBeyond(c, edge)).length;
  const button = byId("beyond");
  button.hidden = !n && !front.showAll && !front.zoom;
  button.textContent = n && !front.zoom ? `▽ ${n} with larger drops: show all` : "Reset the view";
}
