// The columns of a table as they are drawn: where a row stands and what it cost first, then task by task.

const STANDING = "Standing";

function standingCell(row, found) {
  if (!found) return row.reference ? { missing: true, blank: true, reason: "a reference is not ranked" } : { missing: true, reason: "not in all main columns" };
  return found.missing ? { missing: true, reason: found.missing } : { ...found, bold: false, note: null };
}

function costCell(table, row) {
  const kind = chosenCost(table.costs);
  const [value, text] = row.cost[kind] ?? [];
  const front = table.places.get(row.label)?.cost[kind]?.[2];
  if (value === undefined) return { missing: true, blank: row.reference, reason: "not recorded" };
  return { mean: value, text, range: "", low: null, high: null, bold: front, note: null, about: front ? "no method is both better and cheaper" : null };
}

function gapCell(table, row) {
  const place = table.places.get(row.label);
  if (place || !row.gap) return standingCell(row, place?.gap);
  return { mean: row.gap[0], text: row.gap[1], range: "", low: null, high: null, bold: false, note: null, about: "of the same means, without an interval" };
}

function standingColumns(table) {
  const head = table.headline;
  const column = (id, label, better, digits, about, cell) => ({ id, heading: STANDING, label, better, digits, about, cell, kind: "standing" });
  const made = head ? [
    column("gap", "Gap closed, %", 1, 0, "of the way from SFT to the teacher", (row) => gapCell(table, row)),
    column("rank", "Mean rank", -1, 1, "over the main columns, 1 is best", (row) => standingCell(row, table.places.get(row.label)?.rank)),
    { ...column("alike", "Alike", 1, 0, "methods in one column of bars cannot be told apart; sorts by the mean score", (row) => {
      const at = head.places.findIndex(({ label }) => label === row.label);
      return at < 0 ? standingCell(row, null) : { mean: -at, text: head.places[at].alike, place: head.places[at], note: null };
    }), bars: true },
    column("beats", "Beats SFT, %", 1, 0, "how likely one training makes a better student than one of SFT under another seed", (row) => standingCell(row, table.places.get(row.label)?.beats)),
  ].filter(({ id }) => id !== "gap" || head.places.some(({ gap }) => !gap.missing))
    .filter(({ id }) => id !== "beats" || head.places.some(({ beats }) => !beats.missing)) : [];
  if (!table.costs.length) return made;
  const name = table.costs.find(([kind]) => kind === chosenCost(table.costs))[1];
  const cost = column("cost", "Cost", -1, 0, `${name}, one training`, (row) => costCell(table, row));
  made.splice(head ? 3 : 0, 0, { ...cost, under: name });
  return made;
}

function scoreColumns(table) {
  return table.columns.map((column, index) => ({ ...column, index, id: `${column.heading} ${column.label}`,
    cell: (row) => {
      const cell = row.cells[index];
      return cell.missing ? { ...cell, reason: table.reasons[cell.note] } : cell;
    } }));
}

// Groups of the columns of a view, each column once; what hardly a method has comes last.
function groupsOf(table, indices) {
  const methods = table.rows.filter((row) => !row.reference);
  const rows = methods.length ? methods : table.rows;
  const thin = (column) => rows.filter((row) => !column.cell(row).missing).length * 2 < rows.length;
  const every = scoreColumns(table);
  const groups = new Map();
  for (const index of indices) {
    const { heading } = every[index];
    groups.set(heading, [...(groups.get(heading) ?? []), every[index]]);
  }
  const sorted = [...groups].map(([heading, columns]) => {
    const [full, rest] = [columns.filter((column) => !thin(column)), columns.filter(thin)];
    return { heading, columns: [...full, ...rest], thin: !full.length };
  });
  const standing = standingColumns(table);
  return [...(standing.length ? [{ heading: STANDING, columns: standing, standing: true }] : []),
    ...sorted.filter((group) => !group.thin), ...sorted.filter((group) => group.thin)];
}

// Whether only the first columns of a group are shown: as was chosen, else as there is room.
function isFolded(table, group, mode) {
  if (keptList(table, "open").includes(group.heading)) return false;
  if (keptList(table, "shut").includes(group.heading)) return true;
  return group.standing ? mode.standing : mode.folded;
}

function setFolded(table, group, folded) {
  for (const [name, mine] of [["open", !folded], ["shut", folded]]) {
    const others = keptList(table, name).filter((heading) => heading !== group.heading);
    keep(keyOf(table, name), [...others, ...(mine ? [group.heading] : [])].join("|"));
  }
}

// Ways to draw a table, the widest first; the first one that fits is taken.
function modesOf(view) {
  const folds = view === "main" ? [[false, false], [true, false], [true, true]] : [[false, true]];
  const wanted = { full: [false], short: [true] }[state.get("cells")] ?? [false, true];
  return wanted.flatMap((short) => folds.filter((fold) => short || !fold[0] || !fold[1] || wanted.length === 1).map(([folded, standing]) => ({ short, folded, standing })));
}

function drawnColumns(groups, table, mode) {
  return groups.flatMap((group) => {
    const folded = isFolded(table, group, mode);
    const few = group.standing ? group.columns.slice(0, 2) : group.columns.slice(0, 1);
    return (folded ? few : group.columns).map((column) => ({ ...column, group, folded }));
  });
}
