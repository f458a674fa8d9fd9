"""Identities: what changes them, what does not, and what is said when one is just missed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import defaults
import pytest
import yaml

from kdbench.harness import identity
from kdbench.harness.config import RunConfig, TrainConfig, with_precision
from kdbench.harness.files.records import (
    DecodingRecord,
    EvaluationRecord,
    IdentityRecord,
    ModelRef,
)
from kdbench.harness.identity import (
    Contents,
    column_id,
    evaluation_key,
    near_miss,
    run_id,
    run_parts,
)
from kdbench.harness.resolve import resolve

CONTENTS = Contents(teacher="t", student="s", train="d", dev="e", text="x")


def make(*assignments: str, method: str = "fkd") -> RunConfig:
    config = resolve(suite="mini", method=method, assignments=assignments)
    return with_precision(config, "fp32")


def id_of(config: RunConfig, contents: Contents = CONTENTS) -> str:
    return run_id(run_parts(config, contents))


def row_of(config: RunConfig, student: str = "recipe", contents: Contents = CONTENTS) -> str:
    return identity.settings_id(run_parts(config, contents), student)


# -- defaults -------------------------------------------------------------------------------------


def test_defaults_are_as_kept_or_the_version_is_another() -> None:
    kept = yaml.safe_load(defaults.FILE.read_text())
    assert defaults.problems(kept, defaults.all_defaults(), identity.VERSION) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda now: now | {"train.lr": 1.0}, "train.lr was 5e-05, is 1.0: raise"),
        (lambda now: now | {"method.dpkd.beta": 2.0}, "method.dpkd.beta was"),
        (lambda now: now | {"train.more": 0}, "train.more is not kept yet"),
        (lambda now: {k: v for k, v in now.items() if k != "data.limit"}, "is 'gone': raise"),
    ],
)
def test_a_changed_default_wants_a_new_version(
    change: Callable[[dict[str, Any]], dict[str, Any]], said: str
) -> None:
    kept = yaml.safe_load(defaults.FILE.read_text())
    (problem,) = defaults.problems(kept, change(defaults.all_defaults()), identity.VERSION)
    assert said in problem
    renewed = {"version": identity.VERSION + 1, "defaults": kept["defaults"]}
    assert "is 'gone'" not in " ".join(
        defaults.problems(renewed, change(defaults.all_defaults()), identity.VERSION)
    )


class LaterTraining(TrainConfig):
    """TrainConfig as a later version may have it."""

    ghost: float = 0.25


def later(config: RunConfig, **changes: Any) -> RunConfig:
    """The same run under classes with one more field that has a default."""
    trainings = {
        name: value and LaterTraining(**value.model_dump(), **changes)
        for name in ("train", "init_sft", "teacher_sft")
        for value in [getattr(config, name)]
    }
    return config.model_copy(update=trainings)


def test_a_new_field_with_its_default_changes_no_id() -> None:
    config = make("teacher_sft.lr=1e-4")
    card = ModelRef(name="m", fingerprint="f", parameters=1, tokenizer="t")
    assert id_of(later(config)) == id_of(config)
    for training in ("init_sft", "teacher_sft"):  # of the shared init and teacher

        def shared(run: RunConfig, training: str = training) -> str:
            return identity.shared_id(run, CONTENTS, getattr(run, training), card)

        assert shared(later(config)) == shared(config)
        assert shared(later(config, ghost=1.0)) != shared(config)
    assert id_of(later(config, ghost=1.0)) != id_of(config)


def test_a_new_field_of_an_evaluation_changes_no_key() -> None:
    class Later(EvaluationRecord):
        ghost: bool = False

    assert evaluation_key(Later(**RECORD.model_dump())) == evaluation_key(RECORD)
    assert evaluation_key(Later(**RECORD.model_dump(), ghost=True)) != evaluation_key(RECORD)


# -- runs -----------------------------------------------------------------------------------------


def test_run_id_depends_on_what_decides_the_student() -> None:
    base = id_of(make())
    assert len(base) == 12
    assert base == id_of(make())
    differs = [
        make(method="sft"),
        make("method.kd_ratio=0.3"),
        make("train.lr=5e-4"),
        make("train.seed=11"),
        make("init_sft.lr=5e-4"),
        make("teacher_sft.lr=5e-4"),
        make("train.precision=bf16"),
        make("data.limit=100"),
        make("pair.template=alpaca"),
    ]
    ids = {id_of(config) for config in differs}
    assert len(ids) == len(differs)
    assert base not in ids
    for part in Contents._fields:
        assert id_of(make(), CONTENTS._replace(**{part: "other"})) != base


@pytest.mark.parametrize(
    "same",
    [
        "tasks.names=[dolly]",
        "tasks.protocol=minillm-compat",
        "tasks.template=none",
        "tasks.limit=3",
        "generate.seeds=[1]",
        "generate.temperature=0.5",
        "train.micro_tokens=100",
        "train.save_every=3",
        "pair.teacher=elsewhere/same-content",
        "data.train=copy.jsonl",
        "suite=renamed",
        "regime=paper",
        "tuning={trials: 3}",
    ],
)
def test_run_id_ignores_what_does_not(same: str) -> None:
    assert id_of(make(same)) == id_of(make())


def test_a_precision_must_be_known() -> None:
    config = make()
    auto = config.model_copy(
        update={"train": config.train.model_copy(update={"precision": "auto"})}
    )
    with pytest.raises(ValueError, match="precision must be resolved"):
        run_parts(auto, CONTENTS)


def test_rows_are_runs_that_differ_in_their_seed_only() -> None:
    row = row_of(make())
    assert row_of(make("train.seed=11")) == row
    # of a student that a seed makes, the content differs and the recipe does not
    assert row_of(make(), contents=CONTENTS._replace(student="other")) == row
    assert row_of(make(), student="another recipe") != row
    assert row_of(make("train.lr=5e-4")) != row
    assert row_of(make(), contents=CONTENTS._replace(teacher="other")) != row


# -- evaluations ----------------------------------------------------------------------------------

RECORD = EvaluationRecord(
    task="dolly",
    edition="mini",
    protocol="strict",
    template="mini",
    model="m",
    tokenizer="t",
    data_sha256="d",
    max_prompt=64,
    decoding=DecodingRecord(max_new_tokens=32),
    dtype="fp32",
    batch_size=8,
    chunk=4,
    seeds=[10, 20],
)
SAMPLES = {
    "model": "other",
    "tokenizer": "other",
    "template": "chat",
    "data_sha256": "other",
    "protocol": "minillm-compat",
    "dtype": "bf16",
    "decoding": DecodingRecord(max_new_tokens=32, temperature=0.5),
    "batch_size": 9,
    "chunk": 5,
    "seeds": [10],
    "max_prompt": 65,
    "limit": 3,
}


@pytest.mark.parametrize("field", SAMPLES)
def test_what_decides_samples_is_in_their_key(field: str) -> None:
    assert evaluation_key(RECORD.model_copy(update={field: SAMPLES[field]})) != evaluation_key(
        RECORD
    )


def test_where_a_file_lies_is_in_no_key() -> None:
    moved = RECORD.model_copy(update={"place": "elsewhere"})
    assert evaluation_key(moved) == evaluation_key(RECORD)
    assert column_id(moved, "s") == column_id(RECORD, "s")


def test_a_column_shares_all_but_the_model_and_its_company() -> None:
    free = {"model", "tokenizer", "dtype", "batch_size", "chunk"}
    for field, value in SAMPLES.items():
        same = column_id(RECORD.model_copy(update={field: value}), "s") == column_id(RECORD, "s")
        assert same == (field in free), field
    assert column_id(RECORD, "another scorer") != column_id(RECORD, "s")


# -- near misses ----------------------------------------------------------------------------------


def test_a_near_miss_is_said_in_one_line() -> None:
    mine = run_parts(make(), CONTENTS)

    def said(config: RunConfig, version: int = identity.VERSION) -> str:
        parts = run_parts(config, CONTENTS)
        return near_miss(mine, IdentityRecord(version=version, parts=parts), "run-x")

    lr = make().train.lr
    told = said(make("train.lr=5e-4"))
    assert told == f"run-x differs in train.lr only: 0.0005 there, {lr} here"
    assert "differs in method.options.kd_ratio only: 0.3 there, the default here" in said(
        make("method.kd_ratio=0.3")
    )
    assert said(make("train.lr=5e-4", "data.limit=100")) == ""
    assert said(make("train.seed=11")) == ""  # seeds are meant to differ
    assert said(make(), version=1) == (
        f"run-x is the same but for kdbench's identity version 1, now {identity.VERSION}: it is made again"
    )
    assert said(make("train.lr=5e-4"), version=1) == ""


def test_every_id_is_made_in_one_module() -> None:
    """No other module of ours hashes JSON: contents of files and texts are another matter."""
    root = Path(identity.__file__).parents[1]
    made = [
        path.relative_to(root).as_posix()
        for folder in ("harness", "trainers", "reports")
        for path in (root / folder).rglob("*.py")
        if "hashlib.sha256(json.dumps" in path.read_text().replace("\n", "").replace(" ", "")
    ]
    assert made == []
