// What pointer and keyboard do on the picture of the front.

const NEAR = 26;

function listenToFront(svg) {
  let start = null;
  const band = s("rect", {class: "band", visibility: "hidden"});
  svg.append(band);
  svg.addEventListener("pointerdown", event => { start = placeIn(svg, event); });
  svg.addEventListener("pointermove", event => {
    const place = placeIn(svg, event);
    const isDrag = start && event.buttons && event.pointerType === "mouse";
    if (isDrag && isFar(start, place)) drawBand(band, start, place);
    else hover(nearest(place));
  });
  svg.addEventListener("pointerup", event => {
    const place = placeIn(svg, event), from = start;
    start = null;
    band.setAttribute("visibility", "hidden");
    if (from && event.pointerType === "mouse" && isFar(from, place)) return zoomTo(from, place);
    const mark = nearest(place);
    if (mark) select(mark.c, event.shiftKey);
  });
  svg.addEventListener("pointerleave", () => hover(null));
  svg.addEventListener("dblclick", resetView);
  svg.addEventListener("keydown", moveFocus);
  svg.addEventListener("focusin", event => hover(front.marks.find(m => m.mark === event.target) ?? null));
  svg.addEventListener("focusout", () => hover(null));
}

function placeIn(svg, event) {
  const area = svg.getBoundingClientRect(), view = svg.viewBox.baseVal;
  const x = (event.clientX - area.left) / area.width, y = (event.clientY - area.top) / area.height;
  return [x * view.width, y * view.height];
}

function isFar(a, b) {
  return Math.abs(a[0] - b[0]) > 12 && Math.abs(a[1] - b[1]) > 12;
}

// The mark under or near a place; of equally near ones the one that is drawn last.
function nearest([x, y]) {
  let best = null, least = NEAR;
  for (const m of front.marks) {
    const distance = Math.hypot(m.at[0] - x, m.at[1] - y) - (rank(m.c) ? 2 : 0);
    if (distance < least) [best, least] = [m, distance];
  }
  return best;
}

function hover(mark) {
  if (front.hovered === mark) return;
  front.hovered?.mark.classList.remove("hot");
  front.hovered = mark;
  if (!mark) return tip.hide();
  mark.mark.classList.add("hot");
  tip.show(mark.mark, tipLines(mark.c));
}

// Arrows go from point to point along the x axis, Enter opens one, Shift+Enter compares, Escape closes the box.
function moveFocus(event) {
  const i = front.marks.findIndex(m => m.mark === event.target);
  if (i < 0) return;
  const last = front.marks.length - 1;
  const next = {ArrowRight: i + 1, ArrowDown: i + 1, ArrowLeft: i - 1, ArrowUp: i - 1, Home: 0, End: last}[event.key];
  if (event.key === "Enter" || event.key === " ") select(front.marks[i].c, event.shiftKey);
  else if (event.key === "Escape") hover(null);
  else if (next !== undefined) focusOn(front.marks[Math.max(0, Math.min(last, next))]);
  else return;
  event.preventDefault();
}

function focusOn(mark) {
  front.focus?.mark.setAttribute("tabindex", -1);
  front.focus = mark;
  mark.mark.setAttribute("tabindex", 0);
  mark.mark.focus();
}

function drawBand(band, a, b) {
  hover(null);
  band.setAttribute("x", Math.min(a[0], b[0]));
  band.setAttribute("y", Math.min(a[1], b[1]));
  band.setAttribute("width", Math.abs(a[0] - b[0]));
  band.setAttribute("height", Math.abs(a[1] - b[1]));
  band.setAttribute("visibility", "visible");
}

function zoomTo(a, b) {
  const range = way => {
    const i = way === "x" ? 0 : 1, ends = [a[i], b[i]].map(front.scales[way].invert);
    return [Math.min(...ends), Math.max(...ends)];
  };
  front.zoom = {x: range("x"), y: range("y")};
  drawFront();
}

function resetView() {
  front.showAll = front.zoom ? front.showAll : !front.showAll && data.edge !== null;
  front.zoom = null;
  drawFront();
}
