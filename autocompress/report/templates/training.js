// The course of trainings: those of the selected candidates in front of all others.

const MAX_BEHIND = 60;

function trainingPicture(candidates) {
  const own = candidates.filter(c => c.course);
  const holder = h("div", {class: "picture", id: "training"});
  const box = h("div", {}, h("p", {class: "label"}, "Training: loss by step"), own.length ? holder : h("p", {class: "note"}, "Not trained, or no course was kept."));
  if (own.length) requestAnimationFrame(() => drawTraining(holder, own));
  return box;
}

function drawTraining(holder, own) {
  const others = data.candidates.filter(c => c.course && !own.includes(c)).slice(0, MAX_BEHIND);
  const losses = [...own, ...others].flatMap(c => c.course.losses), steps = [...own, ...others].flatMap(c => c.course.steps);
  const low = losses.reduce((a, b) => Math.min(a, b)), high = losses.reduce((a, b) => Math.max(a, b));
  const isLog = low > 0 && high >= 10 * low;
  const {svg, box} = canvas(holder, 250, "Loss of the training by step");
  const x = scale(0, steps.reduce((a, b) => Math.max(a, b)), box.left, box.right), last = x.invert(box.right);
  const [bottom, top] = isLog ? [low / 1.2, high * 1.2] : padded([low, high]);
  const y = scale(bottom, top, box.bottom, box.top, isLog);
  const line = c => path(c.course.steps.map((step, i) => [x(step), y(c.course.losses[i])]));
  svg.append(frame(box, {scale: x, ticks: ticks(0, last, 5), title: "training step"}, {scale: y, ticks: isLog ? logTicks(bottom, top) : ticks(bottom, top, 5), title: "loss"}),
    ...others.map(c => s("path", {class: "course behind", d: line(c)})),
    ...own.map((c, i) => s("path", {class: `course nr${i}`, d: line(c)})),
    ...own.map((c, i) => courseEnd(c, i, x, y)));
  const near = s("circle", {class: "near", r: 4, visibility: "hidden"});
  svg.append(near);
  svg.addEventListener("pointermove", event => followCourse(svg, near, own, x, y, placeIn(svg, event)));
  svg.addEventListener("pointerleave", () => { near.setAttribute("visibility", "hidden"); tip.hide(); });
}

function courseEnd(c, i, x, y) {
  const at = [x(c.course.steps.at(-1)), y(c.course.losses.at(-1))], word = c.course.stopped ? "given up" : "";
  return s("text", {class: "mark", x: at[0] - 4, y: at[1] - 8 - 12 * i, "text-anchor": "end"}, `${shortName(c)} ${word}`);
}

function followCourse(svg, near, own, x, y, place) {
  let best = null, least = 30;
  for (const c of own)
    c.course.steps.forEach((step, i) => {
      const at = [x(step), y(c.course.losses[i])], distance = Math.hypot(at[0] - place[0], at[1] - place[1]);
      if (distance < least) [best, least] = [{c, i, at}, distance];
    });
  near.setAttribute("visibility", best ? "visible" : "hidden");
  if (!best) return tip.hide();
  near.setAttribute("cx", best.at[0]);
  near.setAttribute("cy", best.at[1]);
  tip.show(near, [shortName(best.c), best.c.course.texts[best.i]]);
}
