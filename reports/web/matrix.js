// Paired tests of one column among the visible methods, best first.

const MOST = 50;
const ALPHA = 0.05;
// Of a pair tested over prompts alone: it says nothing about other training seeds.
const SCOPE = "(these students only)";

function testedColumns(table) {
  return table.shown.filter((index) => table.pairs[index].length);
}

function matrixRows(table, index) {
  const tested = new Set(table.pairs[index].flatMap(([a, b]) => [a, b]));
  const sign = table.columns[index].better;
  return table.rows.map((row, place) => ({ row, place }))
    .filter(({ row, place }) => tested.has(place) && !row.element.hidden)
    .sort((a, b) => sign * (b.row.cells[index].mean - a.row.cells[index].mean) || a.place - b.place)
    .slice(0, MOST);
}

function pairCell(pair, sign, column, a, b, weak) {
  if (!pair) return el("td", { class: "none", title: "not compared: they share no prompts" }, "·");
  const difference = sign * pair[2];
  const significant = pair[3] < ALPHA;
  const better = difference * column.better > 0;
  const name = significant ? (better ? "ahead" : "behind") : "same";
  const p = pair[3] < 0.0001 ? "p < 0.0001" : `p = ${pair[3].toFixed(4)}`;
  const verdict = significant ? (better ? "significantly better" : "significantly worse") : "no significant difference";
  const scope = weak ? ` ${SCOPE}` : "";
  const title = `${a} minus ${b}: ${number(difference, column.digits)}, ${p} (all pairs): ${verdict}${scope}`;
  return el("td", { class: weak ? `${name} weak` : name, title }, `${difference > 0 ? "+" : ""}${number(difference, column.digits)}`);
}

function drawMatrix(table, index) {
  const [column, rows] = [table.columns[index], matrixRows(table, index)];
  const found = new Map(table.pairs[index].map((pair) => [`${pair[0]} ${pair[1]}`, pair]));
  const head = el("tr", {}, el("td", {}), rows.map(({ row }) => el("th", { scope: "col" }, el("span", {}, row.label))));
  const lines = rows.map((one) => el("tr", {}, el("th", { scope: "row" }, one.row.label), rows.map((two) => {
    if (one === two) return el("td", { class: "self" });
    const straight = found.get(`${one.place} ${two.place}`);
    return pairCell(straight ?? found.get(`${two.place} ${one.place}`), straight ? 1 : -1, column, one.row.label, two.row.label, [one, two].some(({ place }) => table.weak[index].includes(place)));
  })));
  if (rows.length < 2) return el("p", { class: "dim" }, "Fewer than two of the visible rows were compared in this column.");
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `Paired tests, ${column.heading} ${column.label}` },
    el("table", { class: "matrix" }, el("caption", { class: "unseen" }, "Row minus column"), el("thead", {}, head), el("tbody", {}, lines)));
}

// The section under a table; `update` follows its filters.
function matrixSection(table) {
  if (!table.pairs.some((pairs) => pairs.length)) return null;
  const place = el("div");
  const name = (i) => `${table.columns[i].heading} ${table.columns[i].label}`;
  const choice = select([], () => {
    keep(keyOf(table, "matrix"), name(choice.value));
    draw();
  });
  const draw = () => place.replaceChildren(drawMatrix(table, Number(choice.value)));
  const weak = table.weak.some((places) => places.length);
  const details = el("details", { class: "fold", ontoggle: () => {
    table.updateMatrix();
    keep(keyOf(table, "matrix"), details.open ? name(choice.value) : "");
  } },
    el("summary", {}, "All pairs: which differences are significant?"),
    el("p", { class: "note" }, "Secondary to the comparisons with the best (bold) and with SFT, which have fewer tests to pay for. Row minus column, best first. ", el("span", { class: "key ahead" }, "filled"),
      " row significantly better, ", el("span", { class: "key behind" }, "outlined"),
      " significantly worse (paired, familywise p < 0.05 over all pairs); grey: no significant difference.",
      weak ? [" ", el("span", { class: "key ahead weak" }, "Hatched"), " or ", el("span", { class: "key behind weak" }, "dashed"),
        `: tested over prompts without training seeds ${SCOPE}.`] : null),
    el("div", { class: "controls" }, field("Column", choice)), place);
  table.updateMatrix = () => {
    const columns = testedColumns(table);
    choice.replaceChildren(...columns.map((i) => new Option(name(i), i)));
    const kept = columns.find((i) => name(i) === state.get(keyOf(table, "matrix")));
    if (kept !== undefined) choice.value = kept;
    details.hidden = !columns.length;
    if (details.open && columns.length) draw();
  };
  table.matrix = details;
  return details;
}
