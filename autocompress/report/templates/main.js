// What the page knows and what happens when somebody changes it.

const NARROW = 900; // pixels, from which on the panel stands beside nothing

const candidateOf = new Map(data.candidates.map(c => [c.digest, c]));

function wishFor(changes) {
  Object.assign(state.wishes, changes);
  state.choice = choose(data.candidates, state.wishes, data.rule);
  state.allowed = new Set(data.candidates.filter(c => !violations(c, state.wishes, data.rule).length));
  updateFront();
  drawChoice();
  if (list.which === "limits") drawTable();
}

// Opens a candidate; beside the open one where `isSecond`, or beside `other`.
function select(c, isSecond = false, other = null) {
  const [first] = state.selected;
  state.selected = other ? [c, other] : isSecond && c !== first ? [first, c] : [c];
  drawPanel();
  updateFront();
  for (const row of byId("rows").children) {
    row.classList.toggle("selected", state.selected.some(one => one.digest === row.dataset.digest));
  }
  if (innerWidth <= NARROW) byId("panel").scrollIntoView();
  byId("said").textContent = `Opened ${state.selected.map(shortName).join(" and ")}.`;
}

function setUpControls() {
  for (const way of ["x", "y"])
    byId(`axis-${way}`).addEventListener("change", event => {
      Object.assign(front, {[way]: event.target.value, zoom: null});
      drawFront();
    });
  byId("by-size").addEventListener("change", event => { front.bySize = event.target.checked; drawFront(); });
  byId("beyond").addEventListener("click", resetView);
  byId("heat-of")?.addEventListener("change", event => drawHeat(event.target.value));
  byId("theme").addEventListener("click", switchTheme);
  listenToTable();
}

function switchTheme() {
  const root = document.documentElement, isDark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = root.dataset.theme || (isDark ? "dark" : "light");
  root.dataset.theme = now === "dark" ? "light" : "dark";
}

function redraw() {
  drawFront();
  drawPanel();
  whenNear(byId("health"), drawHealth);
}

// Draws what is far below once somebody comes near it, so that a large study opens fast.
function whenNear(element, draw) {
  const observer = new IntersectionObserver(entries => {
    if (!entries.some(entry => entry.isIntersecting)) return;
    observer.disconnect();
    draw();
  }, {rootMargin: "400px"});
  observer.observe(element);
}

function start() {
  for (const c of data.candidates) c.haystack = [c.name, c.shown, c.rung, c.brief, ...c.lines].join(" ").toLowerCase();
  state.choice = choose(data.candidates, state.wishes, data.rule);
  state.allowed = new Set(data.candidates.filter(c => !violations(c, state.wishes, data.rule).length));
  state.selected = [data.candidates.find(c => c.chosen) ?? state.choice.candidate];
  setUpControls();
  drawLimits();
  drawChoice();
  redraw();
  drawTable();
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; redraw(); } });
}

start();
