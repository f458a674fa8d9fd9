// One board table: columns of the current view, sortable, one button a row that opens its card.

const WIDTH = 104;

// Ends of a column's axis on round numbers: the same for all rows, whatever is filtered. It spans the
// methods, whose differences are small beside the distance to a reference; what lies beyond is an arrow.
function axisOf(table, column) {
  const there = table.rows.filter((row) => !column.cell(row).missing);
  const methods = there.filter((row) => !row.reference);
  const bounds = (methods.length > 1 ? methods : there).map((row) => column.cell(row))
    .flatMap((cell) => [cell.low ?? cell.mean, cell.high ?? cell.mean]);
  if (!bounds.length || column.kind === "standing") return null; // the pictures above show these
  let [low, high] = [Math.min(...bounds), Math.max(...bounds)];
  if (high === low) high = low + 1;
  const unit = 10 ** Math.floor(Math.log10(high - low));
  const step = [0.1, 0.2, 0.5, 1].map((s) => s * unit).find((s) => (high - low) / s <= 12) ?? unit;
  low = Math.floor(low / step + 1e-9) * step;
  high = Math.ceil(high / step - 1e-9) * step;
  const digits = Math.max(0, Math.min(column.digits, -Math.floor(Math.log10(step) + 1e-9)));
  const place = (value) => 4 + ((WIDTH - 8) * (value - low)) / (high - low);
  const teacher = table.rows.find((row) => row.reference && row.method === "teacher");
  const mean = teacher && !column.cell(teacher).missing ? column.cell(teacher).mean : null;
  const guide = mean !== null && mean >= low && mean <= high ? place(mean) : null;
  return { place, guide, low, high, ends: [number(low, digits), number(high, digits)] };
}

function dots(cell, axis, reference) {
  const svg = shape("svg", { width: WIDTH, height: 12, viewBox: "0 1 104 12", class: "dots", "aria-hidden": "true" });
  svg.append(shape("line", { x1: 0, x2: WIDTH, y1: 7, y2: 7, class: "track" }));
  if (cell.mean < axis.low || cell.mean > axis.high) {
    const [tip, back] = cell.mean < axis.low ? [0, 7] : [WIDTH, WIDTH - 7];
    svg.append(shape("path", { d: `M${tip} 7L${back} 3.2V10.8Z`, class: "dot reference" }));
    return svg;
  }
  if (axis.guide !== null) {
    svg.append(shape("line", { x1: axis.guide, x2: axis.guide, y1: 1, y2: 13, class: "guide" }));
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

function drawCell(table, row, column, axis, width) {
  const cell = column.cell(row);
  const edge = `${column.kind === "standing" ? "stand" : ""} ${column.first ? "edge" : ""}`;
  if (cell.missing) {
    const hidden = el("span", { class: "unseen" }, `no value: ${cell.reason}`);
    return el("td", { class: `missing ${edge}`, title: cell.reason },
      el("span", { "aria-hidden": "true" }, cell.blank ? "" : "–"), cell.note === undefined ? null : mark(table, cell.note), hidden);
  }
  if (column.bars) return barsCell(cell.place, table.letters);
  const mean = el("span", { class: cell.bold ? "mean best" : "mean" }, cell.text);
  mean.style.minWidth = `${width}ch`;
  const line = el("div", { class: "value" }, mean, el("span", { class: "interval" }, cell.range),
    cell.note === null ? null : mark(table, cell.note));
  const told = [`${column.heading} ${column.label}${cell.range ? ` ${cell.text} ${cell.range}` : ""}`];
  if (cell.about) told.push(cell.about);
  if (column.index !== undefined) told.push(cell.n ? plural(cell.n, "prompt") : "number of prompts not recorded");
  if (column.index !== undefined && cell.low === null) told.push("no interval measured");
  if (cell.note !== null) told.push(table.reasons[cell.note]);
  return el("td", { class: edge, title: told.join(" · ") }, line, axis ? dots(cell, axis, row.reference) : null);
}

// Rows in order of a column: those without a value last (references first), equal ones as on the board.
function ordered(table, sort) {
  const rows = table.rows.map((row, place) => ({ row, place }));
  const column = sort && [...standingColumns(table), ...scoreColumns(table)].find(({ id }) => id === sort.id);
  if (!sort || (!column && sort.id !== "name")) return table.rows;
  const value = (row) => {
    if (!column) return row.label;
    const cell = column.cell(row);
    return cell.missing ? null : cell.mean;
  };
  const part = ({ row }) => (value(row) !== null ? 1 : row.reference ? 0 : 2);
  const sign = sort.direction === "ascending" ? 1 : -1;
  rows.sort((a, b) => {
    if (part(a) !== 1 || part(b) !== 1) return part(a) - part(b) || a.place - b.place;
    const [x, y] = [value(a.row), value(b.row)];
    return sign * (column ? x - y : x.localeCompare(y, "en")) || a.place - b.place;
  });
  return rows.map((entry) => entry.row);
}

function firstDirection(column) {
  return column && column.better >= 0 ? "descending" : "ascending";
}

// The rows as they should be seen first: by where methods stand, else by the first of the columns that
// say most and have a better end.
function firstSort(table, columns) {
  const filled = (column) => table.rows.filter((row) => !column.cell(row).missing).length;
  const able = columns.filter((column) => column.better && column.id !== "cost");
  const most = Math.max(...able.map(filled));
  const found = able.find(({ kind }) => kind === "standing") ?? able.find((column) => filled(column) === most);
  return found ? { id: found.id, direction: firstDirection(found) } : null;
}

function nextSort(table, column) {
  const [id, first] = [column ? column.id : "name", firstDirection(column)];
  const other = first === "ascending" ? "descending" : "ascending";
  if (!table.sort || table.sort.id !== id) return { id, direction: first };
  return table.sort.direction === first ? { id, direction: other } : null;
}

function headButton(table, column, ...text) {
  const sort = () => {
    table.sort = nextSort(table, column);
    keep(keyOf(table, "sort"), table.sort ? `${table.sort.direction} ${table.sort.id}` : "none");
    applySort(table);
  };
  return el("button", { type: "button", class: "sort", onclick: sort, "data-id": column ? column.id : "name" }, ...text);
}

function applySort(table) {
  for (const button of table.element.querySelectorAll("button.sort")) {
    const mine = table.sort && button.dataset.id === table.sort.id;
    if (mine) button.closest("th").setAttribute("aria-sort", table.sort.direction);
    else button.closest("th").removeAttribute("aria-sort");
  }
  table.element.tBodies[0].append(...ordered(table, table.sort).map((row) => row.element));
}

function groupHead(table, group, drawn) {
  const size = drawn.filter((column) => column.group === group).length;
  const folded = drawn.find((column) => column.group === group).folded;
  const more = group.columns.length - (group.standing ? 2 : 1);
  const attributes = { scope: "colgroup", colspan: size, class: group.standing ? "standing edge" : "group edge" };
  if (more < 1) return el("th", attributes, group.heading);
  const button = el("button", { type: "button", class: "folder", "aria-expanded": folded ? "false" : "true", "data-more": `+${more}`,
    title: folded ? `show ${plural(more, "more column")}` : "show fewer columns", onclick: () => {
      setFolded(table, group, !folded);
      drawTable(table);
      [...table.element.querySelectorAll(".folder")].find((other) => other.textContent === group.heading)?.focus();
    } }, group.heading.split(/(?=\[)/).flatMap((part, i) => (i ? [el("wbr"), part] : [part])));
  return el("th", attributes, button);
}

function columnHead(table, column, axis) {
  const { label, about, better } = column;
  const arrow = better ? el("span", { class: "way", title: better > 0 ? "higher is better" : "lower is better" }, better > 0 ? "↑" : "↓") : null;
  const ends = axis ? el("span", { class: "axis", "aria-hidden": "true" }, axis.ends.map((end) => el("span", {}, end))) : null;
  return el("th", { scope: "col", title: about, class: column.first ? "edge" : null }, headButton(table, column, label, column.bars ? null : arrow),
    column.under ? el("span", { class: "under" }, column.under) : ends);
}

function drawRow(table, row, drawn, axes, widths) {
  const open = (event) => openCard(table, row, event.currentTarget.querySelector("button.open"));
  const tags = [];
  if (table.mixedSeeds && row.seeds.length > 1) tags.push(el("span", { class: "tag", title: `training seeds ${row.seeds.join(", ")}` }, `×${row.seeds.length}`));
  if (row.division === "open") tags.push(el("span", { class: "tag", title: row.broken.join(", ") || row.regime }, "open"));
  const button = el("button", { type: "button", class: "open", "aria-haspopup": "dialog", "aria-expanded": "false" }, row.name);
  const under = row.variant || tags.length ? el("span", { class: "variant" }, row.variant ? el("span", {}, row.variant) : null, tags) : null;
  row.element = el("tr", { class: row.reference ? "reference" : null, onclick: (event) => {
    if (!String(getSelection())) open(event);
  } }, el("th", { scope: "row", class: "name", title: row.label }, button, under), drawn.map((column, i) => drawCell(table, row, column, axes[i], widths[i])));
  return row.element;
}

// (Re)draws the table in one way; true: it fits.
function drawMode(table, groups, mode) {
  const drawn = drawnColumns(groups, table, mode);
  drawn.forEach((column, i) => { column.first = !i || drawn[i - 1].group !== column.group; });
  const axes = drawn.map((column) => axisOf(table, column));
  const widths = drawn.map((column) => Math.max(0, ...table.rows.map(column.cell).filter((cell) => !cell.missing && !cell.place).map((cell) => cell.text.length)));
  const caption = el("caption", { class: "unseen" }, `${table.title}. Press a column's name to sort, a row's name for its card, a task's name for more or fewer of its columns.`);
  const head = el("thead", {},
    el("tr", {}, el("th", { scope: "col", rowspan: 2, class: "name" }, headButton(table, null, "Method")), groups.map((group) => groupHead(table, group, drawn))),
    el("tr", {}, drawn.map((column, i) => columnHead(table, column, axes[i]))));
  const body = el("tbody", {}, table.rows.map((row) => drawRow(table, row, drawn, axes, widths)));
  const made = el("table", { class: mode.short ? "board short" : "board" }, caption, head, body);
  table.element.replaceWith(made);
  table.element = made;
  table.drawn = drawn;
  return made.offsetWidth <= table.box.clientWidth + 1;
}

// Draws the columns of the view as wide as there is room; what is wider yet is scrolled in its own box,
// else the head sticks to the window.
function drawTable(table) {
  table.shown = columnsShown(table);
  const groups = groupsOf(table, table.shown);
  const columns = groups.flatMap((group) => group.columns);
  if (table.sort && table.sort.id !== "name" && !columns.some(({ id }) => id === table.sort.id)) table.sort = firstSort(table, columns);
  table.box.classList.remove("wide");
  const fits = modesOf(filters.view).some((mode) => drawMode(table, groups, mode));
  table.box.classList.toggle("wide", !fits);
  applySort(table);
  for (const row of table.rows) row.element.hidden = !rowFits(table, row);
}
