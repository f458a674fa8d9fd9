// Where the methods stand, and what they cost.

const RANK_WIDTH = 104;
const BAR = 7;

function estimateCell(found) {
  if (found.missing) return el("td", { class: "missing", title: found.missing }, "–");
  return el("td", {}, el("span", { class: "mean" }, found.text), " ", el("span", { class: "interval" }, found.range));
}

// Mean rank on an axis from 1 to the number of methods, 1 on the left.
function rankDrawing(rank, most) {
  const place = (value) => 4 + ((RANK_WIDTH - 8) * (value - 1)) / Math.max(1, most - 1);
  const svg = shape("svg", { width: RANK_WIDTH, height: 14, class: "dots", "aria-hidden": "true" });
  svg.append(shape("line", { x1: 0, x2: RANK_WIDTH, y1: 7, y2: 7, class: "track" }));
  svg.append(shape("line", { x1: place(rank.low), x2: place(rank.high), y1: 7, y2: 7, class: "whisker" }));
  svg.append(shape("circle", { cx: place(rank.mean), cy: 7, r: 3.2, class: "dot" }));
  return svg;
}

// One bar a letter, through all rows that have it: these methods cannot be told apart.
function barsCell(place, letters) {
  const cell = el("td", { class: "bars", title: place.alike ? `cannot be told apart from others marked ${place.alike}` : null }, el("span", { class: "unseen" }, place.alike));
  letters.forEach((name, index) => {
    if (!place.alike.includes(name)) return;
    const bar = el("span", { class: "bar", "aria-hidden": "true" });
    bar.style.left = `${4 + index * BAR}px`;
    cell.append(bar);
  });
  cell.style.minWidth = `${8 + letters.length * BAR}px`;
  return cell;
}

function lettersOf(head) {
  const count = new Map();
  for (const { alike } of head.places) for (const name of alike.match(/\(\d+\)|[a-z]/g) ?? []) count.set(name, (count.get(name) ?? 0) + 1);
  return [...count].filter(([, number]) => number > 1).map(([name]) => name);
}

function placesTable(head, title) {
  const letters = lettersOf(head);
  const names = ["Method", "", "Gap closed, %", "Mean rank", "Beats SFT, %"];
  const rows = head.places.map((place) => {
    const rank = estimateCell(place.rank);
    rank.append(rankDrawing(place.rank, head.places.length));
    return el("tr", {}, el("th", { scope: "row", class: "name" }, place.label), barsCell(place, letters), estimateCell(place.gap), rank, estimateCell(place.beats));
  });
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": title },
    el("table", { class: "board places" }, el("caption", { class: "unseen" }, title),
      el("thead", {}, el("tr", {}, names.map((name) => el("th", { scope: "col", class: name === "Method" ? "name" : null }, name)))), el("tbody", {}, rows)));
}

// Quality upwards, cost to the right; the line joins methods that nothing beats in both.
function costDrawing(head, kind) {
  const [width, height, left, below] = [560, 260, 46, 34];
  const points = head.places.filter((place) => kind in place.cost)
    .map((place) => ({ label: place.label, x: place.cost[kind][0], shown: place.cost[kind][1], front: place.cost[kind][2], y: place.quality }));
  const most = Math.max(...points.map(({ x }) => x), 1e-9) * 1.05;
  const [low, high] = [Math.min(...points.map(({ y }) => y)), Math.max(...points.map(({ y }) => y))];
  const spread = (high - low) || 1;
  const across = (x) => left + ((width - left - 12) * x) / most;
  const up = (y) => height - below - ((height - below - 18) * (y - low)) / spread;
  const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, class: "scatter", role: "img", "aria-label": `${head.quality} against ${kind}` });
  svg.append(shape("line", { x1: left, x2: width, y1: height - below + 8, y2: height - below + 8, class: "track" }));
  svg.append(shape("line", { x1: left - 8, x2: left - 8, y1: 8, y2: height - below, class: "track" }));
  const text = (x, y, anchor, words) => {
    const node = shape("text", { x, y, "text-anchor": anchor });
    node.textContent = words;
    svg.append(node);
  };
  const sign = head.quality === "mean rank" ? -1 : 1;
  text(left - 12, up(high) + 4, "end", number(sign * high, sign < 0 ? 1 : 0));
  text(left - 12, up(low) + 4, "end", number(sign * low, sign < 0 ? 1 : 0));
  text(left, height - 8, "start", "0");
  const last = points.reduce((a, b) => (b.x > a.x ? b : a), points[0]);
  text(across(last.x), height - 8, "end", last.shown);
  const front = points.filter((point) => point.front).sort((a, b) => a.x - b.x);
  svg.append(shape("polyline", { points: front.map((point) => `${across(point.x)},${up(point.y)}`).join(" "), class: "front" }));
  for (const point of points) {
    const dot = shape("circle", { cx: across(point.x), cy: up(point.y), r: 4, class: point.front ? "dot best" : "dot reference" });
    const title = shape("title", {});
    title.textContent = `${point.label}: ${point.shown}`;
    dot.append(title);
    svg.append(dot);
  }
  for (const point of front) {
    const right = across(point.x) > width * 0.6;
    text(across(point.x) + (right ? -8 : 8), up(point.y) - 7, right ? "end" : "start", point.label.length > 28 ? `${point.label.slice(0, 27)}…` : point.label);
  }
  return svg;
}

function costTable(head) {
  const rows = head.places.map((place) => el("tr", {}, el("th", { scope: "row" }, place.label),
    head.costs.map(([kind]) => el("td", { class: place.cost[kind]?.[2] ? "best" : null }, place.cost[kind]?.[1] ?? "–"))));
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Cost of training" },
    el("table", { class: "plain" }, el("thead", {}, el("tr", {}, ["method", ...head.costs.map(([, name]) => name)].map((name) => el("th", { scope: "col" }, name)))), el("tbody", {}, rows)));
}

function costSection(head) {
  if (!head.costs.length) return null;
  const place = el("div", { class: "narrow" });
  const choice = select(head.costs, () => draw());
  const draw = () => place.replaceChildren(costDrawing(head, choice.value));
  draw();
  return el("details", { class: "fold", open: matchMedia("(min-width: 641px)").matches },
    el("summary", {}, "Quality against cost"),
    el("p", { class: "note" }, `${head.quality}, upwards, against the cost of one training; shared models are not counted. Filled: no method is both better and cheaper (Pareto front).`),
    el("div", { class: "controls" }, field("Cost", choice)), place, costTable(head));
}

function headlineSection(head, title) {
  if (!head) return null;
  return [placesTable(head, title), head.notes.map((note) => el("p", { class: "note" }, note)), costSection(head)];
}

function overallSection(head) {
  return el("section", {}, el("h2", {}, head.title), headlineSection(head, head.title));
}
