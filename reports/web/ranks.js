// Where the methods stand: rank and share of the gap with their intervals, and bars through those that
// cannot be told apart (as in a critical-difference diagram, but with a line a method, for long names).
// Methods of one letter need not be neighbours: its bar then has gaps.

const LINE = 20;
const BAR = 7;

function lettersOf(head) {
  const count = new Map();
  for (const { alike } of head.places) for (const name of alike) count.set(name, (count.get(name) ?? 0) + 1);
  return [...count].filter(([, number]) => number > 1).map(([name]) => name);
}

// Runs of neighbours among ascending places, as first and last.
function runsOf(at) {
  const runs = [];
  for (const place of at) {
    if (runs.length && runs.at(-1)[1] === place - 1) runs.at(-1)[1] = place;
    else runs.push([place, place]);
  }
  return runs;
}

function notApart(one, other) {
  return [...one.alike].some((name) => other.alike.includes(name));
}

// Panels that there is room for: the field of a place, its name, and the ends of its axis.
function rankPanels(head, room) {
  const ranks = ["rank", "mean rank", 1, Math.max(2, head.places.length)];
  const shares = head.places.map(({ gap }) => gap).filter((gap) => !gap.missing);
  if (!shares.length || room < 330) return [ranks];
  const [low, high] = [Math.min(0, ...shares.map((gap) => gap.low)), Math.max(...shares.map((gap) => gap.high))];
  return [ranks, ["gap", "gap closed, %", low, high === low ? low + 1 : high]];
}

function rankPanel(svg, head, [name, title, low, high], left, width, height) {
  const across = (value) => left + 6 + ((width - 12) * (value - low)) / (high - low);
  const round = ticks(low, high, Math.max(3, Math.floor(width / 60))).filter((at) => name !== "rank" || Number.isInteger(at));
  for (const at of name === "rank" && round[0] > 2 ? [1, ...round] : round) {
    svg.append(shape("line", { x1: across(at), x2: across(at), y1: 22, y2: height - 4, class: at === 0 ? "zero" : "track" }));
    words(svg, across(at), 18, "middle", number(at, Number.isInteger(at) ? 0 : 1));
  }
  words(svg, left + width / 2, 6, "middle", title, { class: "axis-title" });
  head.places.forEach((place, index) => {
    const [found, y] = [place[name], 34 + index * LINE];
    if (found.missing) return;
    const group = shape("g", {});
    group.append(shape("line", { x1: across(found.low), x2: across(found.high), y1: y, y2: y, class: "whisker" }));
    group.append(shape("circle", { cx: across(found.mean), cy: y, r: 4, class: head.places.slice(0, index).every((better) => notApart(better, place)) ? "dot best" : "dot" }));
    svg.append(titled(group, `${place.label}: ${title} ${found.text} ${found.range}`));
  });
}

function drawRanks(head, named, width) {
  const letters = lettersOf(head);
  const height = 34 + head.places.length * LINE;
  const names = head.places.map(({ label }) => (width < 500 ? named(label) : label));
  const longest = Math.max(...names.map((name) => name.length)) * 6.3 + 8;
  const left = Math.min(longest, width * (width < 500 ? 0.34 : 0.4), 250);
  const bars = letters.length * BAR + 10;
  const svg = shape("svg", { width, height, viewBox: `0 -6 ${width} ${height + 6}`, class: "figure", role: "img", "aria-label": `Mean rank of ${plural(head.places.length, "method")} with 95% intervals, the best first; one column of bars holds methods that cannot be told apart. The numbers are in the table.` });
  head.places.forEach((place, index) => {
    const y = 34 + index * LINE;
    if (index % 2) svg.append(shape("rect", { x: 0, y: y - LINE / 2, width, height: LINE, class: "stripe" }));
    titled(words(svg, left - 6, y + 4, "end", cutTo(names[index], Math.floor((left - 8) / 5.9)), { class: "strong" }), place.label);
  });
  letters.forEach((letter, index) => {
    const with_ = head.places.map((place, i) => (place.alike.includes(letter) ? i : -1)).filter((i) => i >= 0);
    const x = left + 4 + index * BAR;
    const bar = shape("g", { class: "clique" });
    for (const [first, last] of runsOf(with_)) bar.append(shape("line", { x1: x, x2: x, y1: 34 + first * LINE - 7, y2: 34 + last * LINE + 7 }));
    svg.append(titled(bar, `cannot be told apart: ${with_.map((i) => head.places[i].label).join(", ")}`));
  });
  const room = width - left - bars;
  const panels = rankPanels(head, room);
  const each = (room - 18 * (panels.length - 1)) / panels.length;
  panels.forEach((panel, i) => rankPanel(svg, head, panel, left + bars + i * (each + 18), each, height));
  return svg;
}

function ranksFigure(head, named) {
  return el("figure", {}, el("figcaption", {}, el("strong", {}, "Where the methods stand. "),
    "Whiskers are 95% intervals; methods in one column of bars cannot be told apart; filled: nothing is known to be better."),
  drawing((width) => drawRanks(head, named, width)));
}
