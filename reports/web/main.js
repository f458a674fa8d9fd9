// Filters, and the page put together.

const VIEWS = [
  ["main", "Main", (column) => column.main],
  ["score", "Scores", (column) => column.kind === "score"],
  ["judge", "Judge", (column) => column.kind === "judge"],
  ["probe", "Probes", (column) => column.kind === "probe"],
  ["all", "Everything", () => true],
];
const filters = { text: "", pair: "", edition: "", task: "", division: "", view: "main" };

function columnsShown(table) {
  const fits = (VIEWS.find(([name]) => name === filters.view) ?? VIEWS[0])[2];
  return table.columns.flatMap((column, index) => fits(column)
    && (!filters.edition || column.edition === filters.edition)
    && (!filters.task || column.task === filters.task) ? [index] : []);
}

// A row fits if its text does and, where tasks or editions are chosen, if it has a value there.
function rowFits(table, row) {
  const narrowed = filters.edition || filters.task;
  return row.search.includes(filters.text)
    && (!filters.division || row.division === filters.division)
    && (!narrowed || table.shown.some((index) => !row.cells[index].missing));
}

function applyFilters(redraw) {
  let [shown, all] = [0, 0];
  for (const table of DATA.tables) {
    if (redraw) drawTable(table, columnsShown(table));
    const fits = !filters.pair || table.title === filters.pair;
    table.section.hidden = !fits || !table.shown.length;
    for (const row of table.rows) {
      row.element.hidden = !rowFits(table, row);
      all += 1;
      shown += !row.element.hidden && !table.section.hidden;
    }
    if (table.updateMatrix) table.updateMatrix();
  }
  document.getElementById("count").textContent = shown === all ? plural(all, "row") : `${shown} of ${plural(all, "row")}`;
}

function values(read) {
  return [...new Set(DATA.tables.flatMap(read))];
}

// A choice that would have one answer only is left out.
function choice(label, name, options) {
  if (options.length < 2) return null;
  const node = select([["", "all"], ...options.map((value) => [value, value])], () => {
    filters[name] = node.value;
    applyFilters(true);
  }, { name });
  return field(label, node);
}

function drawControls() {
  const text = el("input", { type: "search", name: "text", placeholder: "method, variant, student", autocomplete: "off", oninput: () => {
    filters.text = text.value.trim().toLowerCase();
    applyFilters(false);
  } });
  const columns = DATA.tables.flatMap((table) => table.columns);
  const views = VIEWS.filter(([name, , fits]) => name === "all" || columns.some(fits));
  filters.view = views[0][0];
  const view = select(views, () => {
    filters.view = view.value;
    applyFilters(true);
  }, { name: "view" });
  const form = document.getElementById("controls");
  form.append(...[field("Search", text), choice("Pair", "pair", values((table) => table.title)),
    choice("Task", "task", values((table) => table.columns.map((column) => column.task))),
    choice("Edition", "edition", values((table) => table.columns.map((column) => column.edition))),
    choice("Division", "division", values((table) => table.rows.map((row) => row.division))),
    field("Columns", view), el("span", { id: "count", role: "status" })].filter(Boolean));
  form.addEventListener("submit", (event) => event.preventDefault());
}

function drawSection(table, place) {
  table.rows.forEach((row, index) => {
    row.place = index;
    row.search = `${table.title} ${row.label} ${row.student} ${row.regime}`.toLowerCase();
  });
  table.element = el("table");
  const id = `board-${place}`;
  table.section = el("section", { "aria-labelledby": id },
    el("h2", { id }, table.suite, el("span", { class: "pair" }, table.pairTitle)),
    headlineSection(table.headline, `Where the methods stand, ${table.title}`),
    el("div", { class: "scroll tall", tabindex: 0, role: "region", "aria-labelledby": id }, table.element),
    el("p", { class: "note" }, table.legend),
    table.reasons.length ? el("p", { class: "note reasons" }, table.reasons.map((reason, i) => el("span", {}, el("sup", {}, letter(i)), ` ${reason}`))) : null,
    table.notes.map((note) => el("p", { class: "note" }, note)),
    el("p", { class: "signature" }, table.signature), matrixSection(table), samplesSection(table));
  return table.section;
}

function start() {
  themeButton();
  closeOnBackdrop();
  drawControls();
  document.getElementById("summary").textContent = DATA.summary;
  document.getElementById("boards").append(...DATA.overall.map(overallSection), ...DATA.tables.map(drawSection));
  for (const table of DATA.tables) table.sort = firstSort(table, columnsShown(table));
  applyFilters(true);
  const out = document.getElementById("left-out");
  out.hidden = !DATA.leftOut.length;
  out.textContent = `Left out: ${DATA.leftOut.join("; ")}`;
}

start();
