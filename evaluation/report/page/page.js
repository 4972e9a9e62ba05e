"use strict";
// The page as a whole: colours, contents, tables that can be sorted. browser.js and viewer.js follow in the same script.

const $ = (id) => document.getElementById(id);

/** An element with properties, attributes (names with a hyphen, and `role`) and children. Text is only ever set as text. */
function make(tag, options = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (name.includes("-") || name === "role" || name === "style") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

function themeButton() {
  const button = $("theme"), told = button.querySelector("span");
  const names = { "": "as the system", light: "light", dark: "dark" };
  button.hidden = false;
  button.addEventListener("click", () => {
    const order = Object.keys(names), now = document.documentElement.dataset.theme ?? "";
    const next = order[(order.indexOf(now) + 1) % order.length];
    if (next) document.documentElement.dataset.theme = next;
    else delete document.documentElement.dataset.theme;
    told.textContent = names[next];
  });
}

/** What a cell is sorted by: a number where it has one; what has none goes last, whichever way. */
function sortValue(cell) {
  if (cell.dataset.sort !== undefined) return Number(cell.dataset.sort);
  const text = cell.textContent.trim();
  return text === "–" || text === "" ? null : text;
}

function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), "en", { numeric: true });
}

function sortTable(table, column, ascending) {
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row) => [sortValue(row.cells[column]), row]);
  const known = rows.filter(([value]) => value !== null).sort(([a], [b]) => (ascending ? compare(a, b) : compare(b, a)));
  body.append(...[...known, ...rows.filter(([value]) => value === null)].map(([, row]) => row));
}

function sortableTables() {
  for (const table of document.querySelectorAll("table.sortable")) {
    if (table.tBodies[0].rows.length < 2) continue;
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      if (!head.textContent.trim()) return;
      const button = make("button", { type: "button" }, ...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        // Names first from A, numbers first from the largest.
        const values = [...table.tBodies[0].rows].map((row) => sortValue(row.cells[column]));
        const numbers = values.some((value) => typeof value === "number");
        const first = numbers ? "descending" : "ascending", second = numbers ? "ascending" : "descending";
        const way = head.getAttribute("aria-sort") === first ? second : first;
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", way);
        sortTable(table, column, way === "ascending");
      });
    });
  }
}

/** Boxes that scroll take the keyboard's focus; those that do not would only be in the way. */
function scrollingBoxes() {
  for (const box of document.querySelectorAll(".scroll, .drawing")) {
    box.tabIndex = box.scrollWidth > box.clientWidth ? 0 : -1;
    if (box.tabIndex < 0) box.removeAttribute("tabindex");
  }
}

themeButton();
sortableTables();
if (window.matchMedia("(max-width: 40rem)").matches) document.querySelector("#contents details").open = false;
scrollingBoxes();
window.addEventListener("resize", scrollingBoxes);
