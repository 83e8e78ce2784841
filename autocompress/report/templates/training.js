// The course of trainings: those of the selected candidates in front of all others.

const MAX_BEHIND = 60;

function trainingPicture(candidates) {
  const own = candidates.filter(c => c.course), label = h("p", {class: "label"}, "Training: loss by step");
  if (!own.length) return h("div", {}, label, h("p", {class: "note"}, "Not trained, or no course was kept."));
  const holder = h("div", {class: "picture", id: "training"});
  requestAnimationFrame(() => drawTraining(holder, own)); // once it is in the page and has a width
  return h("div", {}, label, holder);
}

function drawTraining(holder, own) {
  const others = data.candidates.filter(c => c.course && !own.includes(c)).slice(0, MAX_BEHIND);
  const all = [...own, ...others].map(c => c.course);
  const [low, high] = rangeOf(all.flatMap(course => course.losses));
  const [, end] = rangeOf(all.flatMap(course => course.steps));
  const isLog = low > 0 && high >= 10 * low;
  const [bottom, top] = isLog ? [low / 1.2, high * 1.2] : padded([low, high]);
  const {svg, box} = canvas(holder, 250, "Loss of the training by step");
  const x = scale(0, end, box.left, box.right), y = scale(bottom, top, box.bottom, box.top, isLog);
  const places = c => c.course.steps.map((step, i) => [x(step), y(c.course.losses[i])]);
  const near = s("circle", {class: "near", r: 4, visibility: "hidden"});
  svg.append(
    frame(box,
      {scale: x, ticks: ticks(0, end, 5), title: "training step"},
      {scale: y, ticks: isLog ? logTicks(bottom, top) : ticks(bottom, top, 5), title: "loss"}),
    ...others.map(c => s("path", {class: "course behind", d: path(places(c))})),
    ...own.map((c, i) => s("path", {class: `course nr${i}`, d: path(places(c))})),
    ...own.map((c, i) => courseName(c, places(c).at(-1), i)),
    near,
  );
  const marks = own.flatMap(c => places(c).map((at, i) => ({c, i, at})));
  svg.addEventListener("pointermove", event => followCourse(near, marks, placeIn(svg, event)));
  svg.addEventListener("pointerleave", () => followCourse(near, [], [0, 0]));
}

function rangeOf(values) {
  return values.reduce(([low, high], v) => [Math.min(low, v), Math.max(high, v)], [Infinity, -Infinity]);
}

function courseName(c, [x, y], i) {
  const text = shortName(c) + (c.course.stopped ? ", given up" : "");
  const side = x < 260 ? {x: x + 7, "text-anchor": "start"} : {x: x - 4, "text-anchor": "end"};
  return s("text", {class: "mark", y: y - 8 - 13 * i, ...side}, text);
}

function followCourse(near, marks, [x, y]) {
  let best = null, least = 30;
  for (const mark of marks) {
    const distance = Math.hypot(mark.at[0] - x, mark.at[1] - y);
    if (distance < least) [best, least] = [mark, distance];
  }
  near.setAttribute("visibility", best ? "visible" : "hidden");
  if (!best) return tip.hide();
  near.setAttribute("cx", best.at[0]);
  near.setAttribute("cy", best.at[1]);
  tip.show(near, [shortName(best.c), ...courseLines(best.c.course, best.i)]);
}

function courseLines({steps, losses, rates}, i) {
  const rate = rates[i] ? [`rate ${rates[i].toExponential(1)}`] : [];
  return [`step ${steps[i]}`, `loss ${losses[i].toPrecision(3)}`, ...rate];
}
