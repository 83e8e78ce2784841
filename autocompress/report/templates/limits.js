// Sliders for the floor, latency, size and speed-up, and the choice that follows from them.

const STEPS = 200;

// Each limit: its wish, unit, how a value reads in the field and in the command, and the ends of its slider.
const LIMITS = [
  {wish: "maxDrop", title: "Floor: largest drop", unit: "points", digits: 3, perUnit: 0.01, isLeast: false, flag: "--max-drop",
    ends: () => [0, niceTop(Math.max(3 * data.study.maxDrop, Math.min(data.edge ?? Infinity, most(c => c.drop[0])), 0.005))]},
  {wish: "maxLatency", title: "Largest latency", unit: "ms", digits: 4, perUnit: 1, isLeast: false, flag: "--max-latency-ms",
    ends: () => [least(c => c.latency[0]), most(c => c.latency[0])]},
  {wish: "maxSize", title: "Largest size", unit: "kB", digits: 1, perUnit: 1000, isLeast: false, flag: "--max-size-bytes",
    ends: () => [least(c => c.size), most(c => c.size)]},
  {wish: "targetSpeedup", title: "Least speed-up", unit: "x", digits: 2, perUnit: 1, isLeast: true, flag: "--target-speedup",
    ends: () => [0, most(c => c.speedup[0])]},
];

function least(value) {
  return data.candidates.reduce((found, c) => Math.min(found, value(c)), Infinity);
}

function most(value) {
  return data.candidates.reduce((found, c) => Math.max(found, value(c)), -Infinity);
}

function niceTop(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return Number((Math.ceil(value / power - 1e-9) * power).toPrecision(6));
}

// The wish at a place of the slider; its loose end means no wish, but for the floor, which a study always has.
function wishAt(limit, place) {
  if (limit.wish !== "maxDrop" && place === (limit.isLeast ? 0 : STEPS)) return null;
  const [low, high] = limit.ends(), value = low + (high - low) * place / STEPS;
  return rounded(limit, limit.isLeast ? Math.floor(value * 100) / 100 : value);
}

// As many digits as the field shows, upwards for upper limits so that the slider's lowest place allows somebody.
function rounded(limit, value) {
  const step = limit.perUnit / 10 ** limit.digits, shares = value / step;
  const whole = limit.isLeast || limit.wish === "maxDrop" ? Math.round(shares) : Math.ceil(shares - 1e-9);
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
  const field = h("input", {type: "number", id: `${id}-value`, min: 0, step: "any", placeholder: "no limit", value: fieldText(limit, wish), "aria-label": `${limit.title}, ${limit.unit}`});
  const slider = h("input", {type: "range", id, min: 0, max: STEPS, step: 1, value: placeOf(limit, wish), "aria-valuetext": wishText(limit, wish)});
  slider.addEventListener("input", () => {
    const value = wishAt(limit, Number(slider.value));
    field.value = fieldText(limit, value);
    slider.setAttribute("aria-valuetext", wishText(limit, value));
    wishFor({[limit.wish]: value});
  });
  field.addEventListener("input", () => {
    const value = field.value === "" ? null : Number(field.value) * limit.perUnit;
    if (value !== null && !(value > 0 || (value === 0 && limit.wish === "maxDrop"))) return;
    const wish = value === null && limit.wish === "maxDrop" ? data.study.maxDrop : value;
    slider.value = placeOf(limit, wish);
    wishFor({[limit.wish]: wish === null ? null : Number(wish.toPrecision(10))});
  });
  return h("div", {class: "limit-row"}, h("label", {for: id}, limit.title), slider, h("span", {class: "field"}, field, h("span", {class: "unit"}, limit.unit)));
}

function fieldText(limit, wish) {
  return wish === null ? "" : String(Number((wish / limit.perUnit).toFixed(limit.digits)));
}

function wishText(limit, wish) {
  return wish === null ? "no limit" : `${fieldText(limit, wish)} ${limit.unit}`;
}

// The command that makes the choice of the sliders real.
function chooseCommand() {
  const asked = LIMITS.filter(limit => state.wishes[limit.wish] !== null);
  const flags = asked.map(limit => `${limit.flag} ${limit.wish === "maxSize" ? Math.floor(state.wishes.maxSize) : state.wishes[limit.wish]}`);
  return ["autocompress choose", studyFolder(), ...flags].join(" ");
}

function drawChoice() {
  const {candidate: c, meets, reason} = state.choice, name = c.shown || c.digest;
  const verdict = meets ? "✓ keeps every limit" : "✗ no candidate keeps every limit; this one comes nearest";
  byId("choice").replaceChildren(
    h("p", {class: "label"}, c.chosen ? "With these limits: the model that is in chosen/" : "With these limits"),
    h("p", {class: "picked"}, h("button", {type: "button", class: "open", onclick: () => select(c)}, name)),
    h("p", {class: meets ? "good" : "bad"}, verdict),
    h("p", {}, `${c.cells.speedup} · drop ${c.cells.drop} points · ${c.cells.size} kB`),
    h("p", {class: "note"}, `${reason[0].toUpperCase()}${reason.slice(1)}.`),
    commandLine(chooseCommand()));
}
