// What the page shows is in the fragment of its address, so that a link or a reload shows it again.
// The values come from whoever wrote the link: they choose among what is there and are never drawn.

const state = new Map();

function readState(fragment = location.hash) {
  const text = fragment.slice(1);
  if (text && !text.includes("=")) return false; // a place on the page, not a state
  state.clear();
  for (const [key, value] of new URLSearchParams(text)) state.set(key, value);
  return true;
}

function keep(key, value) {
  const text = value === undefined || value === null ? "" : String(value);
  if ((state.get(key) ?? "") === text) return;
  if (text) state.set(key, text);
  else state.delete(key);
  const fragment = new URLSearchParams([...state].sort(([a], [b]) => (a < b ? -1 : 1))).toString();
  try {
    history.replaceState(null, "", fragment ? `#${fragment}` : location.href.split("#")[0]);
  } catch {
    // a browser that lets a file keep no address still shows everything
  }
}

// Names of one table's state; the first table's have no number.
function keyOf(table, name) {
  return table.at ? `${name}.${table.at + 1}` : name;
}

function keptList(table, name) {
  return (state.get(keyOf(table, name)) ?? "").split("|").filter(Boolean);
}
