// The picture of the front: a marker a candidate, axes to choose, limits as lines.

const AXES = {
  speedup: {title: "speed-up over FP32, times", isLess: false, ends: c => c.speedup},
  latency: {title: "latency, ms", isLess: true, ends: c => c.latency},
  size: {title: "size, kB", isLess: true, ends: c => Array(3).fill(c.size / 1000)},
  drop: {title: "accuracy drop, points (higher up is better)", isLess: true, ends: c => c.drop.map(v => 100 * v)},
  score: {
    title: `${data.study.score} (higher up is better)`,
    isLess: !data.study.higherIsBetter,
    ends: c => scoreEnds(c),
  },
};
const RADIUS = 13, LEAST_RADIUS = 4.5; // of the baseline, and of whatever is much smaller; pixels

// What is drawn: a mark is {c, at, mark}, a candidate with its place and its element.
const front = {
  x: "speedup", y: "drop", bySize: true, showAll: false, zoom: null, focus: null, hovered: null, marks: [],
};

// The score with the interval of the drop, turned to the side of the score.
function scoreEnds(c) {
  const sign = data.study.higherIsBetter ? -1 : 1, [value, low, high] = c.drop;
  const ends = [c.score + sign * (high - value), c.score + sign * (low - value)];
  return [c.score, Math.min(...ends), Math.max(...ends)];
}

// Whether a candidate is so far below the floor that it waits at the edge of the picture.
function isBeyond(c) {
  if (front.showAll || front.y === "size" || data.edge === null) return false;
  return c.drop[0] > data.edge && !c.chosen && c.kind !== "baseline";
}

function isFaint(c) {
  return !c.front && !c.shown;
}

// Both ends of an axis, so that every value of `candidates` and the intervals of those that matter are inside.
function ends(axis, candidates) {
  const values = candidates.flatMap(c => (isFaint(c) ? AXES[axis].ends(c).slice(0, 1) : AXES[axis].ends(c)));
  if (axis === "drop") values.push(0, 100 * data.study.maxDrop);
  return padded(values);
}

function drawFront() {
  const holder = byId("front"), height = holder.clientWidth < 560 ? 400 : 520;
  const across = AXES[front.x], upwards = AXES[front.y];
  const {svg, box} = canvas(holder, height, `Candidates: ${upwards.title} against ${across.title}`);
  const xEnds = front.zoom?.x ?? ends(front.x, data.candidates);
  const yEnds = front.zoom?.y ?? ends(front.y, data.candidates.filter(c => !isBeyond(c)));
  const x = scale(...xEnds, box.left, box.right);
  const y = upwards.isLess ? scale(...yEnds, box.top, box.bottom) : scale(...yEnds, box.bottom, box.top);
  Object.assign(front, {box, scales: {x, y}, hovered: null});
  const area = {x: box.left, y: box.top, width: box.right - box.left, height: box.bottom - box.top};
  svg.append(
    s("clipPath", {id: "inside"}, s("rect", area)),
    frame(box,
      {scale: x, ticks: ticks(...xEnds, Math.max(3, Math.round(box.right / 90))), title: across.title},
      {scale: y, ticks: ticks(...yEnds, 7), title: upwards.title}),
    s("g", {"clip-path": "url(#inside)"}, stairs(x, y), s("g", {id: "limits"})),
    ...drawMarks(),
    s("g", {id: "rings", "aria-hidden": "true"}),
    s("g", {id: "names", "aria-hidden": "true"}),
  );
  byId("better").textContent = `Better: up and to the ${across.isLess ? "left" : "right"}.`;
  offerView();
  updateFront();
  listenToFront(svg);
}

// The line of those that no other beats in the two values shown, as steps.
function stairs(x, y) {
  const across = AXES[front.x], upwards = AXES[front.y];
  const costs = data.candidates.map(c => [across, upwards].map(a => (a.isLess ? 1 : -1) * a.ends(c)[0]));
  costs.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  const line = [];
  for (const cost of costs) if (!line.length || cost[1] < line.at(-1)[1]) line.push(cost);
  const places = line.map(([a, b]) => [x(across.isLess ? a : -a), y(upwards.isLess ? b : -b)]);
  const steps = places.flatMap((place, i) => (i ? [[place[0], places[i - 1][1]], place] : [place]));
  return s("path", {class: "stairs", d: path(steps), "aria-hidden": "true"});
}

// Bars and markers of all candidates inside the picture, those that matter most on top.
function drawMarks() {
  const bars = s("g", {class: "bars", "clip-path": "url(#inside)", "aria-hidden": "true"}), marks = s("g");
  const {box, scales: {x, y}} = front;
  front.marks = [];
  for (const c of [...data.candidates].sort((a, b) => rank(a) - rank(b))) {
    const xs = AXES[front.x].ends(c).map(x), ys = AXES[front.y].ends(c).map(y);
    const at = [xs[0], isBeyond(c) ? box.bottom - 7 : ys[0]];
    if (at[0] < box.left - 1 || at[0] > box.right + 1 || at[1] < box.top - 1 || at[1] > box.bottom + 1) continue;
    const d = `M${xs[1]} ${at[1]}H${xs[2]}M${at[0]} ${ys[1]}V${ys[2]}`;
    if (!isBeyond(c)) bars.append(s("path", {class: isFaint(c) ? "faint" : c.kind, d}));
    front.marks.push({c, at, mark: markOf(c, at)});
  }
  marks.append(...front.marks.map(m => m.mark));
  front.marks.sort((a, b) => a.at[0] - b.at[0] || a.at[1] - b.at[1]);
  front.focus = front.marks.find(m => m.c === state.selected[0]) ?? front.marks[0] ?? null;
  front.focus?.mark.setAttribute("tabindex", 0);
  return [bars, marks];
}

function markOf(c, [x, y]) {
  return s("path", {
    class: `mark-of ${c.kind} ${c.front ? "member" : "beaten"}${isFaint(c) ? " faint" : ""}`,
    d: isBeyond(c) ? TRIANGLE : shape(c.kind, radius(c)),
    transform: `translate(${x} ${y})`,
    tabindex: -1,
    role: "button",
    "aria-label": spoken(c),
    "data-digest": c.digest,
  });
}

// Later ones are drawn above earlier ones.
function rank(c) {
  return 4 * c.chosen + 2 * Boolean(c.shown) + c.front;
}

function radius(c) {
  return front.bySize ? Math.max(LEAST_RADIUS, RADIUS * Math.sqrt(c.size / baseline.size)) : 6;
}

function spoken(c) {
  const {speedup, drop, size} = c.cells, place = c.front ? "on the front" : "dominated";
  return `${shortName(c)}, ${place}: speed-up ${speedup}, drop ${drop} points, size ${size} kB`;
}

function tipLines(c) {
  const {cells} = c, zipped = cells.zipped ? `, zipped ${cells.zipped} kB` : "";
  return [
    c.shown && !c.shown.includes(c.digest) ? `${c.shown} (${c.digest})` : shortName(c),
    `speed-up ${cells.speedup}, ${cells.pairs} pairs${c.noisy ? ", noisy" : ""}`,
    `latency ${cells.latency} ms`,
    `drop ${cells.drop} points`,
    ...(cells.held ? [`drop on samples for the choice ${cells.held} points`] : []),
    `score ${cells.score} (torch ${cells.torch})`,
    `size ${cells.size} kB${zipped}`,
    c.brief,
    c.front ? "on the front" : "dominated",
  ];
}

// The button for what the picture leaves out.
function offerView() {
  const n = data.candidates.filter(isBeyond).length, button = byId("beyond");
  button.hidden = !n && !front.showAll && !front.zoom;
  button.textContent = n && !front.zoom ? `▽ ${n} with larger drops: show all` : "Reset the view";
}
