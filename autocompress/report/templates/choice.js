// The rule of autocompress/pareto.py: which candidate a study chooses for given wishes. Tests compare both.
// A candidate has speedup, seen and held (or null) as [value, low, high]: the drop on samples that the search saw, and on
// those that it did not; latency likewise, and size in bytes.
// Wishes are maxDrop, maxLatency (ms), maxSize (bytes) and targetSpeedup; null means no wish.

// Upper bound of a drop; `factor` is the normal quantile of its chance.
function boundAt(drop, factor, rule) {
  return drop[0] + Math.max(0, drop[2] - drop[0]) * factor / rule.half;
}

function boundOf(candidate, rule) {
  return candidate.held
    ? boundAt(candidate.held, rule.chances[0], rule)
    : boundAt(candidate.seen, rule.compared, rule);
}

// Wishes about speed and size that a candidate breaks: a sentence and the relative excess of each.
function otherViolations(candidate, wishes) {
  const broken = [];
  const {maxLatency, maxSize, targetSpeedup} = wishes;
  const ms = candidate.latency[0], speedup = candidate.speedup[0];
  if (maxLatency !== null && ms > maxLatency)
    broken.push([`its latency is ${ms.toFixed(3)} ms, above ${maxLatency} ms`, ms / maxLatency - 1]);
  if (maxSize !== null && candidate.size > maxSize)
    broken.push([`its size is ${candidate.size} bytes, above ${maxSize} bytes`, candidate.size / maxSize - 1]);
  if (targetSpeedup !== null && speedup < targetSpeedup)
    broken.push([`its speed-up is ${speedup.toFixed(2)}x, below ${targetSpeedup}x`, targetSpeedup / speedup - 1]);
  return broken;
}

function violations(candidate, wishes, rule) {
  const broken = [], bound = boundOf(candidate, rule), floor = wishes.maxDrop;
  if (floor !== null && bound > floor)
    broken.push([
      `the bound on its drop is ${points(bound)} points, above the floor of ${points(floor)}`,
      (bound - floor) / Math.max(floor, 0.01),
    ]);
  return broken.concat(otherViolations(candidate, wishes));
}

// Those that keep every wish: tested one by one from the slowest upwards, until a second bound fails.
function keeping(candidates, wishes, rule) {
  const allowed = candidates.filter(c => !otherViolations(c, wishes).length);
  const kept = allowed.filter(c => (c.identity || !c.held) && !violations(c, wishes, rule).length);
  const chances = [...rule.chances];
  const fastest = kept.reduce((most, c) => Math.max(most, c.speedup[0]), 0);
  const order = [...allowed].sort((a, b) => a.speedup[0] - b.speedup[0] || a.seen[0] - b.seen[0]);
  for (const c of order) {
    if (!c.held || c.identity || c.speedup[0] < fastest || !isWorthATest(c, order, wishes, rule)) continue;
    if (wishes.maxDrop === null || boundAt(c.held, chances[0], rule) <= wishes.maxDrop) kept.push(c);
    else if (chances.length > 1) chances.shift();
    else break;
  }
  return kept;
}

// Whether it may keep the floor and no faster one surely loses less, by the data that the search saw; not if its drop is
// above the floor by more than its standard error.
function isWorthATest(c, others, wishes, rule) {
  const standardError = (c.seen[2] - c.seen[1]) / (2 * rule.half);
  if (wishes.maxDrop !== null && c.seen[0] - standardError > wishes.maxDrop) return false;
  return !others.some(other => other.speedup[0] > c.speedup[0] && other.seen[2] < c.seen[1]);
}

// The fastest that keeps every wish, of equal ones the smallest; else the one that breaks them least.
function choose(candidates, wishes, rule) {
  const kept = keeping(candidates, wishes, rule);
  if (kept.length) {
    const best = kept.reduce((a, b) => (isBetter(b, a) ? b : a));
    return {candidate: best, meets: true, reason: `the fastest of ${kept.length} that keep every bound`};
  }
  const excess = candidates.map(c => violations(c, wishes, rule).reduce((sum, [, part]) => sum + part, 0));
  const nearest = candidates[excess.indexOf(Math.min(...excess))];
  const broken = violations(nearest, wishes, rule).map(([sentence]) => sentence).join("; ");
  const reason = broken || "slower ones failed first, or the search's own samples rule it out";
  return {candidate: nearest, meets: false, reason: `no candidate keeps every bound; of the nearest, ${reason}`};
}

function isBetter(a, b) {
  return a.speedup[0] > b.speedup[0] || (a.speedup[0] === b.speedup[0] && a.size < b.size);
}
