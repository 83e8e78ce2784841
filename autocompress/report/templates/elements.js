"use strict";
// Making elements and wording numbers. Texts only ever reach the page as text nodes and attributes, never as HTML.

const SVG = "http://www.w3.org/2000/svg";

// An HTML element; attributes that start with `on` are listeners, children that are null are left out.
function h(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

function s(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter(child => child !== null && child !== undefined));
  return element;
}

function byId(id) {
  return document.getElementById(id);
}

// An accuracy drop in points, never -0.00.
function points(drop) {
  return (Math.round(1e4 * drop) / 100 + 0).toFixed(2);
}

function kilobytes(bytes) {
  return grouped(bytes / 1000, 1);
}

function grouped(value, digits) {
  return value.toLocaleString("en-US", {minimumFractionDigits: digits, maximumFractionDigits: digits});
}

function percent(share) {
  return `${Number((100 * share).toPrecision(3))} %`;
}

function signed(value, digits) {
  const text = Math.abs(value).toFixed(digits);
  return Number(text) === 0 ? text : (value < 0 ? "−" : "+") + text;
}

// A number without needless digits: 0 for what rounds to it, and a minus that is one.
function plain(value, digits) {
  return Math.abs(value) < 0.5 * 10 ** -digits ? "0" : value.toFixed(digits).replace("-", "−");
}

// A word for a POSIX shell.
function quoted(word) {
  return /^[\w./:@%+=-]+$/.test(word) ? word : `'${word.replaceAll("'", `'"'"'`)}'`;
}

// The folder of the study where the page was opened from it, else a name to fill in.
function studyFolder() {
  if (location.protocol !== "file:") return "STUDY";
  return quoted(decodeURIComponent(location.pathname).replace(/\/[^/]*$/, "") || "/");
}

function commandLine(command) {
  return h("div", {class: "command"}, h("code", {}, command), copyButton("Copy", () => command));
}

function copyButton(title, text) {
  const button = h("button", {type: "button", class: "copy"}, title);
  button.addEventListener("click", async () => {
    const done = await copied(text());
    button.textContent = done ? "Copied" : "Press Ctrl+C";
    setTimeout(() => { button.textContent = title; }, 1500);
  });
  return button;
}

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = h("textarea", {class: "offscreen"}, text);
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

// A table that scrolls where it is too wide; a column is [title, class]. Cells are texts, or elements.
function table(columns, rows, attributes = {}, kind = "") {
  const head = columns.map(([title, side]) => h("th", {scope: "col", class: side}, title));
  const row = ({cells}) => h("tr", {}, cells.map((cell, i) => h("td", {class: columns[i][1]}, cell)));
  const whole = h("table", attributes, h("thead", {}, h("tr", {}, head)), h("tbody", {}, rows.map(row)));
  return h("div", {class: `wide ${kind}`, tabindex: 0}, whole);
}

// The one box that tells about what the pointer or the focus is on.
const tip = {
  show(anchor, lines) {
    const box = byId("tip"), [title, ...rest] = lines;
    box.replaceChildren(h("strong", {}, title), ...rest.map(line => h("div", {}, line)));
    box.hidden = false;
    const at = anchor.getBoundingClientRect(), width = box.offsetWidth, height = box.offsetHeight;
    const right = at.right + 12 + width < innerWidth ? at.right + 12 : Math.max(4, at.left - 12 - width);
    const top = Math.max(4, Math.min(at.top - height / 2, innerHeight - height - 4));
    box.style.left = `${right + scrollX}px`;
    box.style.top = `${top + scrollY}px`;
  },
  hide() {
    byId("tip").hidden = true;
  },
};
