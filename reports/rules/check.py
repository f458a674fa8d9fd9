"""The rules as data (``<version>.yaml`` beside this file), what each run breaks, and its division."""

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, Self

from pydantic import model_validator

from kdbench.harness.errors import InputError
from kdbench.harness.files.records import Record
from kdbench.harness.files.run_folder import RunFolder
from kdbench.harness.files.shipped import RULES
from kdbench.reports.facts import Evaluations, Facts, Value, facts
from kdbench.reports.runs import Run

DEFAULT = "closed-v2"
Division = Literal["closed", "open", "reference", "outside"]
SHORT = 8
"""Hex digits that tell teachers of one name apart."""
TESTS = ("same", "within", "one_of", "at_most", "stated")


class Pair(NamedTuple):
    """What runs share that one table compares: not the student's content, as a seed may make its own init."""

    suite: str
    teacher: str = ""
    teacher_content: str = ""
    student: str = ""

    @property
    def title(self) -> str:
        """In words, without content."""
        return pair_title(self.suite, self.teacher, self.student)


def teacher_names(pairs: Sequence[Pair]) -> list[str]:
    """Of each pair its teacher; with digits of its content where tables would be called alike."""
    alike = Counter(pair._replace(teacher_content="") for pair in pairs)
    return [
        pair.teacher
        if alike[pair._replace(teacher_content="")] == 1
        else f"{pair.teacher} {pair.teacher_content[:SHORT]}"
        for pair in pairs
    ]


class Rule(Record):
    """One test of one fact (`kdbench.reports.facts.facts`); what each means is in the YAML file."""

    name: str
    says: str
    fact: str
    same: bool = False
    per: Literal["training_seed"] | None = None
    within: float | None = None
    one_of: list[str] = []
    at_most: float | None = None
    stated: bool = False
    unrecorded: Literal["breaks", "passes"] = "breaks"

    @property
    def compares(self) -> bool:
        """Whether it compares runs with each other; of a run alone it says nothing."""
        return self.same or self.within is not None

    @model_validator(mode="after")
    def _one_test(self) -> Self:
        given = [name for name in TESTS if name in self.model_fields_set]
        if len(given) != 1:
            raise ValueError(f"rule {self.name!r} needs exactly one of {', '.join(TESTS)}")
        return self


class Rulebook(Record):
    """A division's rules."""

    version: str
    extends: str | None = None
    """A version all of whose rules hold too, before these."""
    rules: list[Rule]


def rulebook(name: str = DEFAULT) -> Rulebook:
    """The rules of a version that comes with kdbench, or of a YAML file.

    Raises:
        InputError: no such version or file, or it is no rulebook.
    """
    book = RULES.load(name, Rulebook)
    if book.extends is None:
        return book
    base = RULES.load(book.extends, Rulebook)
    return book.model_copy(update={"rules": [*base.rules, *book.rules]})


class Finding(Record):
    """One rule that one run breaks."""

    rule: str
    run: str
    where: str
    """Task or evaluation, if the rule looks at each."""
    found: str
    expected: str

    @property
    def sentence(self) -> str:
        """One line for a person."""
        where = f" on {self.where}" if self.where else ""
        return f"{self.rule}: {self.run}{where}: found {self.found}, expected {self.expected}"


class Judged(Record):
    """A run's division and the rules it breaks, in the order of the rulebook."""

    run: str
    folder: str
    group: str
    division: Division
    broken: list[str]
    findings: list[Finding] = []
    untested: list[str] = []
    """Rules that compare runs, where there was no other run of the group to compare with."""


Known = tuple[Run, Facts]
"""A run with what is known of it."""


def judge_runs(
    runs: Sequence[Run], book: Rulebook | None = None, *, strict: bool = False
) -> dict[RunFolder, Judged]:
    """Applies the rules to runs, by folder.

    A run is compared with the runs given that share its suite, its teacher by content, and its student
    by name. What "the same" means there is the value that most of them have; of equally frequent
    values, that of the first run by folder name. Evaluated models (kind eval) are references and
    are not judged. A folder without configuration or preparation (a summary alone) keeps the
    division that its summary states, unless ``strict``; one whose files cannot be read is open.

    Args:
        runs: finished runs.
        book: the rules; None: those of the default version.
        strict: also compare the prompts answered, and refuse a summary alone.
    """
    book = book or rulebook()
    groups: dict[Pair, list[Known]] = defaultdict(list)
    judged: dict[RunFolder, Judged] = {}
    evaluations: Evaluations | None = None if strict else {}
    for run in sorted(runs, key=lambda run: (run.folder.name, str(run.folder.path))):
        card = run.summary.run
        known, problem = None, "a summary alone" if strict else ""
        try:
            known = facts(run, evaluations) if card.kind == "run" else None
        except InputError as error:
            problem = str(error).replace(f"{run.folder.path}/", "")
        if known is not None:
            groups[group_of(run)].append((run, known))
            continue
        unread = _finding("recorded", run, "", problem, "its configuration and preparation")
        findings = [unread] if problem and card.kind == "run" else []
        judged[run.folder] = _judged(run, findings, "open" if findings else card.division, [])
    names = dict(zip(groups, teacher_names(list(groups)), strict=True))
    for pair, group in groups.items():
        found: dict[RunFolder, list[Finding]] = defaultdict(list)
        for rule in book.rules:
            for run, finding in _apply(rule, group):
                found[run.folder].append(finding)
        untested = [r.name for r in book.rules if r.compares] if len(group) == 1 else []
        for run, _ in group:
            mine = found[run.folder]
            made = _judged(run, mine, "open" if mine else "closed", untested)
            title = pair_title(pair.suite, names[pair], pair.student)
            judged[run.folder] = made.model_copy(update={"group": title})
    return judged


def with_divisions(runs: Sequence[Run], book: Rulebook | None = None) -> list[Run]:
    """The same runs, their cards' division as the rules give it and ``broken`` filled in."""
    judged = judge_runs(runs, book)
    made = []
    for run in runs:
        verdict = judged[run.folder]
        card = run.summary.run.model_copy(update={"division": verdict.division})
        summary = run.summary.model_copy(update={"run": card})
        made.append(run._replace(summary=summary, broken=tuple(verdict.broken)))
    return made


def group_of(run: Run) -> Pair:
    """The runs that it is compared with: a teacher trained anew is another, whatever its name."""
    card = run.summary.run
    teacher, student = card.teacher, card.student
    content = teacher.fingerprint if teacher else ""
    return Pair(
        card.suite, teacher.name if teacher else "", content, student.name if student else ""
    )


def pair_title(suite: str, teacher: str, student: str) -> str:
    """A table's suite and pair of models in words."""
    return f"{suite}: {teacher} → {student}" if teacher and student else suite


def _judged(run: Run, findings: list[Finding], division: Division, untested: list[str]) -> Judged:
    return Judged(
        run=run.folder.name,
        folder=str(run.folder.path),
        group=group_of(run).title,
        division=division,
        broken=list(dict.fromkeys(finding.rule for finding in findings)),
        findings=findings,
        untested=untested,
    )


def _finding(rule: str, run: Run, where: str, found: str, expected: str) -> Finding:
    return Finding(rule=rule, run=run.folder.name, where=where, found=found, expected=expected)


def _apply(rule: Rule, group: Sequence[Known]) -> Iterator[tuple[Run, Finding]]:
    """What the runs of a group break of one rule."""
    references = _References(rule, group)
    for run, known in group:
        for label, values in (known.get(rule.fact) or {"": []}).items():
            if not values and rule.unrecorded == "breaks":
                yield run, _finding(rule.name, run, label, "nothing recorded", rule.says)
            elif values and (expected := references.expected(run, label, values)):
                found = " and ".join(_show(rule, value) for value in values)
                yield run, _finding(rule.name, run, label, found, expected)


class _References:
    """What a rule expects of each run of a group."""

    def __init__(self, rule: Rule, group: Sequence[Known]) -> None:
        self.rule = rule
        pools: dict[tuple[str, int | None], list[Value]] = defaultdict(list)
        for run, known in group if rule.compares else ():
            for label, values in known.get(rule.fact, {}).items():
                pools[label, self._seed(run)] += values
        self.reference: dict[tuple[str, int | None], tuple[Value, int]] = {
            key: Counter(pool).most_common(1)[0]  # of equals, the first that came
            if rule.same
            else (statistics.median(map(float, pool)), len(pool))
            for key, pool in pools.items()
            if pool
        }

    def expected(self, run: Run, label: str, values: Sequence[Value]) -> str:
        """What was expected, in words; empty if the values are that."""
        rule = self.rule
        if rule.one_of:
            wrong = set(values) - set(rule.one_of)
            return " or ".join(rule.one_of) if wrong else ""
        if rule.at_most is not None:
            worst = max(map(float, values))
            return f"at most {100 * rule.at_most:g}%" if worst > rule.at_most else ""
        if not rule.compares:
            return ""
        reference, count = self.reference[label, self._seed(run)]
        if rule.within is not None:
            middle = float(reference)
            far = any(abs(float(value) - middle) > rule.within * middle for value in values)
            return f"{middle:g} ± {100 * rule.within:g}% (the group's median)" if far else ""
        if reference in values:
            return ""
        seed = " of this seed" if rule.per else ""
        return f"{_show(rule, reference)} as {count} of the group's values{seed}"

    def _seed(self, run: Run) -> int | None:
        return run.summary.run.training_seed if self.rule.per else None


def _show(rule: Rule, value: Value) -> str:
    if rule.at_most is not None:
        return f"{100 * float(value):.1f}%"
    text = f"{value:g}" if isinstance(value, float) else str(value)
    is_hash = len(text) >= 32 and all(character in "0123456789abcdef" for character in text)
    return text[:12] if is_hash else text
