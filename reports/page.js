
"use strict";
const rows = [...document.querySelectorAll("table.board tbody tr")];
const text = document.getElementById("filter");
const division = document.getElementById("division");
const task = document.getElementById("task");

function apply() {
  const wanted = text.value.trim().toLowerCase();
  let shown = 0;
  for (const row of rows) {
    const fits = row.dataset.text.toLowerCase().includes(wanted)
      && (!division.value || row.dataset.division === division.value);
    row.hidden = !fits;
    shown += fits;
  }
  for (const table of document.querySelectorAll("table.board")) {
    [...table.tHead.rows[0].cells].forEach((head, index) => {
      const hide = index > 0 && task.value !== "" && head.dataset.task !== task.value;
      head.hidden = hide;
      for (const row of table.tBodies[0].rows) row.cells[index].hidden = hide;
    });
  }
  document.getElementById("count").textContent = `${shown} of ${rows.length} rows`;
}

function sort(head) {
  const table = head.closest("table");
  const index = head.cellIndex;
  const first = index === 0 ? "ascending" : "descending";
  const other = index === 0 ? "descending" : "ascending";
  const direction = head.getAttribute("aria-sort") === first ? other : first;
  for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", direction);
  const sign = direction === "ascending" ? 1 : -1;
  const body = table.tBodies[0];
  const key = (row) => row.cells[index].dataset.sort;
  body.append(...[...body.rows].sort((a, b) => {
    if (key(a) === "" || key(b) === "") return (key(a) === "") - (key(b) === "");
    return sign * (index === 0 ? key(a).localeCompare(key(b)) : Number(key(a)) - Number(key(b)));
  }));
}

for (const name of new Set([...document.querySelectorAll("th[data-task]")].map((h) => h.dataset.task))) {
  task.append(new Option(name, name));
}
for (const button of document.querySelectorAll("table.board thead button")) {
  button.addEventListener("click", () => sort(button.closest("th")));
}
for (const control of [text, division, task]) control.addEventListener("input", apply);
apply();
