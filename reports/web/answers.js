// Answers lie in the page packed, a block a task, and are unpacked by the browser when they are asked for.

const unpacked = new Map();

async function unpack(block) {
  const packed = document.getElementById(`block-${block}`).content.textContent;
  const bytes = Uint8Array.from(atob(packed), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const { prompts, answers } = JSON.parse(await new Response(stream).text());
  return {
    prompts: prompts.map(([text, cut, category, references, more]) => ({ text, cut, category, references, more })),
    answers: new Map(answers.map(([place, found]) => [place, found.map((one) => one && { text: one[0], cut: one[1], finished: one[2], value: one[3], exact: one[4] })])),
  };
}

function answersOf(group) {
  if (!unpacked.has(group.block)) unpacked.set(group.block, unpack(group.block));
  return unpacked.get(group.block);
}

// Filters of prompts by the answers of one student, and of another one.
const KINDS = [
  ["", "all prompts", () => true],
  ["better", "where it is better than the other", (one, two, sign) => sign * (one.value - two.value) > 0, "two"],
  ["worse", "where it is worse than the other", (one, two, sign) => sign * (one.value - two.value) < 0, "two"],
  ["wrong", "where it is wrong (no exact match)", (one) => one.exact === false, "exact"],
  ["right", "where it is right (exact match)", (one) => one.exact === true, "exact"],
  ["lost", "where it is wrong and the other right", (one, two) => one.exact === false && two.exact === true, "two exact"],
  ["cut", "where it stopped at the length limit", (one) => !one.finished],
];

// Which prompts fit a filter; those that a student has no answer to fit none but the first.
function fitting(data, group, kind, one, two) {
  const [name, , fits, needs = ""] = KINDS.find(([other]) => other === kind) ?? KINDS[0];
  const mine = data.answers.get(one?.place) ?? [];
  const theirs = data.answers.get(two?.place) ?? [];
  const scored = needs.includes("two") && !needs.includes("exact");
  return data.prompts.map((_, i) => i).filter((i) => {
    if (!name) return true;
    if (!mine[i] || (needs.includes("two") && !theirs[i])) return false;
    if (scored && (mine[i].value === null || theirs[i].value === null)) return false;
    return fits(mine[i], theirs[i], group.better || 1);
  });
}

function kindsOf(group, two) {
  return KINDS.filter(([, , , needs = ""]) => (!needs.includes("two") || two) && (!needs.includes("exact") || group.exact)
    && (needs !== "two" || group.metric));
}
