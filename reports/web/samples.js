// Answers of several students to one prompt beside the reference.

const STUDENTS = 3;

// A text, with a visible mark where the page leaves the rest of it out.
function passage(text, cut) {
  const node = el("div", { class: "passage" }, text || el("em", { class: "dim" }, "(empty)"));
  if (cut) node.append(el("span", { class: "cut" }, ` … ${plural(cut, "more character")} not on this page`));
  return node;
}

function answerCard(table, row, answer) {
  const head = el("h4", {}, row.label);
  if (!answer) return el("article", { class: "answer" }, head, el("p", { class: "dim" }, "no answer stored for this prompt"));
  const facts = [];
  if (answer.rouge !== null) facts.push(`ROUGE-L ${number(answer.rouge, 1)}`);
  if (!answer.finished) facts.push("stopped at the length limit");
  return el("article", { class: "answer" }, head, passage(answer.text, answer.cut), el("p", { class: "facts" }, facts.join(" · ")));
}

function referenceCard(prompt) {
  const parts = prompt.references.map(([text, cut]) => passage(text, cut));
  const more = prompt.more ? el("p", { class: "facts" }, plural(prompt.more, "more reference")) : null;
  return el("article", { class: "answer wanted" }, el("h4", {}, "reference"), parts, more);
}

// Rows to begin with: the one that was clicked, the teacher, then the first methods as sorted.
function firstStudents(table, clicked) {
  const able = ordered(table, table.sort).filter((row) => row.sampled && !row.element.hidden);
  const methods = able.filter((row) => !row.reference);
  const teacher = able.find((row) => row.method === "teacher");
  const wanted = [clicked, teacher, ...methods, ...able].filter((row) => row && row.sampled);
  return new Set([...new Set(wanted)].slice(0, STUDENTS));
}

function sampleViewer(table, clicked = null) {
  if (!table.samples.length) return el("p", { class: "dim" }, "These runs hold no stored answers to show.");
  const chosen = firstStudents(table, clicked);
  const answered = table.samples.map((entry) => Object.keys(entry.prompts[0].answers).length);
  let [group, place] = [table.samples[answered.indexOf(Math.max(...answered))], 0];
  const stage = el("div", { class: "stage" });
  const count = el("span", { class: "count", role: "status" });
  const step = (by) => () => {
    place = (place + by + group.prompts.length) % group.prompts.length;
    draw();
  };
  const task = select(table.samples.map((entry, i) => [i, entry.heading]), () => {
    [group, place] = [table.samples[task.value], 0];
    draw();
  }, { class: "sample-task" });
  task.value = table.samples.indexOf(group);
  const previous = el("button", { type: "button", class: "previous", onclick: step(-1), "aria-label": "Previous prompt" }, "←");
  const next = el("button", { type: "button", class: "next", onclick: step(1), "aria-label": "Next prompt" }, "→");
  const boxes = table.rows.filter((row) => row.sampled).map((row) => {
    const box = el("input", { type: "checkbox", onchange: () => {
      if (box.checked) chosen.add(row);
      else chosen.delete(row);
      draw();
    } });
    box.checked = chosen.has(row);
    return el("label", {}, box, row.label);
  });
  const draw = () => {
    const prompt = group.prompts[place];
    count.textContent = `prompt ${place + 1} of ${group.prompts.length}`;
    const kind = prompt.category ? el("span", { class: "tag" }, prompt.category) : null;
    stage.replaceChildren(el("div", { class: "prompt" }, el("h4", {}, "prompt ", kind), passage(prompt.prompt, prompt.cut)),
      el("div", { class: "answers" }, referenceCard(prompt), [...chosen].map((row) => answerCard(table, row, prompt.answers[row.place]))));
  };
  draw();
  return el("div", { class: "viewer" },
    el("div", { class: "controls" }, field("Task", task), el("span", { class: "steps" }, previous, count, next)),
    el("details", { class: "students" }, el("summary", {}, "Choose students"), el("div", { class: "boxes" }, boxes)),
    stage, el("p", { class: "note" }, table.sampleNote));
}

function samplesSection(table) {
  if (!table.samples.length) return null;
  const place = el("div");
  const details = el("details", { class: "fold samples", ontoggle: () => {
    if (details.open && !place.firstChild) place.append(sampleViewer(table));
  } }, el("summary", {}, "Answers side by side"), place);
  return details;
}
