// Scales, marks and frames that all pictures share.

// Round values between the ends of an axis, about `n` of them.
function ticks(low, high, n) {
  const raw = (high - low) / n, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map(factor => factor * power).find(size => size >= raw * 0.999);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) found.push(i * step);
  return found.map(value => Number(value.toPrecision(12)));
}

// Marks at 1, 2 and 5 times powers of ten.
function logTicks(low, high) {
  const found = [];
  const digits = high / low > 1e4 ? [1] : [1, 2, 5];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++)
    found.push(...digits.map(digit => Number(`${digit}e${power}`)));
  return found.filter(value => value >= low && value <= high);
}

// Places of values on a line from `start` to `end`, in pixels.
function scale(low, high, start, end, isLog = false) {
  const f = isLog ? Math.log10 : value => value;
  const span = f(high) - f(low) || 1;
  const at = value => start + (end - start) * (f(value) - f(low)) / span;
  at.invert = pixel => {
    const part = f(low) + span * (pixel - start) / (end - start);
    return isLog ? 10 ** part : part;
  };
  return at;
}

function padded(values, share = 0.06) {
  const low = Math.min(...values), high = Math.max(...values);
  const margin = share * (high - low) || Math.abs(high) * share || 1;
  return [low - margin, high + margin];
}

// Grid, marks and titles around a picture. x and y are {scale, ticks, title}; box has left, top, right, bottom.
function frame(box, x, y) {
  const marks = [];
  for (const value of x.ticks) {
    const at = x.scale(value);
    marks.push(s("line", {class: "grid", x1: at, x2: at, y1: box.top, y2: box.bottom}));
    marks.push(s("text", {class: "mark", x: at, y: box.bottom + 16, "text-anchor": "middle"}, tickText(value)));
  }
  for (const value of y.ticks) {
    const at = y.scale(value);
    marks.push(s("line", {class: "grid", x1: box.left, x2: box.right, y1: at, y2: at}));
    marks.push(s("text", {class: "mark", x: box.left - 8, y: at + 4, "text-anchor": "end"}, tickText(value)));
  }
  const middle = [(box.left + box.right) / 2, (box.top + box.bottom) / 2];
  const turned = `translate(${box.left - 46} ${middle[1]}) rotate(-90)`;
  return s("g", {"aria-hidden": "true"}, marks,
    s("text", {class: "axis", x: middle[0], y: box.bottom + 36, "text-anchor": "middle"}, x.title),
    s("text", {class: "axis", transform: turned, "text-anchor": "middle"}, y.title));
}

function tickText(value) {
  const size = Math.abs(value);
  if (size >= 1e5 || (size && size < 1e-3)) return value.toExponential(0);
  return Number(value.toPrecision(6)).toLocaleString("en-US", {maximumFractionDigits: 4});
}

function canvas(holder, height, label, least = 280) {
  const width = Math.max(least, holder.clientWidth || 640);
  const svg = s("svg", {viewBox: `0 0 ${width} ${height}`, width: "100%", role: "group", "aria-label": label});
  holder.replaceChildren(svg);
  return {svg, box: {left: 62, top: 14, right: width - 14, bottom: height - 46}};
}

function path(pairs) {
  return pairs.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
}

// The shape of a kind of candidate, so that it is told without colour.
function shape(kind, r) {
  if (kind === "baseline") return `M0 ${-1.3 * r}L${1.3 * r} 0L0 ${1.3 * r}L${-1.3 * r} 0Z`;
  if (kind === "anchor") return `M${-r} ${-r}H${r}V${r}H${-r}Z`;
  return `M${-r} 0A${r} ${r} 0 1 1 ${r} 0A${r} ${r} 0 1 1 ${-r} 0Z`;
}

const TRIANGLE = "M-6 -4H6L0 6Z";
