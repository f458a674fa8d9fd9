// What a board says first: the two pictures, and over several pairs of models the numbers too.

function estimateCell(found) {
  if (found.missing) return el("td", { class: "missing", title: found.missing }, "–");
  return el("td", {}, el("span", { class: "mean" }, found.text), " ", el("span", { class: "interval" }, found.range));
}

// One bar a letter, through all rows that have it: these methods cannot be told apart.
function barsCell(place, letters) {
  const cell = el("td", { class: "bars", title: place.alike ? `cannot be told apart from others marked ${place.alike}` : null }, el("span", { class: "unseen" }, place.alike));
  letters.forEach((name, index) => {
    if (!place.alike.includes(name)) return;
    const bar = el("span", { class: "bar", "aria-hidden": "true" });
    bar.style.left = `${6 + index * BAR}px`;
    cell.append(bar);
  });
  cell.style.minWidth = `${12 + letters.length * BAR}px`;
  return cell;
}

function placesTable(head, title) {
  const letters = lettersOf(head);
  const names = ["Method", "", "Gap closed, %", "Mean rank", "Beats SFT, %"];
  const rows = head.places.map((place) => el("tr", {}, el("th", { scope: "row", class: "name" }, place.label), barsCell(place, letters), ["gap", "rank", "beats"].map((name) => estimateCell(place[name]))));
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": title },
    el("table", { class: "board places" }, el("caption", { class: "unseen" }, title),
      el("thead", {}, el("tr", {}, names.map((name) => el("th", { scope: "col", class: name === "Method" ? "name" : null }, name)))), el("tbody", {}, rows)));
}

function headlineFigures(head, named = (label) => label, open = null) {
  const figures = el("div", { class: "figures" }, ranksFigure(head, named), costFigure(head, named, open));
  const details = el("details", { class: "fold headline", open: true, ontoggle: redraw }, el("summary", {}, "Who is ahead, and at what cost"),
    figures, head.notes.map((note) => el("p", { class: "note" }, note)), costTable(head));
  return details;
}

function overallSection(head) {
  return el("section", {}, el("h2", {}, head.title), placesTable(head, `Where the methods stand, ${head.title}`), headlineFigures(head));
}
