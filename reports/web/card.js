// The card of a row: what it is, how well it does, what it cost, how to make it again.

function facts(pairs) {
  return el("dl", {}, pairs.map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}

function cardScores(table, row) {
  const lines = table.columns.map((column, index) => {
    const cell = row.cells[index];
    const name = el("th", { scope: "row" }, `${column.heading} ${column.label}`);
    if (cell.missing) return el("tr", {}, name, el("td", { colspan: 3, class: "dim" }, table.reasons[cell.note]));
    const note = cell.note === null ? "" : ` ${table.reasons[cell.note]}`;
    return el("tr", {}, name, el("td", { class: cell.bold ? "best" : null }, cell.text),
      el("td", { class: "dim" }, cell.range), el("td", { class: "dim" }, `${cell.n ? plural(cell.n, "prompt") : ""}${note}`));
  });
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Scores" }, el("table", { class: "plain" },
    el("thead", {}, el("tr", {}, ["", "mean", "95% interval", ""].map((head) => el("th", { scope: "col" }, head)))), el("tbody", {}, lines)));
}

function grid(label, heads, rows) {
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label }, el("table", { class: "plain" },
    el("thead", {}, el("tr", {}, heads.map((head) => el("th", { scope: "col" }, head)))),
    el("tbody", {}, rows.map((cells) => el("tr", {}, cells.map((text, i) => el(i ? "td" : "th", i ? {} : { scope: "row" }, text)))))));
}

function fold(title, open, ...children) {
  return el("details", { class: "fold", open }, el("summary", {}, title), ...children);
}

// What the method minimises, with links to its papers: the only links of the page, to one place, by ids.
function methodPart(card) {
  const { method } = card;
  const base = document.getElementById("card").dataset.papers;
  const ids = (method?.arxiv ?? []).filter((id) => /^(\d{4}\.\d{4,5}|[a-z-]{2,12}\/\d{7})$/.test(id));
  const link = (id) => el("a", { href: `${base}${id}`, target: "_blank", rel: "noopener noreferrer" }, id);
  let said = [method?.paper ?? ""];
  for (const id of ids) said = said.flatMap((part) => (typeof part === "string" ? part.split(id).flatMap((text, i) => (i ? [link(id), text] : [text])) : [part]));
  const paper = method?.paper ? el("p", { class: "small" }, "Paper: ", said) : null;
  const settings = card.settings ? el("p", { class: "small" }, "Settings: ", card.settings) : null;
  const [first, ...rest] = (method?.objective ?? "").split("\n\n").filter(Boolean);
  return [first ? el("p", { class: "formula" }, first) : null, rest.map((text) => el("p", { class: "small meaning" }, text)), paper, settings];
}

function openCard(table, row, opener) {
  const dialog = document.getElementById("card");
  const { card } = row;
  const close = () => dialog.close();
  const viewer = el("div");
  const title = el("h2", { id: "card-title", tabindex: -1 }, row.label);
  const parts = [
    el("div", { class: "card-head" }, title, el("button", { type: "button", class: "quiet close", onclick: close, autofocus: true }, "Close")),
    methodPart(card),
    facts(card.facts),
    row.broken.length ? el("div", { class: "broken" }, el("p", {}, "In the open division because of:"), el("ul", {}, row.broken.map((rule) => el("li", {}, rule)))) : null,
    row.sampled ? fold("Answers", true, viewer) : null,
    fold("Scores", true, cardScores(table, row)),
    card.cost.length ? fold(card.costTitle, true, grid("Cost by stage", ["stage", "time", "tokens", "peak memory"], card.cost)) : null,
    card.learned.length ? fold(`Learning${card.whose}`, false, facts(card.learned)) : null,
    card.config.length ? fold(`Configuration${card.whose}`, false, card.config.map(([name, pairs]) => [el("h4", {}, name), facts(pairs)])) : null,
    card.provenance.length ? fold(`Provenance${card.whose}`, false, facts(card.provenance)) : null,
    card.command ? el("div", {}, el("h4", {}, `To reproduce${card.whose}`), el("pre", { tabindex: 0 }, card.command)) : null,
    el("p", { class: "signature" }, card.signature),
  ];
  dialog.replaceChildren(...parts.flat(Infinity).filter(Boolean));
  keep(keyOf(table, "card"), row.label);
  if (row.sampled) openViewer(viewer, table, row);
  opener.setAttribute("aria-expanded", "true");
  dialog.addEventListener("close", () => {
    opener.setAttribute("aria-expanded", "false");
    dialog.replaceChildren();
    keep(keyOf(table, "card"), "");
    opener.focus();
  }, { once: true });
  dialog.showModal();
  dialog.scrollTop = 0;
}

function closeOnBackdrop() {
  const dialog = document.getElementById("card");
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
}
