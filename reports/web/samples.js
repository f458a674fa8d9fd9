// Answers of several students to one prompt beside the reference.

const REFERENCE = "reference";

// A text, with a visible mark where the page leaves the rest of it out.
function passage(text, cut, other = null, tag = "ins") {
  const node = el("div", { class: "passage" }, text ? (other === null ? text : marked(text, other, tag)) : el("em", { class: "dim" }, "(empty)"));
  if (cut) node.append(el("span", { class: "cut" }, ` … ${plural(cut, "more character")} not on this page`));
  return node;
}

function answerCard(group, row, answer, role, other, tag) {
  const head = el("h4", {}, row.label, role ? el("span", { class: "tag" }, role) : null);
  if (!answer) return el("article", { class: "answer" }, head, el("p", { class: "dim" }, "no answer stored for this prompt"));
  const told = [];
  if (answer.value !== null) told.push(`${group.metric} ${number(answer.value, group.digits)}`);
  if (answer.exact !== null) told.push(answer.exact ? "exact match" : "no exact match");
  if (!answer.finished) told.push("stopped at the length limit");
  return el("article", { class: "answer" }, head, passage(answer.text, answer.cut, other, tag), el("p", { class: "facts" }, told.join(" · ")));
}

function referenceCard(prompt, other) {
  const parts = prompt.references.map(([text, cut], i) => passage(text, cut, i ? null : other, "del"));
  const more = prompt.more ? el("p", { class: "facts" }, plural(prompt.more, "more reference")) : null;
  return el("article", { class: "answer wanted" }, el("h4", {}, REFERENCE), parts, more);
}

// Who is compared at first: the row that was clicked or the first method as sorted, with SFT or the next.
function firstPair(table, clicked) {
  const able = ordered(table, table.sort).filter((row) => row.sampled && !row.element.hidden);
  const methods = [...able.filter((row) => !row.reference), ...able];
  const one = clicked ?? methods[0];
  const base = table.rows.find((row) => row.sampled && row.label === table.headline?.baseline);
  return [one, [base, ...methods].find((row) => row && row !== one) ?? null];
}

class Viewer {
  constructor(table, clicked) {
    this.table = table;
    this.rows = table.rows.filter((row) => row.sampled);
    this.groups = table.samples.filter((group) => group.count);
    const most = Math.max(...this.groups.map((group) => group.places.length));
    const byLabel = (label) => this.rows.find((row) => row.label === label);
    const [one, two] = firstPair(table, clicked);
    this.group = this.groups.find(({ heading }) => heading === this.kept("answers")) ?? this.groups.find((group) => group.places.length === most);
    this.one = clicked ?? byLabel(this.kept("one")) ?? one;
    this.two = this.kept("two") === REFERENCE ? null : byLabel(this.kept("two")) ?? two;
    this.kind = this.kept("only") ?? "";
    this.extra = new Set([this.rows.find((row) => row.reference && row.method === "teacher")].filter(Boolean));
    this.wanted = Number(this.kept("prompt")) - 1;
    this.marks = true;
    this.at = 0;
  }

  kept(name) {
    return state.get(keyOf(this.table, name));
  }

  keepAll() {
    const { table } = this;
    const said = { answers: this.group.heading, one: this.one.label, two: this.two?.label ?? REFERENCE, only: this.kind, prompt: this.list.length ? this.list[this.at] + 1 : "" };
    for (const [name, value] of Object.entries(said)) keep(keyOf(table, name), value);
  }

  // Unpacks the task and looks which prompts fit; stays at the prompt that was shown, if it fits.
  async load() {
    this.data = await answersOf(this.group);
    const before = this.wanted >= 0 ? this.wanted : this.list?.[this.at] ?? 0;
    this.wanted = -1;
    const kinds = kindsOf(this.group, this.two);
    if (!kinds.some(([name]) => name === this.kind)) this.kind = "";
    this.only.replaceChildren(...kinds.map(([name, text]) => new Option(`${text} (${fitting(this.data, this.group, name, this.one, this.two).length})`, name)));
    this.only.value = this.kind;
    this.list = fitting(this.data, this.group, this.kind, this.one, this.two);
    this.at = Math.max(0, this.list.indexOf(before));
  }

  async change(change) {
    change();
    await this.load();
    this.show();
  }

  step(by) {
    if (this.list.length) this.at = (this.at + by + this.list.length) % this.list.length;
    this.show();
  }

  chosenSelect(rows, chosen, change) {
    const node = select(rows.map((row, i) => [i, row ? row.label : `the ${REFERENCE}`]), () => this.change(() => change(rows[node.value])));
    node.value = rows.indexOf(chosen);
    return node;
  }

  controls() {
    const task = select(this.groups.map((group, i) => [i, group.heading]), () => this.change(() => {
      this.group = this.groups[task.value];
      this.list = null;
    }), { class: "sample-task" });
    task.value = this.groups.indexOf(this.group);
    this.only = select([], () => this.change(() => { this.kind = this.only.value; }));
    const mark = el("input", { type: "checkbox", onchange: () => {
      this.marks = mark.checked;
      this.show();
    } });
    mark.checked = this.marks;
    this.count = el("span", { class: "count", role: "status" });
    const button = (name, by, text) => el("button", { type: "button", class: name, onclick: () => this.step(by), "aria-label": `${name === "next" ? "Next" : "Previous"} prompt` }, text);
    return el("div", { class: "controls" }, field("Task", task),
      field("Student", this.chosenSelect(this.rows, this.one, (row) => { this.one = row; })),
      field("Compared with", this.chosenSelect([null, ...this.rows], this.two, (row) => { this.two = row; })),
      field("Show", this.only), el("label", { class: "check" }, mark, "mark differing words"),
      el("span", { class: "steps" }, button("previous", -1, "←"), this.count, button("next", 1, "→")));
  }

  boxes() {
    return this.rows.map((row) => {
      const box = el("input", { type: "checkbox", onchange: () => {
        if (box.checked) this.extra.add(row);
        else this.extra.delete(row);
        this.show();
      } });
      box.checked = this.extra.has(row) || row === this.one || row === this.two;
      return el("label", {}, box, row.label);
    });
  }

  async open() {
    this.stage = el("div", { class: "stage" });
    this.note = el("p", { class: "note" });
    const controls = this.controls();
    await this.load();
    this.show();
    const node = el("div", { class: "viewer", onkeydown: (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!by || event.target.closest("input, select, summary") || event.altKey || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      this.step(by);
    } }, controls, el("details", { class: "students" }, el("summary", {}, "Choose students to show as well"), el("div", { class: "boxes" }, this.boxes())), this.stage, this.note);
    return node;
  }

  show() {
    const { group, data, list, one, two } = this;
    this.keepAll();
    const all = list.length === data.prompts.length ? "" : ` that are so, of ${data.prompts.length}`;
    this.count.textContent = list.length ? `prompt ${this.at + 1} of ${list.length}${all}` : "no such prompt";
    const left = group.count < group.of ? ` ${group.count.toLocaleString("en")} of ${group.of.toLocaleString("en")} prompts are in this page.` : "";
    this.note.textContent = `${this.table.sampleNote}${left}`;
    if (!list.length) {
      this.stage.replaceChildren(el("p", { class: "dim" }, "There is no such prompt in this task."));
      return;
    }
    const place = list[this.at];
    const prompt = data.prompts[place];
    const answer = (row) => data.answers.get(row.place)?.[place] ?? null;
    const text = (row) => (this.marks && row && answer(row) ? answer(row).text : null);
    const wanted = this.marks ? prompt.references[0]?.[0] ?? null : null;
    const kind = prompt.category ? el("span", { class: "tag" }, prompt.category) : null;
    const others = [...this.extra].filter((row) => row !== one && row !== two);
    this.stage.replaceChildren(el("div", { class: "prompt" }, el("h4", {}, "prompt ", kind), passage(prompt.text, prompt.cut)),
      el("div", { class: "answers" }, referenceCard(prompt, two ? null : text(one)),
        answerCard(group, one, answer(one), null, two ? text(two) : wanted, "ins"),
        two ? answerCard(group, two, answer(two), "compared", text(one), "del") : null,
        others.map((row) => answerCard(group, row, answer(row), null, two ? null : wanted, "ins"))));
  }
}

// Fills a place with a viewer once its first task is unpacked.
async function openViewer(place, table, clicked = null) {
  if (!table.samples.some((group) => group.count)) {
    place.replaceChildren(el("p", { class: "dim" }, "This page holds no stored answers of these runs."));
    return;
  }
  if (typeof DecompressionStream !== "function") {
    place.replaceChildren(el("p", { class: "dim" }, "This browser cannot unpack the answers; a newer one can."));
    return;
  }
  place.replaceChildren(el("p", { class: "dim" }, "unpacking …"));
  place.replaceChildren(await new Viewer(table, clicked).open());
}

function samplesSection(table) {
  if (!table.samples.some((group) => group.count)) return null;
  const place = el("div");
  table.answers = el("details", { class: "fold samples", ontoggle: () => {
    if (table.answers.open && !place.firstChild) openViewer(place, table);
  } }, el("summary", {}, "Answers side by side"), place);
  return table.answers;
}
