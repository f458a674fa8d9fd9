// The visible part of a table as a file.

function csvCell(value) {
  const text = value === null || value === undefined ? "" : String(value);
  // no formula of a name: spreadsheets drop blanks in front, and read full-width signs as signs
  const safe = typeof value === "string" && /^(?:[\t\r\n]|\s*[=+\-@＝＋－＠])/.test(text) ? `'${text}` : text;
  return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

function csvText(table) {
  const columns = table.drawn.filter((column) => !column.bars);
  const name = ({ heading, label }) => `${heading} ${label}`;
  const head = ["row", "method", "division", "training seeds", ...columns.flatMap((column) => [name(column), `${name(column)} low`, `${name(column)} high`])];
  const rows = ordered(table, table.sort).filter((row) => !row.element.hidden).map((row) => [row.label, row.method, row.division, row.seeds.join(" "),
    ...columns.flatMap((column) => {
      const cell = column.cell(row);
      return cell.missing ? [null, null, null] : [cell.mean, cell.low, cell.high];
    })]);
  return [head, ...rows].map((cells) => `${cells.map(csvCell).join(",")}\r\n`).join("");
}

function csvButton(table) {
  return el("button", { type: "button", class: "quiet", title: "the visible rows and columns, with their intervals", onclick: () => {
    const link = el("a", { download: `${table.suite.replace(/[^\w.-]+/g, "-").slice(0, 60) || "board"}.csv` });
    link.href = URL.createObjectURL(new Blob(["\ufeff", csvText(table)], { type: "text/csv;charset=utf-8" }));
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  } }, "Download CSV");
}
