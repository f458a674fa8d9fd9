// Quality upwards, cost to the right; the line joins methods that nothing beats in both.

const MARGIN = { left: 44, right: 14, top: 14, bottom: 40 };

// The axis of costs: logarithmic where they differ much; what costs nothing stands apart at its left end.
function costAxis(points, kind, width) {
  const costs = points.map(({ x }) => x).filter((x) => x > 0);
  let [low, high] = costs.length ? [Math.min(...costs), Math.max(...costs)] : [1, 2];
  const log = high / low > 6;
  const apart = log && costs.length < points.length; // nothing, where the axis has no place for it
  if (log) [low, high] = [low / 1.15, high * 1.15];
  else if (costs.length < points.length) [low, high] = [0, high * 1.08];
  else [low, high] = [Math.max(0, low - (high - low || low) * 0.15), high + (high - low || high) * 0.15];
  const left = MARGIN.left + (apart ? 34 : 8);
  const [from, to] = log ? [Math.log(low), Math.log(high)] : [low, high];
  const across = (x) => (x <= 0 && apart ? MARGIN.left + 8 : left + ((width - left - MARGIN.right) * ((log ? Math.log(x) : x) - from)) / (to - from));
  let round = kind === "seconds" ? TIMES : [];
  if (kind !== "seconds" && log) for (let power = 10 ** Math.floor(Math.log10(low)); power <= high; power *= 10) round.push(power, 2 * power, 5 * power);
  round = round.filter((x) => x >= low && x <= high);
  const at = log && round.length > 1 ? round : ticks(low, high, Math.max(3, width / 110));
  return { across, marks: [...(apart ? [[0, "0"]] : []), ...at.map((x) => [x, amount(x, kind)])] };
}

// Names beside the dots, those of the front first, where they touch nothing that is already there.
function placeNames(svg, points, width, bottom) {
  const taken = points.map(({ left, top }) => [left - 5, top - 5, left + 5, top + 5]);
  for (const point of [...points].sort((a, b) => b.front - a.front || b.y - a.y)) {
    const text = cutTo(point.name, point.front ? 28 : 18);
    const long = text.length * 6.1;
    const spots = [[7, 4, "start", 7], [-7, 4, "end", -7 - long], [0, -8, "middle", -long / 2], [0, 16, "middle", -long / 2]];
    for (const [dx, dy, anchor, start] of spots) {
      const box = [point.left + start, point.top + dy - 10, point.left + start + long, point.top + dy + 2];
      const inside = box[0] > MARGIN.left && box[2] < width && box[1] > 0 && box[3] < bottom;
      if (!inside || taken.some((other) => box[0] < other[2] && other[0] < box[2] && box[1] < other[3] && other[1] < box[3])) continue;
      taken.push(box);
      words(svg, point.left + dx, point.top + dy, anchor, text, { class: point.front ? "strong" : null });
      break;
    }
  }
}

// One stop for Tab; arrows go from method to method, Enter opens its card.
function pointButtons(svg, points, open) {
  const inOrder = [...points].sort((a, b) => a.left - b.left || a.top - b.top);
  inOrder.forEach((point, index) => {
    const dot = shape("circle", { cx: point.left, cy: point.top, r: 5, class: point.front ? "dot best" : "dot open-dot",
      tabindex: index ? -1 : 0, role: open ? "button" : "img", "aria-label": point.said });
    titled(dot, point.said);
    dot.addEventListener("keydown", (event) => {
      const by = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
      if (by) {
        const next = inOrder[(index + by + inOrder.length) % inOrder.length];
        for (const other of inOrder) other.dot.setAttribute("tabindex", other === next ? 0 : -1);
        next.dot.focus();
      } else if (open && (event.key === "Enter" || event.key === " ")) open(point.label, dot);
      else return;
      event.preventDefault();
    });
    if (open) dot.addEventListener("click", () => open(point.label, dot));
    point.dot = dot;
    svg.append(dot);
  });
}

function drawCosts(head, kind, named, open, width) {
  const height = Math.max(220, Math.min(540, width * 0.8, 180 + head.places.length * 16));
  const bottom = height - MARGIN.bottom;
  const points = head.places.filter((place) => kind in place.cost).map((place) => ({
    label: place.label, name: named(place.label), x: place.cost[kind][0], y: place.quality, front: place.cost[kind][2],
    said: `${place.label}: ${head.quality} ${place.gap.missing ? place.rank.text : place.gap.text}, ${place.cost[kind][1]}`,
  }));
  const [low, high] = [Math.min(...points.map(({ y }) => y)), Math.max(...points.map(({ y }) => y))];
  const spread = (high - low) || 1;
  const up = (y) => bottom - 12 - ((bottom - MARGIN.top - 24) * (y - low)) / spread;
  const { across, marks } = costAxis(points, kind, width);
  const title = head.costs.find(([name]) => name === kind)[1];
  const svg = shape("svg", { width, height, viewBox: `0 0 ${width} ${height}`, class: "figure", role: "group", "aria-label": `${head.quality} against ${title}` });
  const sign = head.quality === "mean rank" ? -1 : 1;
  for (const y of ticks(low, high, 5).filter((at) => sign > 0 || Number.isInteger(2 * at))) {
    svg.append(shape("line", { x1: MARGIN.left, x2: width, y1: up(y), y2: up(y), class: "track" }));
    words(svg, MARGIN.left - 6, up(y) + 4, "end", number(sign * y, Number.isInteger(y) ? 0 : 1));
  }
  let last = -Infinity;
  for (const [x, text] of marks) {
    svg.append(shape("line", { x1: across(x), x2: across(x), y1: bottom, y2: bottom + 4, class: "axis-line" }));
    if (across(x) - last < 42) continue;
    last = across(x);
    words(svg, across(x), bottom + 17, "middle", text);
  }
  svg.append(shape("line", { x1: MARGIN.left, x2: width, y1: bottom, y2: bottom, class: "axis-line" }));
  words(svg, (MARGIN.left + width) / 2, height - 6, "middle", `${title}, of one training`, { class: "axis-title" });
  const turned = { transform: `translate(11 ${bottom / 2}) rotate(-90)`, class: "axis-title" };
  words(svg, 0, 0, "middle", head.quality, turned);
  for (const point of points) [point.left, point.top] = [across(point.x), up(point.y)];
  const front = points.filter((point) => point.front).sort((a, b) => a.left - b.left);
  svg.append(shape("polyline", { points: front.map((point) => `${point.left},${point.top}`).join(" "), class: "front" }));
  placeNames(svg, points, width, bottom);
  pointButtons(svg, points, open);
  return svg;
}

// The cost that is chosen for the whole page, where this board has it.
function chosenCost(costs) {
  const wanted = state.get("cost");
  return costs.some(([kind]) => kind === wanted) ? wanted : costs[0]?.[0];
}

function costFigure(head, named, open) {
  if (!head.costs.length) return null;
  const place = drawing((width) => drawCosts(head, chosenCost(head.costs), named, open, width));
  place.classList.add("costs");
  return el("figure", {}, el("figcaption", {}, el("strong", {}, "Quality against cost. "),
    "Filled and joined: no method is both better and cheaper (Pareto front; costs within 1%, and times within what seeds of one method differ by, count as equal). Shared models are not counted."), place);
}

function costTable(head) {
  if (!head.costs.length) return null;
  const rows = head.places.map((place) => el("tr", {}, el("th", { scope: "row" }, place.label),
    head.costs.map(([kind]) => el("td", { class: place.cost[kind]?.[2] ? "best" : null }, place.cost[kind]?.[1] ?? "–"))));
  return el("details", { class: "small" }, el("summary", {}, "All costs as a table"),
    el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "What one training used" },
      el("table", { class: "plain" }, el("thead", {}, el("tr", {}, ["method", ...head.costs.map(([, name]) => name)].map((name) => el("th", { scope: "col" }, name)))), el("tbody", {}, rows))));
}
