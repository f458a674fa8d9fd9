// Filters, and the page put together.

const VIEWS = [
  ["main", "Main", (column) => column.main],
  ["score", "Scores", (column) => column.kind === "score"],
  ["judge", "Judge", (column) => column.kind === "judge"],
  ["probe", "Probes", (column) => column.kind === "probe"],
  ["all", "Everything", () => true],
];
const filters = { text: "", pair: "", edition: "", task: "", division: "", view: "main" };
const defaults = { ...filters };

function columnsShown(table) {
  const fits = (VIEWS.find(([name]) => name === filters.view) ?? VIEWS[0])[2];
  return table.columns.flatMap((column, index) => fits(column)
    && (!filters.edition || column.edition === filters.edition)
    && (!filters.task || column.task === filters.task) ? [index] : []);
}

// A row fits if its text does and, where tasks or editions are chosen, if it has a value there.
// References are there to compare with: no filter hides them.
function rowFits(table, row) {
  const narrowed = filters.edition || filters.task;
  return row.reference || (row.search.includes(filters.text.trim().toLowerCase())
    && (!filters.division || row.division === filters.division)
    && (!narrowed || table.shown.some((index) => !row.cells[index].missing)));
}

function applyFilters(redrawn) {
  let [shown, all] = [0, 0];
  for (const table of DATA.tables) {
    const fits = !filters.pair || table.title === filters.pair;
    table.section.hidden = !fits || !columnsShown(table).length;
    if (redrawn && !table.section.hidden) drawTable(table);
    for (const row of table.rows) {
      row.element.hidden = !rowFits(table, row);
      all += 1;
      shown += !row.element.hidden && !table.section.hidden;
    }
    if (table.updateMatrix) table.updateMatrix();
  }
  document.getElementById("count").textContent = shown === all ? plural(all, "row") : `${shown} of ${plural(all, "row")}`;
}

function setFilter(name, value, redrawn = true) {
  filters[name] = value;
  keep(name, value === defaults[name] ? "" : value);
  applyFilters(redrawn);
}

function values(read) {
  return [...new Set(DATA.tables.flatMap(read))];
}

// A choice that would have one answer only is left out.
function choice(label, name, options, all = [["", "all"]]) {
  if (options.length < 2) return null;
  const node = select([...all, ...options.map((value) => (Array.isArray(value) ? value : [value, value]))], () => setFilter(name, node.value), { name });
  return field(label, node);
}

function costChoice() {
  const costs = [...new Map([...DATA.tables, ...DATA.overall].flatMap((each) => each.costs))];
  if (costs.length < 2) return null;
  const node = select(costs, () => {
    keep("cost", node.value === costs[0][0] ? "" : node.value);
    for (const place of document.querySelectorAll(".drawing.costs")) place.again();
    applyFilters(true);
  }, { name: "cost" });
  return field("Cost", node);
}

function cellsChoice() {
  const node = select([["", "as there is room"], ["full", "with intervals"], ["short", "numbers only"]], () => {
    keep("cells", node.value);
    applyFilters(true);
  }, { name: "cells" });
  return field("Cells", node);
}

function drawControls() {
  const text = el("input", { type: "search", name: "text", placeholder: "method, variant, student", autocomplete: "off", oninput: () => setFilter("text", text.value, false) });
  const columns = DATA.tables.flatMap((table) => table.columns);
  const views = VIEWS.filter(([name, , fits]) => name === "all" || columns.some(fits)).map(([name, label]) => [name, label]);
  defaults.view = views[0][0];
  const view = select(views, () => setFilter("view", view.value), { name: "view" });
  const form = document.getElementById("controls");
  form.append(...[field("Search", text), choice("Pair", "pair", values((table) => table.title)),
    choice("Task", "task", values((table) => table.columns.map((column) => column.task))),
    choice("Edition", "edition", values((table) => table.columns.map((column) => column.edition))),
    choice("Division", "division", values((table) => table.rows.map((row) => row.division))),
    field("Columns", view), costChoice(), cellsChoice(), el("span", { id: "count", role: "status" })].filter(Boolean));
  form.addEventListener("submit", (event) => event.preventDefault());
}

function drawSection(table, at) {
  table.at = at;
  table.places = new Map((table.headline?.places ?? []).map((place) => [place.label, place]));
  table.letters = table.headline ? lettersOf(table.headline) : [];
  table.rows.forEach((row, index) => {
    row.place = index;
    row.search = `${table.title} ${row.label} ${row.student} ${row.regime} ${row.tuning}`.toLowerCase();
  });
  table.element = el("table");
  const id = `board-${at}`;
  const named = (label) => {
    const row = table.rows.find((other) => other.label === label);
    return row && table.rows.filter((other) => other.name === row.name).length === 1 ? row.name : label;
  };
  const open = (label, opener) => openCard(table, table.rows.find((row) => row.label === label), opener);
  table.box = el("div", { class: "scroll tall", tabindex: 0, role: "region", "aria-labelledby": id }, table.element);
  table.section = el("section", { "aria-labelledby": id },
    el("div", { class: "section-head" }, el("h2", { id }, table.suite, el("span", { class: "pair" }, table.pairTitle)), csvButton(table)),
    table.headline ? headlineFigures(table.headline, named, open) : null, table.box,
    el("p", { class: "note" }, table.legend),
    table.reasons.length ? el("p", { class: "note reasons" }, table.reasons.map((reason, i) => el("span", {}, el("sup", {}, letter(i)), ` ${reason}`))) : null,
    table.notes.map((note) => el("p", { class: "note" }, note)),
    el("p", { class: "signature" }, table.signature), matrixSection(table), samplesSection(table));
  return table.section;
}

function keptSort(table) {
  const [direction, ...rest] = (state.get(keyOf(table, "sort")) ?? "").split(" ");
  if (direction === "none") return null;
  const columns = groupsOf(table, columnsShown(table)).flatMap((group) => group.columns);
  const id = rest.join(" ");
  const known = id === "name" || [...standingColumns(table), ...scoreColumns(table)].some((column) => column.id === id);
  return ["ascending", "descending"].includes(direction) && known ? { id, direction } : firstSort(table, columns);
}

// Everything as the address says; what it names and is not here stays as it is at first.
function restore() {
  const form = document.getElementById("controls");
  for (const name of [...Object.keys(filters), "cost", "cells"]) {
    const control = form.elements.namedItem(name);
    const first = defaults[name] ?? control?.options?.[0].value ?? "";
    if (control) control.value = state.get(name) ?? first;
    if (control && !control.value) control.value = first;
    if (name in filters) filters[name] = control ? control.value : "";
  }
  for (const table of DATA.tables) table.sort = keptSort(table);
  applyFilters(true);
  redraw();
  for (const place of document.querySelectorAll(".drawing.costs")) place.again();
  for (const table of DATA.tables) {
    if (table.matrix) table.matrix.open = Boolean(state.get(keyOf(table, "matrix")));
    const row = table.rows.find((other) => other.label === state.get(keyOf(table, "card")));
    if (row) openCard(table, row, row.element.querySelector("button.open"));
    else if (table.answers && state.get(keyOf(table, "answers"))) table.answers.open = true;
  }
}

// Once the window has another width, and its drag has paused.
function onResize() {
  let [waiting, before] = [0, innerWidth];
  addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => {
      if (before === innerWidth || document.getElementById("card").open) return;
      before = innerWidth;
      redraw();
      applyFilters(true);
    }, 120);
  });
}

function tell(id, text) {
  const node = document.getElementById(id);
  node.hidden = !text;
  node.textContent = text;
}

function start() {
  themeButton();
  closeOnBackdrop();
  readState();
  drawControls();
  tell("summary", DATA.summary);
  document.getElementById("boards").append(...DATA.overall.map(overallSection), ...DATA.tables.map(drawSection));
  tell("room", DATA.room);
  tell("left-out", DATA.leftOut.length ? `Left out: ${DATA.leftOut.join("; ")}` : "");
  restore();
  onResize();
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault(); // the address is the page's state
    document.getElementById("boards").focus();
  });
  addEventListener("hashchange", onLink);
}

// Another address was typed or pasted: an open card is closed first, and what that forgets is said again.
function onLink() {
  const [dialog, wanted] = [document.getElementById("card"), location.hash];
  const again = () => {
    if (!readState(wanted)) return;
    if (location.hash !== wanted) history.replaceState(null, "", wanted);
    restore();
  };
  if (!dialog.open) return again();
  dialog.addEventListener("close", again, { once: true });
  return dialog.close();
}

start();
