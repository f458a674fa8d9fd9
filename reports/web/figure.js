// What the drawings share: text, ticks, and being drawn again when there is more or less room.

const drawings = new Set();

// An element that `draw(width)` fills, again whenever its width has changed.
function drawing(draw, attributes = {}) {
  const place = el("div", { class: "drawing", ...attributes });
  let drawn = 0;
  const again = (force) => {
    if (!place.isConnected || !place.clientWidth || (!force && place.clientWidth === drawn)) return;
    drawn = place.clientWidth;
    place.replaceChildren(draw(drawn));
  };
  drawings.add(again);
  place.again = () => again(true);
  return place;
}

function redraw() {
  for (const again of drawings) again(false);
}

function words(svg, x, y, anchor, text, attributes = {}) {
  const node = shape("text", { x, y, "text-anchor": anchor, ...attributes });
  node.textContent = text;
  svg.append(node);
  return node;
}

function titled(node, text) {
  const title = shape("title", {});
  title.textContent = text;
  node.append(title);
  return node;
}

function cutTo(text, characters) {
  return text.length > characters ? `${text.slice(0, Math.max(1, characters - 1))}…` : text;
}

// Times are round in their own units.
const TIMES = [0, 1, 2, 5, 10, 20, 30, ...[1, 2, 5, 10, 20, 30].map((minutes) => minutes * 60), ...[1, 2, 5, 10, 20, 50, 100, 200, 500, 1000].map((hours) => hours * 3600)];

// Round numbers from low to high, about so many.
function ticks(low, high, about) {
  const unit = 10 ** Math.floor(Math.log10((high - low) / about || 1));
  const step = [1, 2, 5, 10].map((s) => s * unit).find((s) => (high - low) / s <= about) ?? 10 * unit;
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9) * step; at <= high + step * 1e-9; at += step) found.push(Number(at.toPrecision(12)));
  return found;
}

// Tokens in thousands and millions, time in seconds, minutes or hours.
function amount(value, kind) {
  const steps = kind === "seconds" ? [[3600, 3600, " h"], [60, 60, " min"], [0, 1, " s"]] : [[1e9, 1e9, "G"], [1e6, 1e6, "M"], [1e3, 1e3, "k"], [0, 1, ""]];
  const [, unit, name] = steps.find(([least]) => value >= least);
  return `${Number((value / unit).toPrecision(3))}${name}`;
}
