"""Layers of a configuration, errors that help, and what a run id depends on."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from kdbench.harness.config import (
    GenerateConfig,
    RunConfig,
    TrainConfig,
    run_name,
    slug,
    with_precision,
)
from kdbench.harness.errors import InputError
from kdbench.harness.files.shipped import SUITES
from kdbench.harness.files.store import read_record, write_json
from kdbench.harness.identity import Contents, run_parts
from kdbench.harness.own_methods import METHODS
from kdbench.harness.registry import find_method
from kdbench.harness.resolve import dotted_keys, load_suite, merge, overlay, resolve

CONTENTS = Contents(teacher="t", student="s", train="d", dev="", text="")
SUITE = """
suite: own
pair: {teacher: t, student: s}
data: {train: dolly}
train: {epochs: 3, lr: 1e-3, batch_size: 4}
init_sft: {epochs: 1}
methods:
  fkd: {train: {lr: 2e-3, steps: 7}, method: {kd_ratio: 0.25}}
"""


@pytest.fixture
def suite(tmp_path: Path) -> str:
    path = tmp_path / "own.yaml"
    path.write_text(SUITE)
    return str(path)


def make(suite: str = "mini", method: str = "fkd", *sets: str, **flags: Any) -> RunConfig:
    config = resolve(
        suite=suite,
        method=method,
        assignments=sets,
        flags={key.replace("__", "."): value for key, value in flags.items()},
    )
    return with_precision(config, "fp32")


def test_layers_lie_over_each_other(suite: str) -> None:
    assert make(suite, "sft").train.lr == 1e-3
    config = make(suite)
    assert (config.train.lr, config.train.batch_size) == (2e-3, 4)
    assert config.method.options["kd_ratio"] == 0.25
    assert make(suite, "fkd", "train.lr=3e-3").train.lr == 3e-3
    assert make(suite, "fkd", "train.lr=3e-3", train__lr=4e-3).train.lr == 4e-3
    assert make(suite, "fkd", "method.kd_ratio=1").method.options["kd_ratio"] == 1.0
    assert make(suite, "fkd", train__lr=None).train.lr == 2e-3
    assert config.suite == "own"


def test_a_budget_replaces_the_budget_below(suite: str) -> None:
    assert (make(suite).train.steps, make(suite).train.epochs) == (7, None)
    config = make(suite, "fkd", "train.response_tokens=1000")
    assert (config.train.steps, config.train.response_tokens) == (None, 1000)
    both = make(suite, "fkd", "train.steps=5", "train.epochs=2")
    assert (both.train.steps, both.train.epochs) == (5, 2)


def test_init_follows_the_training_seed_and_teacher_does_not(suite: str) -> None:
    config = make(suite, "fkd", "train.seed=5", "teacher_sft.lr=1e-6")
    assert config.init_sft is not None
    assert config.teacher_sft is not None
    assert (config.init_sft.seed, config.init_sft.epochs, config.init_sft.lr) == (5, 1, 1e-3)
    assert (config.teacher_sft.seed, config.teacher_sft.lr) == (10, 1e-6)
    fixed = make(suite, "fkd", "train.seed=5", "train.init_seed=6").init_sft
    assert fixed is not None
    assert fixed.seed == 6
    assert make(suite, "fkd", "train.init=pretrained").init_sft is None


def test_full_sft_init_is_the_sft_method_of_the_suite() -> None:
    for name in ("minillm-gpt2-120m", "dpkd-opt-1.3b"):
        sft = make(name, "sft").train
        init = make(name, "dpkd").init_sft
        assert init is not None
        assert (init.epochs, init.lr, init.batch_size) == (sft.epochs, sft.lr, sft.batch_size)


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [
        ("train.learning_rate=1", "no key is called 'train.learning_rate'; did you mean train.lr"),
        ("trian.lr=1", "no key is called 'trian.lr'; did you mean train.lr"),
        ("generate.seed=3", "did you mean generate.seeds"),
        ("lr=1", "did you mean train.lr"),
        (
            "method.kd=1",
            "method fkd has no key 'kd'; choose from method.responses, method.kd_ratio",
        ),
        ("method.kd_ratio=2", "kd_ratio: input should be less than or equal to 1"),
        ("method=sft", "name the method by --method"),
        ("train=3", "train is a section; set its fields"),
        ("train.lr=abc", r"train.lr: input should be a valid number.*\(got 'abc'\)"),
        ("train.lr.x=1", "no key is called 'train.lr.x'"),
        ("train.steps=0", "train.steps: input should be greater than 0"),
        ("train.epochs=null", "a budget is needed: steps, epochs or response_tokens"),
        ("train.lr", "write section.key=value"),
        ("train.lr=[1", "line 1: not valid YAML"),
        ("generate.seeds=[1, 1]", "seeds must be distinct"),
        ("tasks.edition=big", "tasks.edition: input should be"),
        ("pair.trust_remote_code=true", "runs no code that comes with a model"),
    ],
)
def test_wrong_assignments_are_one_sentence(suite: str, assignment: str, sentence: str) -> None:
    sets = ["train.steps=null"] if assignment == "train.epochs=null" else []
    with pytest.raises(InputError, match=sentence) as caught:
        make(suite, "fkd", *sets, assignment)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("train: {lr: 1, lr: 2}", "line 1: not valid YAML .key 'lr' twice"),
        ("trian: {lr: 1}", "no key is called 'trian.lr'; did you mean train.lr"),
        ("methods: {fkd: {training: {lr: 1}}}", "did you mean train"),
        ("methods: {fkd: {train: {rate: 1}}}", "no key is called 'train.rate'"),
        ("extends: nowhere", "no suite is called 'nowhere'"),
        ("extends: SELF", "extends itself"),
        ("- 1", "must be a mapping"),
        ("data: {train: dolly}", "pair"),
    ],
)
def test_wrong_suites_are_one_sentence(tmp_path: Path, change: str, sentence: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(change.replace("SELF", str(path)))
    with pytest.raises(InputError, match=sentence) as caught:
        resolve(suite=str(path), method="sft")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("suite", "method", "sentence"),
    [
        ("mimi", "sft", "no suite is called 'mimi'.*did you mean mini"),
        ("mini", "dpdk", "no method is called 'dpdk'.*did you mean dpkd"),
        ("mini", "none.py", "no method file at 'none.py'"),
        ("none.yaml", "sft", "cannot read the suite none.yaml"),
    ],
)
def test_unknown_names_offer_the_nearest(suite: str, method: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        resolve(suite=suite, method=method)


# own chooses its settings by a pair and data, of which test_own has some
@pytest.mark.parametrize("name", [name for name in SUITES.names() if name != "own"])
def test_every_suite_resolves_for_every_method(name: str) -> None:
    assert load_suite(name)["suite"] == name
    assert set(load_suite(name).get("methods", {})) <= set(METHODS)
    for method in METHODS:
        assert make(name, method).suite == name


@pytest.mark.parametrize("name", [name for name in SUITES.names() if name != "own"])
def test_what_samples_the_student_starts_from_sft_in_the_suites_of_papers(name: str) -> None:
    """As every one of those papers has it: a raw pre-trained model's answers are no answers."""
    sampling = [m for m in METHODS if find_method(m).method.card.student_samples]
    runs = [resolve(suite=name, method=method) for method in sampling]
    assert [
        r.method.name for r in runs if r.regime == "paper" and r.train.init == "pretrained"
    ] == []


def test_sections_stay_small() -> None:
    assert len(TrainConfig.model_fields) <= 25
    for key in dotted_keys(RunConfig):
        # LoRA is one thing that a training has or has not, and so are prices
        flat = key.count(".") <= 1 or key.partition(".")[2].startswith(("lora.", "prices."))
        assert flat, "a flat tree is what --set can be remembered for"


def test_config_survives_its_file(tmp_path: Path) -> None:
    config = make("smollm2", "dpkd", "generate.temperature=0.5")
    write_json(tmp_path / "config.json", config)
    assert read_record(tmp_path / "config.json", RunConfig) == config
    with pytest.raises(ValidationError):
        RunConfig.model_validate(config.model_dump() | {"more": 1})


def test_overlay_changes_evaluation_only() -> None:
    config = make()
    more = overlay(
        config, ["generate.top_p=0.9"], {"tasks.names": ["sni"]}, sections=("tasks", "generate")
    )
    assert (more.tasks.names, more.generate.top_p) == (("sni",), 0.9)
    assert run_parts(more, CONTENTS) == run_parts(config, CONTENTS)
    with pytest.raises(InputError, match="train was settled when the run was made"):
        overlay(config, ["train.lr=1"], {}, sections=("tasks",))


def test_files_of_tasks_are_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "own" / "test.jsonl"
    config = make("mini", "fkd", "tasks.names=[dolly, own/test.jsonl]", "tasks.include_path=yaml")
    assert config.tasks.names == ("dolly", f"test={place}")
    assert config.tasks.include_path == str(tmp_path / "yaml")
    more = overlay(config, [], {"tasks.names": ["mine=own/test.jsonl"]}, sections=("tasks",))
    assert more.tasks.names == (f"mine={place}",)
    monkeypatch.chdir("/")
    assert overlay(more, [], {}, sections=("tasks",)) == more


def test_merge_keeps_what_it_does_not_name() -> None:
    low = {"train": {"steps": 1, "lr": 2}, "x": 1}
    assert merge(low, {"train": {"epochs": 3}}) == {"train": {"lr": 2, "epochs": 3}, "x": 1}
    assert low == {"train": {"steps": 1, "lr": 2}, "x": 1}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mini-2:student", "mini-2-student"),
        ("prune:8", "prune-8"),
        ("openai-community/gpt2", "gpt2"),
        ("/models/My Model/", "my-model"),
        ("a/b.Q4_K.gguf", "b.q4-k"),
    ],
)
def test_slug(name: str, expected: str) -> None:
    assert slug(name) == expected


def test_run_name() -> None:
    assert run_name(make(), "0123456789ab") == "fkd-mini-2-student-0123456789ab"


METHOD_FILE = """
from kdbench.trainers.method import Card, Method, MethodConfig

class Mine(Method):
    class Config(MethodConfig):
        alpha: float = 0.5
    card = Card(title="Mine", paper="none", variant="", policy="off", cost="1")
"""


def test_method_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "my-method.py"
    path.write_text(METHOD_FILE)
    config = make("mini", str(path), "method.alpha=0.25")
    assert (config.method.name, config.method.options) == ("my-method", {"alpha": 0.25})
    assert find_method(config.method.source).method.__name__ == "Mine"
    before = run_parts(config, CONTENTS)
    path.write_text(METHOD_FILE + "\n# changed\n")
    assert run_parts(make("mini", str(path), "method.alpha=0.25"), CONTENTS) != before


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("x = 1", "must define exactly one subclass"),
        ("def", "fails to load"),
        ("import no_such_module", "fails to load"),
        (METHOD_FILE.replace("    card", "    not_card"), "needs a class attribute `card`"),
    ],
)
def test_malformed_method_file(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(InputError, match=sentence):
        find_method(str(path))


def test_greedy_answers_are_a_way_of_their_own_with_one_seed() -> None:
    drawn = GenerateConfig(temperature=0.7, top_p=0.9, top_k=5, seeds=(3, 4))
    assert drawn.ways == (drawn,)
    first, greedy = drawn.model_copy(update={"greedy": True}).ways
    assert (first.temperature, first.seeds) == (0.7, (3, 4))
    assert (greedy.temperature, greedy.top_p, greedy.top_k, greedy.seeds) == (0.0, 1.0, 0, (3,))
    assert len(GenerateConfig(temperature=0, greedy=True).ways) == 1
