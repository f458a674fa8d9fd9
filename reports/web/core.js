"use strict";
// Text of models and users reaches the page by textContent and setAttribute only, never as markup.
const DATA = JSON.parse(document.getElementById("data").textContent);
const SVG = document.getElementById("empty-drawing").namespaceURI;

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}

function shape(tag, attributes) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

function number(value, digits) {
  const text = Math.abs(value).toFixed(digits);
  return value < 0 && Number(text) !== 0 ? `\u2212${text}` : text;
}

// a, b, … z, aa, ab … as in the other formats of a board
function letter(index) {
  const first = index < 26 ? "" : String.fromCharCode(96 + Math.floor(index / 26));
  return first + String.fromCharCode(97 + (index % 26));
}

function plural(count, word) {
  return `${count} ${word}${count === 1 ? "" : "s"}`;
}

// A control with its name; the name is no parent of it, so that choices are not part of the name.
let fields = 0;
function field(label, control) {
  fields += 1;
  control.id = `field-${fields}`;
  return el("div", { class: "field" }, el("label", { for: control.id }, label), control);
}

function select(options, onchange, attributes = {}) {
  const node = el("select", { ...attributes, onchange });
  for (const [value, text] of options) node.append(new Option(text, value));
  return node;
}

// A choice that was made before is kept by the browser where it lets a page keep anything.
function remembered(name, value) {
  try {
    if (value !== undefined) localStorage.setItem(`kdbench-${name}`, value);
    return localStorage.getItem(`kdbench-${name}`);
  } catch {
    return null;
  }
}

function themeButton() {
  const button = document.getElementById("theme");
  const order = ["system", "light", "dark"];
  let now = order.includes(remembered("theme")) ? remembered("theme") : "system";
  const apply = () => {
    if (now === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = now;
    button.textContent = `◐ ${now}`;
    button.setAttribute("aria-label", `Theme: ${now}`);
  };
  button.addEventListener("click", () => {
    now = order[(order.indexOf(now) + 1) % order.length];
    remembered("theme", now);
    apply();
  });
  apply();
}
