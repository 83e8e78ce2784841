// What changes on the picture of the front with the sliders and the selection: lines, rings and names.

function updateFront() {
  for (const {c, mark} of front.marks) mark.classList.toggle("out", !state.allowed.has(c));
  byId("limits").replaceChildren(...limitLines());
  byId("rings").replaceChildren(...rings());
  byId("names").replaceChildren(...names());
}

// Value and words of the limit on an axis; null where there is none.
function limitOn(axis) {
  const {maxDrop, maxLatency, maxSize, targetSpeedup} = state.wishes;
  const floor = `floor: a drop of at most ${points(maxDrop)} points`;
  const sign = data.study.higherIsBetter ? -1 : 1;
  const found = {
    drop: [100 * maxDrop, floor],
    score: [baseline.score + sign * maxDrop, floor],
    latency: maxLatency && [maxLatency, `at most ${maxLatency} ms`],
    size: maxSize && [maxSize / 1000, `at most ${kilobytes(maxSize)} kB`],
    speedup: targetSpeedup && [targetSpeedup, `at least ${targetSpeedup}x`],
  };
  return found[axis];
}

function limitLines() {
  const {box, scales} = front, lines = [];
  const across = limitOn(front.x), upwards = limitOn(front.y);
  if (across) {
    const x = scales.x(across[0]);
    lines.push(s("line", {class: "limit", x1: x, x2: x, y1: box.top, y2: box.bottom}));
    lines.push(s("text", {class: "limit", x: x + 4, y: box.top + 12}, across[1]));
  }
  if (upwards) {
    const y = scales.y(upwards[0]);
    lines.push(s("line", {class: "limit", x1: box.left, x2: box.right, y1: y, y2: y}));
    lines.push(s("text", {class: "limit", x: box.left + 6, y: y + 14}, upwards[1]));
  }
  return lines;
}

function rings() {
  const placeOf = new Map(front.marks.map(m => [m.c, m.at]));
  const ring = (c, kind, r) => {
    if (!placeOf.has(c)) return [];
    const [cx, cy] = placeOf.get(c);
    return [s("circle", {class: `ring ${kind}`, cx, cy, r})];
  };
  return [
    ...data.candidates.filter(c => c.chosen).flatMap(c => ring(c, "chosen", 15)),
    ...ring(state.choice.candidate, "choice", 19),
    ...state.selected.flatMap((c, i) => ring(c, `selected nr${i}`, 11)),
  ];
}

const DISTANCES = [12, 22, 36, 54], WAYS = [[1, -1], [1, 1], [-1, -1], [-1, 1], [0, -1], [0, 1]];
const LETTER = 6.6, LINE = 14; // width and height of text, pixels

// Names beside their points, each at the first place where it covers the least.
function names() {
  const choice = state.choice.candidate;
  const taken = front.marks.filter(m => !isFaint(m.c)).map(({at: [x, y]}) => [x - 6, y - 6, x + 6, y + 6]);
  const named = front.marks.filter(m => m.c.shown || m.c === choice);
  return named.sort((a, b) => rank(b.c) - rank(a.c)).flatMap(({c, at}) => {
    const text = c === choice && !c.chosen ? `your choice: ${shortName(c)}` : c.shown;
    const {area, far} = bestPlace(at, LETTER * text.length, taken);
    taken.push(area);
    const [left, top, right] = area, kind = c === choice || c.chosen ? "name strong" : "name";
    const leader = {class: "leader", x1: at[0], y1: at[1], x2: (left + right) / 2, y2: top + LINE / 2};
    return [...(far > 30 ? [s("line", leader)] : []), s("text", {class: kind, x: left, y: top + 11}, text)];
  });
}

function bestPlace([x, y], width, taken) {
  let best = null;
  for (const far of DISTANCES)
    for (const [dx, dy] of WAYS) {
      const left = x + dx * far - width * (1 - dx) / 2, top = y + dy * far - LINE / 2;
      const area = [left, top, left + width, top + LINE], cost = costOf(area, taken);
      if (!best || cost < best.cost) best = {area, far, cost};
    }
  return best;
}

// Pixels that a name would cover, and ten times those by which it would leave the picture.
function costOf(area, taken) {
  const overlap = ([left, top, right, bottom]) =>
    Math.max(0, Math.min(area[2], right) - Math.max(area[0], left))
    * Math.max(0, Math.min(area[3], bottom) - Math.max(area[1], top));
  const {left, top, right, bottom} = front.box, whole = (area[2] - area[0]) * (area[3] - area[1]);
  return 10 * (whole - overlap([left, top, right, bottom])) + taken.reduce((sum, other) => sum + overlap(other), 0);
}
