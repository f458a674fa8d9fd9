"""Every setting with values that no setting wants, every kind of file after accidents: one sentence, soon,
and nothing half-written; or what was asked for.

A slice runs with the suite; all trials with ``-m long``, counted in docs/reliability.md.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import faulty_methods
import nasty
import pytest
import yaml
from report_runs import reference_run, trained_run

from kdbench.harness.config import RunConfig
from kdbench.harness.judge.definition import JudgeDefinition
from kdbench.harness.own_methods import METHODS
from kdbench.harness.registry import find_method
from kdbench.harness.resolve import dotted_keys
from kdbench.harness.study.definition import Study

Trial = Callable[[Path, random.Random], list[str]]
"""Prepares files in a folder; returns the command line."""
Kind = Callable[[], Iterator[tuple[str, Trial]]]
"""Trials of one kind by name."""

TRAIN = ("train", "--suite", "mini-test", "--method", "sft", "--runs-dir", "runs")


def fields(model: type) -> list[str]:
    """Keys of settings, without sections."""
    known = dotted_keys(model)
    sections = {key.rpartition(".")[0] for key in known}
    return [key for key in known if key not in sections]


def settings() -> Iterator[tuple[str, Trial]]:
    """Every field of a run, by --set or in a suite, and of every method."""

    def flag(key: str, value: str, method: str = "sft") -> Trial:
        return lambda work, _: [*TRAIN, "--method", method, "--set", f"{key}={value}"]

    def suite(key: str, value: str) -> Trial:
        def made(work: Path, _: random.Random) -> list[str]:
            text = value
            for part in reversed(key.split(".")):
                text = f"{{{part}: {text}}}"
            (work / "own.yaml").write_text(
                f"extends: mini-test\n{text[1:-1]}\n", "utf-8", "replace"
            )
            return [*TRAIN, "--suite", "own.yaml"]

        return made

    for key in fields(RunConfig):
        if key.startswith("method."):
            continue
        for value in nasty.VALUES:
            yield f"set {key}={value[:30]}", flag(key, value)
            yield f"suite {key}: {value[:30]}", suite(key, value)
    for method in METHODS:
        for key in fields(find_method(method).method.Config):
            for value in nasty.VALUES:
                yield f"{method}: {key}={value[:30]}", flag(f"method.{key}", value, method)


def documents() -> Iterator[tuple[str, Trial]]:
    """Fields of judges and studies."""
    judge = "name: j\nmode: pointwise\nmodel: m\nuser: '{prompt} {answer}'\nmax_tokens: 9\n"
    study = "title: t\nsuite: mini-test\nmethod: sft\nseeds: [1]\nbase: a\nrows: [{label: a}]\n"

    def asked(kind: str, text: str, key: str, value: str) -> Trial:
        def made(work: Path, _: random.Random) -> list[str]:
            lines = [line for line in text.splitlines() if not line.startswith(f"{key}:")]
            content = "\n".join([*lines, f"{key}: {value}\n"])
            (work / "own.yaml").write_text(content, "utf-8", "replace")
            if kind == "study":
                return ["ablate", "own.yaml", "--dry-run", "--runs-dir", "runs"]
            trained_run(work / "runs")
            return ["judge", "runs", "--judge", "own.yaml", "--dry-run"]

        return made

    for kind, text, model in (("judge", judge, JudgeDefinition), ("study", study, Study)):
        for key in model.model_fields:
            for value in nasty.VALUES:
                yield f"{kind} {key}: {value[:30]}", asked(kind, text, key, value)


def files() -> Iterator[tuple[str, Trial]]:
    """Data, texts, tasks, suites, studies, judges, rules and claims after accidents."""
    row = '{"instruction": "Say %d.", "input": "", "output": ["one", "two"], "topic": "words"}\n'
    rows = "".join(row % n for n in range(3)).encode()
    array = b"[" + rows.replace(b"\n", b",")[:-1] + b"]"
    suite = (
        b"extends: mini-test\nregime: matched\ntrain:\n  steps: 4\n  lr: 1e-4\n  betas: [0.9, 0.95]\n"
        b"generate: {seeds: [10, 20], batch_size: 4}\ntasks: {names: [dolly], limit: 4}\n"
    )
    study = b"title: t\nsuite: mini-test\nmethod: sft\nseeds: [1]\nbase: a\nrows:\n- {label: a}\n- label: b\n"
    judge = (
        b"name: j\nmode: pointwise\nmodel: m\nuser: '{prompt} {answer}'\nmax_tokens: 9\nlow: 1\n"
    )
    rules = yaml.safe_dump(yaml.safe_load(shipped("rules/closed-v1.yaml"))).encode()
    board = ("leaderboard", "runs", "--rules", "own.yaml")
    kinds: dict[str, tuple[str, bytes, tuple[str, ...]]] = {
        "train": ("own.jsonl", rows, (*TRAIN, "--set", "data.train=own.jsonl")),
        "dev": ("own.jsonl", rows, (*TRAIN, "--set", "data.dev=own.jsonl")),
        "text": ("own.jsonl", b'{"text": "a b c"}\n' * 3, (*TRAIN, "--set", "data.text=own.jsonl")),
        "plain": ("own.txt", b"one two\nthree\n" * 3, (*TRAIN, "--set", "data.text=own.txt")),
        "task": ("own.jsonl", rows, ("run", *TRAIN[1:], "--tasks", "own.jsonl")),
        "array": ("own.json", array, ("run", *TRAIN[1:], "--tasks", "own.json")),
        "suite": ("own.yaml", suite, (*TRAIN, "--suite", "own.yaml")),
        "study": ("own.yaml", study, ("ablate", "own.yaml", "--dry-run", "--runs-dir", "runs")),
        "judge": ("own.yaml", judge, ("judge", "runs", "--judge", "own.yaml", "--dry-run")),
        "rules": ("own.yaml", rules, board),
        "claims": ("own.yaml", CLAIMS, ("claims", "runs", "--claims", "own.yaml")),
    }

    def made(kind: str) -> Trial:
        name, content, command = kinds[kind]

        def prepared(work: Path, random_: random.Random) -> list[str]:
            if "runs" in command and kind in ("judge", "rules", "claims"):
                trained_run(work / "runs")
            (work / name).write_bytes(nasty.damaged(random_, content))
            return list(command)

        return prepared

    for number in range(40):
        for kind in kinds:
            yield f"file {kind} {number}", made(kind)


CLAIMS = b"""version: mine-1
claims:
  - id: worse
    paper: Ours
    where: nowhere
    says: half a loss is worse than a whole one
    method: fkd
    against: [sft]
    metric: rouge_l
    better: lower
    tasks: [dolly]
"""


def shipped(name: str) -> str:
    """A document of the package."""
    return (Path(__file__).parents[1] / "reports" / name).read_text()


def folders() -> Iterator[tuple[str, Trial]]:
    """Run folders with one file after accidents, under the verbs that read them."""
    verbs = {
        "ls": ("ls", "runs", "--runs-dir", "runs"),
        "show": ("show", "{run}"),
        "sample": ("show", "{run}", "--sample", "0"),
        "board": ("leaderboard", "runs"),
        "check": ("check", "runs"),
        "compare": ("compare", "{run}", "runs/eval-teacher-0123456789ab"),
        "score": ("score", "runs"),
        "claims": ("claims", "runs"),
        "ledger": ("ledger", "runs"),
        "judge": ("judge", "runs", "--dry-run"),
        "report": ("report", "{run}", "--json"),
    }

    def made(verb: str) -> Trial:
        def prepared(work: Path, random_: random.Random) -> list[str]:
            run = trained_run(work / "runs")
            reference_run(work / "runs", "teacher", faulty_methods.TEACHER)
            files = sorted(p for p in run.rglob("*") if p.is_file())
            file = random_.choice(files)
            file.write_bytes(nasty.damaged(random_, file.read_bytes()))
            return [word.format(run=run) for word in verbs[verb]]

        return prepared

    for number in range(40):
        for verb in verbs:
            yield f"folder {verb} {number}", made(verb)


def methods() -> Iterator[tuple[str, Trial]]:
    """Method files with one fault each, and after accidents."""

    def made(content: bytes | None) -> Trial:
        def prepared(work: Path, random_: random.Random) -> list[str]:
            text = (
                nasty.damaged(random_, faulty_methods.GOOD.encode()) if content is None else content
            )
            (work / "own.py").write_bytes(text)
            return [*TRAIN, "--method", "own.py"]

        return prepared

    for name, text in faulty_methods.FAULTY.items():
        yield f"method {name}", made(text if isinstance(text, bytes) else text.encode())
    for number in range(60):
        yield f"method damaged {number}", made(None)


KINDS: tuple[Kind, ...] = (settings, documents, files, folders, methods)
LONG = {settings: 900, documents: 300, files: 400, folders: 400, methods: 1000}
"""Trials of each kind, at most, in the long run."""


def chosen(kind: Kind, count: int, seed: int) -> list[tuple[str, Trial]]:
    """So many trials of a kind, drawn by a seed."""
    everything = list(kind())
    return random.Random(seed).sample(everything, min(count, len(everything)))


def attempt(name: str, trial: Trial, work: Path) -> nasty.Ended:
    """One trial in a folder of its own; what a refusal leaves there counts as its fault."""
    command = trial(work, random.Random(name))
    before = nasty.leftovers(work / "runs")
    ended = nasty.trial(command)
    left = [file for file in nasty.leftovers(work / "runs") if file not in before]
    if command[0] == "score":  # what it scored before it came to the damaged one stays scored
        left = [file for file in left if file.endswith(("lock", ".tmp", ".old"))]
    if ended.kind == "refused" and left:
        return ended._replace(kind="leftovers", said=f"{left} {ended.said}")
    return ended


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """No training and no call of a judge; the costly work begins there."""
    monkeypatch.setattr("kdbench.harness.runner.commands.train_run", nasty.accept)


def tried(
    kind: Kind, count: int, seed: int, base: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, nasty.Ended]]:
    """How trials of a kind ended, each in a folder of its own."""
    for number, (name, trial) in enumerate(chosen(kind, count, seed)):
        (work := base / str(number)).mkdir()
        monkeypatch.chdir(work)
        yield name, attempt(name, trial, work)


SLICE = {settings: 14, documents: 8, files: 8, folders: 6, methods: 4}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_slice(kind: Kind, stopped: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, ended in tried(kind, SLICE[kind], 1, tmp_path, monkeypatch):
        assert ended.clear, (name, ended)


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_all(kind: Kind, stopped: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: Counter[str] = Counter()
    wrong, slowest = [], 0.0
    for name, ended in tried(kind, LONG[kind], 2, tmp_path, monkeypatch):
        counts[ended.kind] += 1
        if ended.kind == "refused":
            slowest = max(slowest, ended.seconds)
        if not ended.clear:
            wrong.append((name, ended.kind, ended.said[-1500:]))
            print("WRONG", *wrong[-1], flush=True)
    print(f"{kind.__name__}: {dict(counts)}, slowest refusal {slowest:.1f} s, wrong {len(wrong)}")
    assert not wrong, wrong[:3]
