// One board table: columns of the current view, sortable, one button a row that opens its card.

const WIDTH = 104;

// Ends of a column's axis on round numbers: the same for all rows, whatever is filtered. It spans the
// methods, whose differences are small beside the distance to a reference; what lies beyond is an arrow.
function axisOf(table, index) {
  const column = table.columns[index];
  const there = table.rows.filter((row) => !row.cells[index].missing);
  const methods = there.filter((row) => !row.reference);
  const bounds = (methods.length > 1 ? methods : there).map((row) => row.cells[index])
    .flatMap((cell) => [cell.low ?? cell.mean, cell.high ?? cell.mean]);
  if (!bounds.length) return null;
  let [low, high] = [Math.min(...bounds), Math.max(...bounds)];
  if (high === low) high = low + 1;
  const unit = 10 ** Math.floor(Math.log10(high - low));
  const step = [0.1, 0.2, 0.5, 1].map((s) => s * unit).find((s) => (high - low) / s <= 12) ?? unit;
  low = Math.floor(low / step + 1e-9) * step;
  high = Math.ceil(high / step - 1e-9) * step;
  const digits = Math.max(0, Math.min(column.digits, -Math.floor(Math.log10(step) + 1e-9)));
  const place = (value) => 4 + ((WIDTH - 8) * (value - low)) / (high - low);
  const teacher = table.rows.find((row) => row.reference && row.method === "teacher");
  const mean = teacher && !teacher.cells[index].missing ? teacher.cells[index].mean : null;
  const guide = mean !== null && mean >= low && mean <= high ? place(mean) : null;
  return { place, guide, low, high, ends: [number(low, digits), number(high, digits)] };
}

function dots(cell, axis, reference) {
  const svg = shape("svg", { width: WIDTH, height: 14, class: "dots", "aria-hidden": "true" });
  svg.append(shape("line", { x1: 0, x2: WIDTH, y1: 7, y2: 7, class: "track" }));
  if (cell.mean < axis.low || cell.mean > axis.high) {
    const [tip, back] = cell.mean < axis.low ? [0, 7] : [WIDTH, WIDTH - 7];
    svg.append(shape("path", { d: `M${tip} 7L${back} 3.2V10.8Z`, class: "dot reference" }));
    return svg;
  }
  if (axis.guide !== null) {
    svg.append(shape("line", { x1: axis.guide, x2: axis.guide, y1: 0, y2: 14, class: "guide" }));
  }
  if (cell.low !== null) {
    // an interval that leaves the axis runs to the edge of the drawing and has no end there
    const ends = [cell.low, cell.high].map((end) => (end < axis.low ? 0 : end > axis.high ? WIDTH : axis.place(end)));
    svg.append(shape("line", { x1: ends[0], x2: ends[1], y1: 7, y2: 7, class: "whisker" }));
    for (const x of ends.filter((end) => end > 0 && end < WIDTH)) {
      svg.append(shape("line", { x1: x, x2: x, y1: 4.5, y2: 9.5, class: "whisker" }));
    }
  }
  const name = reference ? "dot reference" : cell.bold ? "dot best" : "dot";
  svg.append(shape("circle", { cx: axis.place(cell.mean), cy: 7, r: 3.2, class: name }));
  return svg;
}

function mark(table, index) {
  return el("sup", { class: "mark", title: table.reasons[index] }, letter(index));
}

function drawCell(table, row, index, axis, widths) {
  const [column, cell] = [table.columns[index], row.cells[index]];
  if (cell.missing) {
    const reason = table.reasons[cell.note];
    const hidden = el("span", { class: "unseen" }, `no value: ${reason}`);
    return el("td", { class: "missing", title: reason },
      el("span", { "aria-hidden": "true" }, "–"), mark(table, cell.note), hidden);
  }
  const mean = el("span", { class: cell.bold ? "mean best" : "mean" }, cell.text);
  mean.style.minWidth = `${widths[index]}ch`;
  const line = el("div", { class: "value" }, mean, el("span", { class: "interval" }, cell.range),
    cell.note === null ? null : mark(table, cell.note));
  const told = [`${column.heading} ${column.label}`, cell.n ? plural(cell.n, "prompt") : "number of prompts not recorded"];
  if (cell.low === null) told.push("no interval measured");
  if (cell.note !== null) told.push(table.reasons[cell.note]);
  return el("td", { title: told.join(" · ") }, line, dots(cell, axis, row.reference));
}

// Rows in order of a column: those without a value last, equal ones as on the board.
function ordered(table, sort) {
  const rows = table.rows.map((row, place) => ({ row, place }));
  if (!sort) return rows.map((entry) => entry.row);
  const value = sort.index < 0 ? (row) => row.label : (row) => row.cells[sort.index].missing ? null : row.cells[sort.index].mean;
  const sign = sort.direction === "ascending" ? 1 : -1;
  rows.sort((a, b) => {
    const [x, y] = [value(a.row), value(b.row)];
    if (x === null || y === null) return (x === null) - (y === null) || a.place - b.place;
    const compared = sort.index < 0 ? x.localeCompare(y, "en") : x - y;
    return sign * compared || a.place - b.place;
  });
  return rows.map((entry) => entry.row);
}

function firstDirection(table, index) {
  return index >= 0 && table.columns[index].better >= 0 ? "descending" : "ascending";
}

// The rows as they should be seen first: by the first of the columns that say most and have a better end.
function firstSort(table, shown) {
  const filled = (index) => table.rows.filter((row) => !row.cells[index].missing).length;
  const able = shown.filter((index) => table.columns[index].better);
  const most = Math.max(...able.map(filled));
  const index = able.find((i) => filled(i) === most);
  return index === undefined ? null : { index, direction: firstDirection(table, index) };
}

function nextSort(table, index) {
  const first = firstDirection(table, index);
  const other = first === "ascending" ? "descending" : "ascending";
  if (!table.sort || table.sort.index !== index) return { index, direction: first };
  return table.sort.direction === first ? { index, direction: other } : null;
}

function headButton(table, index, ...text) {
  const sort = () => {
    table.sort = nextSort(table, index);
    applySort(table);
  };
  return el("button", { type: "button", class: "sort", onclick: sort, "data-index": index }, ...text);
}

function applySort(table) {
  for (const button of table.element.querySelectorAll("button.sort")) {
    const mine = table.sort && Number(button.dataset.index) === table.sort.index;
    if (mine) button.closest("th").setAttribute("aria-sort", table.sort.direction);
    else button.closest("th").removeAttribute("aria-sort");
  }
  table.element.tBodies[0].append(...ordered(table, table.sort).map((row) => row.element));
}

function drawHead(table, shown, axes) {
  const groups = [];
  for (const index of shown) {
    const { heading } = table.columns[index];
    if (groups.length && groups.at(-1).heading === heading) groups.at(-1).size += 1;
    else groups.push({ heading, size: 1 });
  }
  const first = el("tr", {}, el("th", { scope: "col", rowspan: 2, class: "name" }, headButton(table, -1, "Method")),
    groups.map(({ heading, size }) => el("th", { scope: "colgroup", colspan: size, class: "group" }, heading)));
  const second = el("tr", {}, shown.map((index) => {
    const { label, about, better } = table.columns[index];
    const arrow = better ? el("span", { class: "way", title: better > 0 ? "higher is better" : "lower is better" }, better > 0 ? "↑" : "↓") : null;
    const ends = axes[index] ? axes[index].ends : ["", ""];
    const axis = el("span", { class: "axis", "aria-hidden": "true" }, el("span", {}, ends[0]), el("span", {}, ends[1]));
    return el("th", { scope: "col", title: about }, headButton(table, index, label, arrow), axis);
  }));
  return el("thead", {}, first, second);
}

function drawRow(table, row, shown, axes, widths) {
  const open = (event) => openCard(table, row, event.currentTarget.querySelector("button.open"));
  const tags = [];
  if (table.mixedSeeds && row.seeds.length > 1) tags.push(el("span", { class: "tag", title: `training seeds ${row.seeds.join(", ")}` }, `×${row.seeds.length}`));
  if (row.division === "open") tags.push(el("span", { class: "tag", title: row.broken.join(", ") || row.regime }, "open"));
  const button = el("button", { type: "button", class: "open", "aria-haspopup": "dialog", "aria-expanded": "false" }, row.name);
  const under = row.variant || tags.length ? el("span", { class: "variant" }, row.variant ? el("span", {}, row.variant) : null, tags) : null;
  row.element = el("tr", { class: row.reference ? "reference" : null, onclick: (event) => {
    if (!String(getSelection())) open(event);
  } }, el("th", { scope: "row", class: "name" }, button, under), shown.map((index) => drawCell(table, row, index, axes[index], widths)));
  return row.element;
}

// (Re)draws the table with the columns of a view.
function drawTable(table, shown) {
  const axes = table.columns.map((_, index) => axisOf(table, index));
  const widths = table.columns.map((_, index) => Math.max(0, ...table.rows.map((row) => row.cells[index])
    .filter((cell) => !cell.missing).map((cell) => cell.text.length)));
  if (table.sort && table.sort.index >= 0 && !shown.includes(table.sort.index)) table.sort = firstSort(table, shown);
  const caption = el("caption", { class: "unseen" }, `${table.title}. Press a column's name to sort, a row's name for its card.`);
  const body = el("tbody", {}, table.rows.map((row) => drawRow(table, row, shown, axes, widths)));
  const drawn = el("table", { class: "board" }, caption, drawHead(table, shown, axes), body);
  table.element.replaceWith(drawn);
  table.element = drawn;
  table.shown = shown;
  applySort(table);
}
