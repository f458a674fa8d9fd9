"""Prompts that a limit or a model's context changes are counted, and said where their numbers are."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import board_runs
import pytest
from chat_styles import tokenizer
from evaluations import RECORD
from greeting_task import task_yaml
from lm_eval.api.instance import Instance

from kdbench.harness.data.examples import Example
from kdbench.harness.errors import InputError
from kdbench.harness.evaluation import stock
from kdbench.harness.evaluation.rehearsal import _Mute
from kdbench.harness.lm.likelihoods import ModelLM
from kdbench.harness.probes.subject import reference_sequences
from kdbench.harness.questions import PreparedTask, prepared
from kdbench.harness.resolve import resolve
from kdbench.reports.board import build, leaderboard
from kdbench.tasks.protocols import MINILLM_COMPAT, STRICT, Protocol

BYTES = tokenizer(size=258)
LENGTHS = (4, 8, 12, 20)
HOW = """
generation_kwargs: {until: [], do_sample: false, max_gen_toks: 8}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


def asked(protocol: Protocol, room: int | None = None) -> PreparedTask:
    """Prompts of so many tokens, of which 16 are allowed, and answers of 8."""
    return prepared(
        [Example(n, "", "", ("a" * 40,), prompt="a" * n) for n in LENGTHS],
        task="dolly",
        edition="mini",
        protocol=protocol.limited(max_prompt=16, max_length=24),
        tokenizer=BYTES,
        template="none",
        room=room,
    )


def test_what_lengths_change_is_counted_and_said() -> None:
    short = "2 answers have fewer than 8 tokens, since the model's context has 14"
    wanted = {
        (STRICT, None): ([4, 8, 12], "1 of 4 prompts left out at 16 tokens"),
        (MINILLM_COMPAT, None): ([4, 8, 12, 16], "1 of 4 prompts cut at 16 tokens"),
        (MINILLM_COMPAT, 14): ([4, 8, 12], f"1 of 4 prompts left out at 13 tokens; {short}"),
        (STRICT, 40): ([4, 8, 12], "1 of 4 prompts left out at 16 tokens"),
    }
    for (protocol, room), (sizes, said) in wanted.items():
        task = asked(protocol, room)
        assert [len(doc.ids) for doc in task.docs] == sizes
        assert task.counts.kept == len(sizes)
        most = min(16, (room or 99) - 1)
        assert task.lengths_told(most, 8, room) == f"note: dolly: {said}"
    with pytest.raises(
        InputError, match="all 4 prompts of dolly fill the model's context of 4 tok"
    ):
        asked(STRICT, 4)


def test_references_end_where_the_context_does() -> None:
    model: Any = SimpleNamespace(tokenizer=BYTES, end_id=1, max_length=14)
    for sequence in reference_sequences(model, asked(STRICT, 14)):
        assert len(sequence.prompt) + len(sequence.response) == 14


def test_prompts_of_lm_eval_that_lose_their_left_are_counted(
    tmp_path: Path, dataset_cache: None
) -> None:
    rows = [{"prompt": "a" * n, "output": "b"} for n in LENGTHS]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "greetings.yaml").write_text(task_yaml(tmp_path / "rows.jsonl", HOW))
    given = [f"tasks.include_path={tmp_path}", "tasks.template=none"]
    config = resolve(suite="mini-test", method="sft", assignments=given)
    facts = {name: RECORD[name] for name in ("model", "tokenizer", "dtype", "batch_size", "chunk")}
    task, _ = stock.prepare("greetings", config, facts, BYTES, STRICT, room=18)
    assert [len(doc.ids) for doc in task.docs] == [4, 8, 10, 10]
    assert task.lengths_told(10, 8, 18) == "note: greetings: 2 of 4 prompts cut at 10 tokens"
    mute: Any = _Mute()
    mute.max_length = 10
    read = ModelLM(mute)
    pairs = [(prompt, choice) for prompt in ("short", "too long for it") for choice in ("a", "b")]
    read.loglikelihood([Instance("loglikelihood", {}, pair, 0) for pair in pairs])
    assert read.cut == {"too long for it"}


def test_a_board_says_whose_prompts_were_left_out(tmp_path: Path) -> None:
    folders = [board_runs.write_run(tmp_path, name, 30.0) for name in ("one", "two", "three")]
    assert not any("too long" in note for note in build(tmp_path).board.tables[0].notes)
    for folder in folders[:2]:
        summary = json.loads((folder / "summary.json").read_text())
        for scores in summary["scores"].values():
            scores |= {"prompts_dropped": 3, "prompts_cut": 2}
        (folder / "summary.json").write_text(json.dumps(summary))
    said = "dolly[mini]: prompts that are too long: 3 left out, 2 cut (one, two)"
    assert said in build(tmp_path).board.tables[0].notes
    assert "3 left out, 2 cut (one, two)" in leaderboard(tmp_path, "md")
