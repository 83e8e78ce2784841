// Sliders for the floor, latency, size and speed-up, and the choice that follows from them.

const STEPS = 200;

// Each limit: its wish, its words, how many units of the wish one of the field is, the digits of the field, whether it
// is a lower limit, its flag of `autocompress choose`, and both ends of its slider.
const LIMITS = [
  {
    wish: "maxDrop", title: "Floor: largest drop", unit: "points", perUnit: 0.01, digits: 3, isLeast: false,
    flag: "--max-drop", ends: () => [0, floorTop()],
  },
  {
    wish: "maxLatency", title: "Largest latency", unit: "ms", perUnit: 1, digits: 4, isLeast: false,
    flag: "--max-latency-ms", ends: () => rangeOf(data.candidates.map(c => c.latency[0])),
  },
  {
    wish: "maxSize", title: "Largest size", unit: "kB", perUnit: 1000, digits: 1, isLeast: false,
    flag: "--max-size-bytes", ends: () => rangeOf(data.candidates.map(c => c.size)),
  },
  {
    wish: "targetSpeedup", title: "Least speed-up", unit: "x", perUnit: 1, digits: 2, isLeast: true,
    flag: "--target-speedup", ends: () => [0, rangeOf(data.candidates.map(c => c.speedup[0]))[1]],
  },
];

// A round number above the drops that the picture shows, and above three times the floor.
function floorTop() {
  const [, largest] = rangeOf(data.candidates.map(c => c.drop[0]));
  const top = Math.max(3 * data.study.maxDrop, Math.min(data.edge ?? Infinity, largest), 0.005);
  const power = 10 ** Math.floor(Math.log10(top));
  return Number((Math.ceil(top / power - 1e-9) * power).toPrecision(6));
}

// The wish at a place of the slider; its loose end means no wish, but for the floor, which a study always has.
function wishAt(limit, place) {
  if (limit.wish !== "maxDrop" && place === (limit.isLeast ? 0 : STEPS)) return null;
  const [low, high] = limit.ends();
  return rounded(limit, low + (high - low) * place / STEPS);
}

// To the digits of the field, towards the loose side, so that the strict end of a slider still allows somebody.
function rounded(limit, value) {
  const step = limit.perUnit / 10 ** limit.digits, n = value / step;
  const whole = limit.wish === "maxDrop" ? Math.round(n) : limit.isLeast ? Math.floor(n + 1e-9) : Math.ceil(n - 1e-9);
  return Number((whole * step).toPrecision(10));
}

function placeOf(limit, wish) {
  if (wish === null) return limit.isLeast ? 0 : STEPS;
  const [low, high] = limit.ends();
  return Math.round(STEPS * Math.max(0, Math.min(1, (wish - low) / (high - low || 1))));
}

function drawLimits() {
  byId("limits-form").replaceChildren(...LIMITS.map(limitRow));
}

function limitRow(limit) {
  const id = `limit-${limit.wish}`, wish = state.wishes[limit.wish];
  const slider = h("input", {
    type: "range", id, min: 0, max: STEPS, step: 1, value: placeOf(limit, wish),
    "aria-valuetext": wishText(limit, wish),
  });
  const field = h("input", {
    type: "number", id: `${id}-value`, min: 0, step: "any", placeholder: "no limit", value: fieldText(limit, wish),
    "aria-label": `${limit.title}, ${limit.unit}`,
  });
  slider.addEventListener("input", () => {
    const value = wishAt(limit, Number(slider.value));
    field.value = fieldText(limit, value);
    slider.setAttribute("aria-valuetext", wishText(limit, value));
    wishFor({[limit.wish]: value});
  });
  field.addEventListener("input", () => {
    const value = typed(limit, field.value);
    if (value === undefined) return;
    slider.value = placeOf(limit, value);
    wishFor({[limit.wish]: value});
  });
  const unit = h("span", {class: "unit"}, limit.unit), label = h("label", {for: id}, limit.title);
  return h("div", {class: "limit-row"}, label, slider, h("span", {class: "field"}, field, unit));
}

// The wish that a text means; an empty one means none, or the floor of the study. Undefined for what cannot be wished.
function typed(limit, text) {
  const isFloor = limit.wish === "maxDrop";
  if (text === "") return isFloor ? data.study.maxDrop : null;
  const value = Number((Number(text) * limit.perUnit).toPrecision(10));
  return value > 0 || (isFloor && value === 0) ? value : undefined;
}

function fieldText(limit, wish) {
  return wish === null ? "" : String(Number((wish / limit.perUnit).toFixed(limit.digits)));
}

function wishText(limit, wish) {
  return wish === null ? "no limit" : `${fieldText(limit, wish)} ${limit.unit}`;
}

// The command that makes the choice of the sliders real.
function chooseCommand() {
  const {wishes} = state, asked = LIMITS.filter(limit => wishes[limit.wish] !== null);
  const text = ({wish}) => (wish === "maxSize" ? Math.floor(wishes[wish]) : wishes[wish]);
  return ["autocompress choose", studyFolder(), ...asked.map(limit => `${limit.flag} ${text(limit)}`)].join(" ");
}

function drawChoice() {
  const {candidate: c, meets, reason} = state.choice;
  const verdict = meets ? "✓ keeps every limit" : "✗ no candidate keeps every limit; this one comes nearest";
  byId("choice").replaceChildren(
    h("p", {class: "label"}, c.chosen ? "With these limits: the model that is in chosen/" : "With these limits"),
    h("p", {class: "picked"}, h("button", {type: "button", class: "open", onclick: () => select(c)}, shortName(c))),
    h("p", {class: meets ? "good" : "bad"}, verdict),
    h("p", {}, `${c.cells.speedup} · drop ${c.cells.drop} points · ${c.cells.size} kB`),
    h("p", {class: "note"}, `${reason[0].toUpperCase()}${reason.slice(1)}.`),
    commandLine(chooseCommand()));
}
