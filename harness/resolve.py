"""How a `RunConfig` is put together: defaults < suite < suite's method section < --set < flags.

Suite ``own`` is put together by what is measured of the models and data that --set and flags name.

A suite YAML is a partial RunConfig plus two keys of its own: ``extends`` (another suite to start
from) and ``methods`` (``train``, ``method`` and ``tuning`` fields by method name). Its ``init_sft``
and ``teacher_sft`` trainings are partial too and start from its ``train``.
"""

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from kdbench.harness.config import FREE, RunConfig, TrainConfig, file_task
from kdbench.harness.data.places import from_anywhere
from kdbench.harness.errors import LISTED, InputError, unknown
from kdbench.harness.files.shipped import SUITES, parse_yaml
from kdbench.harness.files.store import validated
from kdbench.harness.foreign import foreign
from kdbench.harness.identity import departures
from kdbench.harness.own.settings import OWN
from kdbench.harness.printing import elided
from kdbench.harness.registry import (
    Found,
    check_method_name,
    find_method,
)

Tree = dict[str, Any]
Change = tuple[str, Any, str]
BUDGET = ("steps", "epochs", "response_tokens")
SHARED = ("precision", "max_length", "max_prompt", "micro_tokens")  # by all trainings of a run
SYNONYMS = {
    "learning_rate": "lr",
    "warmup_steps": "warmup",
    "max_steps": "steps",
    "dtype": "precision",
}
SAID = 80
"""Characters of a setting that a sentence repeats."""
OPEN = (
    "data.template_arguments.",
    "data.columns.",
    "tasks.columns.",
    "endpoint.parameters.",
)
"""Below it, keys are the user's own."""
SUITE_KEYS = {"extends", "methods"}
QLORA = "QLoRA is {section}.lora.quantize=nf4; the student that is kept has its adapters merged"
REFUSED = {
    f"{section}.lora.{key}": QLORA.format(section=section)
    for section in ("train", "init_sft", "teacher_sft")
    for key in ("load_in_4bit", "load_in_8bit", "bits", "quantization_config")
} | {
    "pair.trust_remote_code": "kdbench runs no code that comes with a model; choose one whose "
    "architecture is in transformers",
}


def load_suite(name: str, above: tuple[str, ...] = ()) -> Tree:
    """A suite as a tree, ``extends`` followed, its keys checked.

    Args:
        name: one of ours, or a YAML file.
        above: suites that extend it.

    Raises:
        InputError: no such suite, not YAML, an unknown key, or ``extends`` goes in a circle.
    """
    if name in above:
        raise InputError(f"suite {name} extends itself through {' > '.join(above)}")
    where, tree = SUITES.tree(name)
    _check_suite_keys(tree, where)
    base = load_suite(tree["extends"], (*above, name)) if "extends" in tree else {}
    return merge(base, {key: value for key, value in tree.items() if key != "extends"})


def _check_suite_keys(tree: Tree, where: str) -> None:
    methods = tree.get("methods") or {}
    plain = {key: value for key, value in tree.items() if key not in SUITE_KEYS}
    _check_keys(plain, where)
    for name, section in methods.items():
        place = f"{where}, methods.{name}"
        if str(name).endswith(".py") or "/" in str(name):
            raise InputError(f"{place}: a method in a file is called {Path(str(name)).stem} here")
        if not isinstance(section, dict):
            raise InputError(f"{place} must be a mapping with train, method and tuning")
        for key in section.keys() - {"train", "method", "tuning"}:
            raise unknown("key", key, ["train", "method", "tuning"], f" in {place}")
        _check_keys({key: section.get(key) or {} for key in ("train", "tuning")}, place)


def resolve(
    *,
    suite: str,
    method: str,
    assignments: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
    data_dir: Path | None = None,
) -> RunConfig:
    """The run that a command line asks for.

    Args:
        suite: name or YAML file.
        method: name or ``.py`` file.
        assignments: ``section.key=value`` texts of ``--set``, in order; values are YAML.
        flags: values of flags by dotted key; None values are ignored.
        data_dir: folder of real data sets, which suite ``own`` reads.

    Raises:
        InputError: an unknown name or key (nearest offered) or a value that does not fit.
    """
    check_method_name(method)
    load_suite(suite)  # what is wrong with it is said before the method is imported
    found = find_method(method)
    layers, own = _layers(suite, found.name, changes_of(assignments, flags or {}), data_dir)
    options = _method_config(found, own)
    layers["method"] = {
        "name": found.name,
        "source": found.source,
        "fingerprint": found.fingerprint,
        "options": options.model_dump(mode="json"),
        "departures": departures(options),
    }
    return _settled(layers, suite)


def outline(
    *,
    suite: str,
    method: str,
    assignments: Sequence[str] = (),
    flags: Mapping[str, Any] | None = None,
) -> RunConfig:
    """The same without the method's code, which brings torch: to plan with, not to run.

    The method's own fields are as they were written, neither checked nor completed.

    Raises:
        InputError: as ``resolve``, or a method that is a file.
    """
    check_method_name(method)
    if method.endswith(".py"):
        raise InputError(f"a method in a file cannot be outlined, got {method!r}; name one of ours")
    layers, own = _layers(suite, method, changes_of(assignments, flags or {}))
    layers["method"] = {"name": method, "options": own}
    return _settled(layers, suite)


def _layers(suite: str, method: str, above: Tree, data: Path | None = None) -> tuple[Tree, Tree]:
    """All sections but the method's, and the method's own fields as the suite and ``above`` write them."""
    tree = load_suite(suite)
    if suite == OWN:
        from kdbench.harness.own.suite import measured_tree  # it reads tokenizers

        tree = merge(tree, measured_tree(above, data))
    methods = tree.pop("methods", None) or {}
    own = methods.get(method) or {}
    training = merge(tree.get("train") or {}, own.get("train") or {})
    tuning = _still_true(
        own.get("tuning", tree.get("tuning")), tree | own | {"train": training}, above
    )
    layers = merge(merge(tree, {"train": training, "tuning": tuning}), above)
    layers["suite"] = tree.get("suite") or re.sub(r"\.ya?ml$", "", Path(suite).name)
    layers |= _stages(tree, methods, layers, above)
    return layers, merge(own.get("method") or {}, above.get("method") or {})


def _still_true(tuning: Tree | None, said: Tree, above: Tree) -> Tree | None:
    """What the suite says of how its settings were found, for a training that ``above`` may change.

    What a search found, it found for the suite's models, data and settings; for others it is a guess.
    """
    if not tuning or tuning.get("by") != "search" or "by" in above.get("tuning", {}):
        return tuning
    changed = {section: _without_free(above.get(section)) for section in _TRAINING}
    asked = {section: value for section, value in changed.items() if value}
    if merge(said, asked) == said:
        return tuning
    kept = {key: value for key, value in tuning.items() if key not in {"by", "share", "finalists"}}
    return kept | {
        "note": f"changed from the {tuning.get('note') or 'settings that a search found'}"
    }


def _without_free(asked: Any) -> Any:
    if not isinstance(asked, Mapping):
        return asked
    return {key: value for key, value in asked.items() if key not in FREE}


def overlay(
    config: RunConfig,
    assignments: Sequence[str],
    flags: Mapping[str, Any],
    *,
    sections: Sequence[str],
) -> RunConfig:
    """A resolved run with changes in ``sections`` only, for evaluations that are added to it.

    Raises:
        InputError: an unknown key, a value that does not fit, or a key outside ``sections``.
    """
    above = changes_of(assignments, flags)
    for section in above:
        if section not in sections:
            raise InputError(
                f"{section} was settled when the run was made; change only {', '.join(sections)}"
            )
    return _settled(merge(config.model_dump(mode="json"), above), config.suite)


def _settled(layers: Tree, where: str) -> RunConfig:
    """The checked configuration, with task files named so that they are found from anywhere."""
    config = validated(RunConfig, layers, where, "configuration")
    tasks = config.tasks
    names = tuple(map(_from_anywhere, tasks.names))
    folder = tasks.include_path and os.path.abspath(tasks.include_path)
    changed = tasks.model_copy(update={"names": names, "include_path": folder})
    return config.model_copy(update={"tasks": changed})


def _from_anywhere(task: str) -> str:
    file = file_task(task)
    return f"{file[0]}={from_anywhere(file[1])}" if file else task


def changes_of(assignments: Sequence[str], flags: Mapping[str, Any]) -> Tree:
    """The layer above the suite: ``--set`` in order, then flags."""
    changes = [assignment(text) for text in assignments]
    changes += [(key, value, key) for key, value in flags.items() if value is not None]
    above: Tree = {}
    for dotted, value, source in changes:
        if dotted == "method":
            raise InputError(f"{source}: name the method by --method, its fields by method.KEY")
        _check_keys(_nested(dotted, value), source)
        above = merge(above, _nested(dotted, value), one_layer=True)
    return above


_TRAINING = ("method", "train", "data", "pair", "init_sft", "teacher_sft")


def training_changes(argv: Sequence[str]) -> tuple[str, ...]:
    """What a command changes in the training its suite describes, as ``setting=value``.

    Settings of the method come without their section, and of a path the last part is said.
    """
    said = []
    for text in _given(argv):
        key, _, value = text.partition("=")
        section, _, name = key.partition(".")
        if section in _TRAINING and name not in FREE:
            said.append(f"{key.removeprefix('method.')}={value.rstrip('/').rpartition('/')[2]}")
    return tuple(sorted(said))


def says_tuning(argv: Sequence[str]) -> bool:
    """Whether a command says itself how its settings were found, instead of leaving it to the suite."""
    return any(text.startswith("tuning.") for text in _given(argv))


def _given(argv: Sequence[str]) -> list[str]:
    """The settings of ``--set``."""
    given = [value for word, value in pairwise(argv) if word == "--set"]
    return given + [word.removeprefix("--set=") for word in argv if word.startswith("--set=")]


def _stages(tree: Tree, methods: Tree, layers: Tree, above: Tree) -> Tree:
    """The trainings before the method's own: of the teacher, and of the init it starts from.

    They are seeded apart: the init by ``train.init_seed`` (else the training seed), the teacher by
    its own seed only, so that all training seeds share one teacher. ``--set train.*`` reaches the
    method's training alone; ``--set init_sft.*`` and ``teacher_sft.*`` reach these.
    """
    base = tree.get("train") or {}
    train = TrainConfig.model_construct(**layers["train"])  # completed, not checked yet
    shared = {key: layers["train"][key] for key in SHARED if key in layers["train"]}
    init: Tree | None = None
    if train.init != "pretrained":
        own = tree.get("init_sft") or {}
        if train.init == "sft-full":
            own = (methods.get("sft") or {}).get("train") or {}
        init = merge(merge(merge(base, own), shared), above.get("init_sft") or {})
        init |= {"seed": train.seed_of_init, "init_seed": None, "init": "pretrained"}
    teacher: Tree | None = tree.get("teacher_sft")
    change = above.get("teacher_sft", {})
    if change is None:
        teacher = None
    elif teacher is not None or change:
        teacher = merge(merge(merge(base, teacher or {}), shared), change)
        teacher |= {"init": "pretrained", "init_seed": None}
    return {"init_sft": init, "teacher_sft": teacher}


def merge(low: Mapping[str, Any], high: Mapping[str, Any], *, one_layer: bool = False) -> Tree:
    """``high`` over ``low``, section by section.

    The budget is one thing with three names: a layer that sets any of steps, epochs and
    response_tokens replaces all of what lies below (not so within ``one_layer``).
    """
    out = dict(low)
    if not one_layer and any(high.get(key) is not None for key in BUDGET):
        out = {key: value for key, value in out.items() if key not in BUDGET}
    for key, value in high.items():
        below = out.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            value = merge(below, value, one_layer=one_layer)
        out[key] = value
    return out


def assignment(text: str, form: str = "section.key=value, for example train.lr=1e-4") -> Change:
    """One ``--set``: its key, its value as YAML, and what messages call it."""
    dotted, sign, value = text.partition("=")
    where = f"--set {elided(text, SAID)}"
    if not sign or not dotted.strip():
        raise InputError(f"{where}: write {form}")
    return dotted.strip(), parse_yaml(value, where), where


def _nested(dotted: str, value: Any) -> Tree:
    first, _, rest = dotted.partition(".")
    return {first: _nested(rest, value) if rest else value}


def _check_keys(tree: Tree, where: str) -> None:
    """Refuses a key that no section has, naming the nearest, and a value where fields belong."""
    known = dotted_keys(RunConfig)
    sections = {key.rpartition(".")[0] for key in known}
    fields = [k for k in known if k not in sections and not k.startswith("method.")]
    for dotted, value in _dotted(tree):
        if dotted.startswith(("method.", *OPEN)) or isinstance(value, Mapping):
            continue
        if dotted in REFUSED:
            raise InputError(f"{where}: {REFUSED[dotted]}")
        if dotted in sections and value is not None:
            raise InputError(f"{where}: {dotted} is a section; set its fields, {dotted}.KEY")
        if dotted not in known:
            raise InputError(f"{where}: no key is called {dotted!r}; {_nearest(dotted, fields)}")


def _nearest(dotted: str, fields: list[str]) -> str:
    """What an unknown key may have meant, else the fields of its section."""
    section, _, leaf = dotted.rpartition(".")
    leaf = SYNONYMS.get(leaf, leaf)

    def likeness(one: str, other: str) -> float:
        return difflib.SequenceMatcher(None, one, other).ratio()

    near = [key for key in fields if likeness(leaf, key.rpartition(".")[2]) >= 0.7]
    if near:
        near.sort(key=lambda key: -likeness(f"{section}.{leaf}", key))
        return f"did you mean {' or '.join(near[:2])}?"
    inside = [key for key in fields if key.rpartition(".")[0] == section]
    listed = inside or fields
    return f"choose from {', '.join(listed[:LISTED])}{', …' if len(listed) > LISTED else ''}"


def _dotted(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Keys of every mapping in the tree, outer first, with their values."""
    keys: list[tuple[str, Any]] = []
    for key, value in tree.items():
        keys.append((f"{prefix}{key}", value))
        if isinstance(value, Mapping):
            keys += _dotted(value, f"{prefix}{key}.")
    return keys


def dotted_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Every key of a config class and the classes inside it, dotted, outer first."""
    keys = []
    for name, info in model.model_fields.items():
        keys.append(f"{prefix}{name}")
        for part in (info.annotation, *get_args(info.annotation)):
            if isinstance(part, type) and issubclass(part, BaseModel):
                keys += dotted_keys(part, f"{prefix}{name}.")
    return keys


def _method_config(found: Found, options: Tree) -> BaseModel:
    """The method's own fields, checked and completed by its Config class."""
    known = dotted_keys(found.method.Config)
    for dotted, _ in _dotted(options):
        if dotted not in known:
            if not known:
                raise InputError(f"method {found.name} has no fields of its own, got {dotted!r}")
            hint = _nearest(f"method.{dotted}", [f"method.{key}" for key in known])
            raise InputError(f"method {found.name} has no key {dotted!r}; {hint}")
    with foreign(f"the fields of method {found.name} cannot be used", "repair its Config"):
        made = validated(found.method.Config, options, f"method {found.name}", "configuration")
        made.model_dump_json()  # a run's configuration is JSON
        return made
