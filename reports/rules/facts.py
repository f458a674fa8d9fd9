"""What a rule can look at: facts of a run, read from its folder.

A fact is a mapping of labels to values: ``{"": [value]}`` for one of the whole run, one entry a task
(``dolly``) or an evaluation (``dolly[mini] strict``) otherwise. Several values of a label are
several evaluations that differ in this fact; an empty list says that nothing was recorded.
"""

import functools
import hashlib
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic_core import from_json

from kdbench.harness.data.sources import split_names
from kdbench.harness.errors import InputError
from kdbench.harness.files.records import Estimate
from kdbench.reports.load import Run, prompt_scores, score_file

Value = str | float
Fact = dict[str, list[Value]]
Facts = dict[str, Fact]
Evaluations = dict[str, dict[str, Value]]
"""Facts of evaluations by key and scorer."""
Tree = dict[str, Any]

MEASURED_WITH = ("teacher", "samples", "seed")
BUDGET = ("response_tokens", "steps", "epochs")


def facts(run: Run, evaluations: Evaluations | None = None) -> Facts | None:
    """Facts of a trained run; None if its folder does not hold them (a summary alone).

    Args:
        run: a finished run.
        evaluations: what is known of evaluations by key and scorer, shared between runs: a key is the
            hash of what it stands for, but for what scored it again. None: read each run's own
            records, and which prompts it answered.

    Raises:
        InputError: a file of the run is no JSON.
    """
    config = _read(run.folder / "config.json")
    prepared = _read(run.folder / "prepare.json")
    if not config or not prepared:
        return None
    spent = run.summary.cost.get("train")
    found: Facts = {
        "regime": _one(config.get("regime")),
        "teacher": _one(_of(prepared, "teacher", "fingerprint")),
        "init": _one(_of(prepared, "init", "fingerprint")),
        "train_data": _one(_of(prepared, "data", "train", "sha256")),
        "dev_data": _one(_of(prepared, "data", "dev", "sha256")),
        "text_data": _one(_of(prepared, "data", "text", "sha256") or "none"),
        "budget": _one(_budget(_of(config, "train") or {})),
        "response_tokens": _one(spent.tokens.get("response") if spent else None),
        "select": _one(_of(config, "train", "select")),
        "tuning": _one(_tuning(config)),
        "judge": {"": sorted(run.summary.judge)} if run.summary.judge else {},
        "probes": _probes(run),
    }
    found |= _overlaps(run, prepared)
    for name in ("seeds", "decoding", "test_data", "scorer", "prompts"):
        found[name] = {}
    for key, scores in sorted(run.summary.scores.items()):
        label = f"{scores.task}[{scores.edition}] {scores.protocol}"
        for name, value in _evaluation(run, key, evaluations).items():
            values = found[name].setdefault(label, [])
            if value not in values:
                values.append(value)
        path = score_file(run, key) if evaluations is None else None
        if path is not None:
            ids = prompt_scores(path).ids
            values = found["prompts"].setdefault(label, [])
            digest = hashlib.sha256("\n".join(ids).encode()).hexdigest()
            values.append(f"{len(ids)} prompts {digest[:12]}")
    return found


def _probes(run: Run) -> Fact:
    """What each probe of each evaluation was measured with."""
    found: dict[str, list[Value]] = {}
    for key, scores in sorted(run.summary.scores.items()):
        for probe, report in sorted(run.summary.probes.get(key, {}).items()):
            told = [f"{name} {_of(report, name)}" for name in MEASURED_WITH if name in report]
            if told:
                place = f"{scores.task}[{scores.edition}] {scores.protocol} {probe}"
                found.setdefault(place, []).append(", ".join(told))
    return found


def _read(path: Path) -> Tree:
    """A JSON document, or nothing."""
    try:
        found = from_json(path.read_bytes())
    except OSError:
        return {}
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON; the file was changed by hand") from error
    return found if isinstance(found, dict) else {}


def _of(tree: Any, *keys: str) -> Any:
    """The value below ``keys``, or None."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def _one(value: Value | None) -> Fact:
    return {"": [] if value in (None, "") else [value]}


def _budget(train: Tree) -> str:
    parts = [f"{train[name]} {name}" for name in BUDGET if train.get(name) is not None]
    return " or ".join(parts).replace("_", " ")


def _tuning(config: Tree) -> str:
    """How many settings were tried; a run older than the record has its shipped suite's word."""
    stated = config["tuning"] if "tuning" in config else _suite_tuning(config)
    trials = _of(stated, "trials")
    return "" if trials is None else f"{trials} tried"


def _suite_tuning(config: Tree) -> Any:
    return _shipped_tuning(str(config.get("suite")), str(_of(config, "method", "name")))


@functools.cache
def _shipped_tuning(suite: str, method: str) -> Any:
    """What a suite of ours states, or one it extends; None for a suite of the user's."""
    file = files("kdbench.harness") / "suites" / f"{suite}.yaml"
    if "/" in suite or not file.is_file():
        return None
    tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    stated = _of(tree, "methods", method, "tuning") or tree.get("tuning")
    return stated or _shipped_tuning(str(tree.get("extends")), method)


def _overlaps(run: Run, prepared: Tree) -> Facts:
    """Shares of each task's prompts that training or development rows have as well."""
    counts = prepared.get("overlaps") or {}
    found: Facts = {"exact_overlap": {}, "dev_overlap": {}, "ngram_overlap": {}}
    for scores in run.summary.scores.values():
        if "test" not in split_names(scores.task):
            continue  # lm-eval's own tasks: their prompts are not looked for in the training set
        task = scores.task
        prompts = counts.get(f"{task} rows") or _prompts(scores.metrics.values())
        for fact, name in (
            ("exact_overlap", f"train&{task}"),
            ("dev_overlap", f"dev&{task}"),
            ("ngram_overlap", f"train~{task}"),
        ):
            known = name in counts and prompts
            found[fact][task] = [counts[name] / prompts] if known else []
    return found


def _prompts(metrics: Any) -> int:
    return max((value.n_prompts for value in metrics if isinstance(value, Estimate)), default=0)


def _evaluation(run: Run, key: str, known: Evaluations | None) -> dict[str, Value]:
    scorer = run.summary.scores[key].scorer
    name = f"{key} {scorer}"
    if known is not None and name in known:
        return known[name]
    record = _read(run.folder / "eval" / key / "evaluation.json")
    found: dict[str, Value] = {}
    if record:
        found = {
            "seeds": ",".join(map(str, record.get("seeds") or [])) or "none",
            "decoding": json.dumps(record.get("decoding") or {}, sort_keys=True),
            "test_data": str(record.get("data_sha256")),
            "scorer": scorer or str(record.get("scorer")),
        }
    if known is not None:
        known[name] = found
    return found
