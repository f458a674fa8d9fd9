"""Rows as people have them: every shape of file, and the tokens that are trained of it."""

import bz2
import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pytest
from chat_styles import STYLES
from pyarrow import ipc, parquet

from kdbench.harness.config import DataConfig, file_task
from kdbench.harness.data.chat import rendered
from kdbench.harness.data.places import place_of
from kdbench.harness.data.templates import render
from kdbench.harness.data.tokens import TokenRule, end_of, tokenise
from kdbench.harness.data.understood import Reading, Understood, first_rows, held_out, understand
from kdbench.harness.errors import InputError
from kdbench.harness.resolve import resolve
from kdbench.harness.runner.data import fitted
from kdbench.harness.runner.rows import load_rows

ROWS = [
    {"instruction": "Name a colour.", "input": "", "output": "Red.\r\nOr blue\u2028?"},
    {
        "instruction": "Zähle bis drei – bitte",
        "input": "auf Deutsch",
        "output": " eins, zwei, drei ",
    },
    {"instruction": "001", "input": "", "output": "NA"},
]
PAIRS = [{"prompt": _["instruction"], "response": _["output"]} for _ in ROWS]
CHATS = [
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": "Wie geht’s?"},
        {"role": "assistant", "content": "Gut. 😀"},
    ],
    [{"role": "user", "content": "Name a plant"}, {"role": "assistant", "content": "Eelgrass\n"}],
]
FROM = {"system": "system", "user": "human", "assistant": "gpt"}
SHAREGPT = [[{"from": FROM[t["role"]], "value": t["content"]} for t in chat] for chat in CHATS]
CHATML = STYLES["chatml"]
RULE = TokenRule(boundary="apart", over_long="drop")

Write = Callable[[Path], Path]


def lines(rows: list[Any], end: str = "\n") -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + end for row in rows).encode()


def bytes_as(name: str, content: bytes) -> Write:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return write


def separated(rows: list[dict[str, str]], mark: str) -> bytes:
    text = io.StringIO(newline="")
    made = csv.DictWriter(text, rows[0].keys(), delimiter=mark)
    made.writeheader()
    made.writerows(rows)
    return text.getvalue().encode()


def as_parquet(rows: list[Any]) -> bytes:
    out = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows), out)
    return out.getvalue()


def as_arrow(rows: list[Any]) -> bytes:
    table, out = pa.Table.from_pylist(rows), io.BytesIO()
    with ipc.new_stream(out, table.schema) as stream:
        stream.write_table(table)
    return out.getvalue()


def packed_zstd(folder: Path) -> Path:
    path = folder / "rows.jsonl.zst"
    with pa.output_stream(str(path), compression="zstd") as stream:
        stream.write(lines(ROWS))
    return path


def saved(folder: Path) -> Path:
    datasets.Dataset.from_list(ROWS).save_to_disk(str(folder / "saved"))
    return folder / "saved"


def saved_splits(folder: Path) -> Path:
    parts = {"train": ROWS, "validation": [{**ROWS[0], "output": "dev"}]}
    made = datasets.DatasetDict({k: datasets.Dataset.from_list(v) for k, v in parts.items()})
    made.save_to_disk(str(folder / "splits"))
    return folder / "splits"


def files_of_splits(folder: Path) -> Path:
    place = folder / "parts"
    (place / "data").mkdir(parents=True)
    for number, row in enumerate(ROWS):
        (place / f"data/train-{number:05}-of-00003.parquet").write_bytes(as_parquet([row]))
    (place / "data/test-00000-of-00001.parquet").write_bytes(as_parquet([ROWS[0]]))
    return place


def question(row: dict[str, str]) -> tuple[tuple[Any, ...], str, str]:
    return (), "\n\n".join(filter(None, (row["instruction"], row["input"]))), row["output"]


def turns(chat: list[dict[str, str]]) -> list[tuple[tuple[Any, ...], str, str]]:
    return [
        (
            tuple((t["role"], t["content"]) for t in chat[: place - 1]),
            chat[place - 1]["content"],
            turn["content"],
        )
        for place, turn in enumerate(chat)
        if turn["role"] == "assistant"
    ]


ASKED = [question(row) for row in ROWS]
BARE = [((), row["instruction"], row["output"]) for row in ROWS]
CHATTED = [each for chat in CHATS for each in turns(chat)]
SYSTEM = (("system", "Be brief."), ("user", "a"), ("assistant", "b"))

SHAPES: dict[str, tuple[Write, list[tuple[tuple[Any, ...], str, str]], dict[str, str]]] = {
    "JSON Lines, instruction/input/output": (bytes_as("a.jsonl", lines(ROWS)), ASKED, {}),
    "JSON Lines with a byte order mark and CRLF": (
        bytes_as("a.jsonl", b"\xef\xbb\xbf" + lines(ROWS, "\r\n")),
        ASKED,
        {},
    ),
    "JSON array": (bytes_as("a.json", json.dumps(ROWS, indent=4).encode()), ASKED, {}),
    "JSON object with one list": (
        bytes_as("a.json", json.dumps({"version": 1, "data": ROWS}, indent=1).encode()),
        ASKED,
        {},
    ),
    "CSV, prompt/response": (bytes_as("a.csv", separated(PAIRS, ",")), BARE, {}),
    "TSV by --columns": (
        bytes_as("a.tsv", separated([{"q": p["prompt"], "a": p["response"]} for p in PAIRS], "\t")),
        BARE,
        {"prompt": "q", "response": "a"},
    ),
    "Parquet, question/answer": (
        bytes_as(
            "a.parquet",
            as_parquet([{"question": p["prompt"], "answer": p["response"]} for p in PAIRS]),
        ),
        BARE,
        {},
    ),
    "Arrow, prompt/completion": (
        bytes_as(
            "a.arrow",
            as_arrow([{"prompt": p["prompt"], "completion": p["response"]} for p in PAIRS]),
        ),
        BARE,
        {},
    ),
    "saved Dataset": (saved, ASKED, {}),
    "saved DatasetDict": (saved_splits, ASKED, {}),
    "folder of files named after splits": (files_of_splits, ASKED, {}),
    "gzip": (bytes_as("a.jsonl.gz", gzip.compress(lines(ROWS))), ASKED, {}),
    "zstd": (packed_zstd, ASKED, {}),
    "bzip2": (bytes_as("a.csv.bz2", bz2.compress(separated(PAIRS, ","))), BARE, {}),
    "chat messages, system and several turns": (
        bytes_as("a.jsonl", lines([{"messages": chat} for chat in CHATS])),
        CHATTED,
        {},
    ),
    "ShareGPT": (
        bytes_as(
            "a.json", json.dumps([{"id": "x", "conversations": c} for c in SHAREGPT]).encode()
        ),
        CHATTED,
        {},
    ),
    "chat in the cells of a CSV": (
        bytes_as("a.csv", separated([{"messages": json.dumps(chat)} for chat in CHATS], ",")),
        CHATTED,
        {},
    ),
    "prompt and completion as turns": (
        bytes_as("a.jsonl", lines([{"prompt": c[:-1], "completion": c[-1:]} for c in CHATS])),
        [turns(chat)[-1] for chat in CHATS],
        {},
    ),
    "system and history beside the question": (
        bytes_as(
            "a.jsonl",
            lines([{**ROWS[1], "system": "Be brief.", "history": [["a", "b"]]}]),
        ),
        [(SYSTEM, *ASKED[1][1:])],
        {},
    ),
    "question, context and several answers": (
        bytes_as(
            "a.jsonl",
            lines(
                [{"question": "Q", "context": "C", "answers": {"text": ["A"], "answer_start": [0]}}]
            ),
        ),
        [((), "Q\n\nC", "A")],
        {},
    ),
}
"""File -> (what was said before, the question, the answer) of every answer that is trained."""


def read(path: Path, **how: Any) -> Understood:
    found = understand(str(path), "train", Reading(**{"turns": "every", **how}))
    assert found is not None
    return found


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_gives_its_rows_and_trains_the_answers_alone(
    shape: str, tmp_path: Path
) -> None:
    write, expected, columns = SHAPES[shape]
    found = read(write(tmp_path), columns=columns)
    assert [
        (e.turns, "\n\n".join(filter(None, e.question)), *e.references) for e in found.examples
    ] == (expected)
    assert not found.dropped
    tokenizer = CHATML.tokenizer()
    end = end_of(tokenizer, "chat")
    assert end is not None
    rows, counts = tokenise(found.examples, tokenizer, template="chat", rule=RULE, end_id=end)
    assert counts.kept == len(expected)
    for row, (before, asked, answer) in zip(rows, expected, strict=True):
        said = [{"role": role, "content": text} for role, text in before]
        said.append({"role": "user", "content": asked})
        assert tokenizer.decode(row.prompt_ids) == rendered(tokenizer, said)
        assert tokenizer.decode(row.response_ids) == f"{answer}<|im_end|>"
        whole = rendered(tokenizer, [*said, {"role": "assistant", "content": answer}], opened=False)
        assert whole == tokenizer.decode([*row.prompt_ids, *row.response_ids]) + "\n"


REFUSED: dict[str, tuple[Write, str]] = {
    "preferences": (
        bytes_as("a.jsonl", lines([{"prompt": "p", "chosen": "a", "rejected": "b"}])),
        r"preference data \(chosen and rejected\).*--columns prompt=prompt,response=chosen",
    ),
    "preferences as turns": (
        bytes_as("a.jsonl", lines([{"chosen": CHATS[1], "rejected": CHATS[1]}])),
        r"preference data.*--columns messages=chosen",
    ),
    "labelled completions": (
        bytes_as("a.jsonl", lines([{"prompt": "p", "completion": "a", "label": True}])),
        r"preference data \(completion and label\)",
    ),
    "images": (
        bytes_as("a.jsonl", lines([{"image": "a.png", "question": "q", "answer": "a"}])),
        "holds image: kdbench distils models of text only",
    ),
    "images in turns": (
        bytes_as(
            "a.jsonl",
            lines([{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}]),
        ),
        "row|:1, turn 1 holds image_url",
    ),
    "calls of tools": (
        bytes_as("a.jsonl", lines([{"messages": [{"role": "tool", "content": "42"}]}])),
        "turn 1 is a call of a tool",
    ),
    "unknown speakers": (
        bytes_as("a.jsonl", lines([{"messages": [{"role": "narrator", "content": "x"}]}])),
        "said by 'narrator'; known are",
    ),
    "unknown columns": (
        bytes_as("a.csv", b"left,right\na,b\n"),
        r"a\.csv \(CSV\) has the columns left, right, .*--columns prompt=COLUMN,response=COLUMN",
    ),
    "a spreadsheet": (bytes_as("a.xlsx", b"PK"), "save the sheet as CSV"),
    "plain text": (bytes_as("a.txt", b"hello"), r"plain text without questions is data\.text"),
    "no format at all": (bytes_as("a.csv.zip", b"PK"), "unpack it"),
    "a broken array": (bytes_as("a.json", b'[\n{"a": 1},\n{]'), "not valid JSON .*line 3"),
    "an array of texts": (bytes_as("a.json", b'["a", "b"]'), "row 1 of its JSON array is a str"),
    "a torn CSV": (bytes_as("a.csv", b"prompt,response\na,b,c\n"), r"a\.csv:2 has 3 fields"),
    "an open quote": (bytes_as("a.csv", b'prompt,response\n"a,b\n'), "not valid CSV"),
    "another encoding": (bytes_as("a.csv", b"prompt,response\n\xe4,b\n"), "not UTF-8"),
    "no Parquet": (bytes_as("a.parquet", b"PAR1"), "cannot read .* as Parquet"),
    "no gzip": (bytes_as("a.jsonl.gz", b"{}"), "cannot unpack"),
    "no rows": (bytes_as("a.csv", b"prompt,response\n"), "has no rows"),
    "numbers for answers": (
        bytes_as("a.jsonl", lines([{"prompt": "p", "response": 7}])),
        r":1: response must be a text or a list of texts, not int",
    ),
    "only empty answers": (
        bytes_as("a.jsonl", lines([{"prompt": "p", "response": ""}] * 2)),
        r"no row is left of 2: 2 with an empty answer \(rows 1, 2\)",
    ),
}


@pytest.mark.parametrize("shape", REFUSED)
def test_what_is_refused_is_refused_by_name_in_one_sentence(shape: str, tmp_path: Path) -> None:
    write, says = REFUSED[shape]
    with pytest.raises(InputError, match=says) as caught:
        read(write(tmp_path))
    assert "\n" not in str(caught.value)


def test_answers_that_were_chosen_can_be_learnt_from(tmp_path: Path) -> None:
    pair = {"prompt": "p", "chosen": "a", "rejected": "b"}
    path = bytes_as("a.jsonl", lines([pair]))(tmp_path)
    found = read(path, columns={"prompt": "prompt", "response": "chosen"})
    assert found.examples[0].references == ("a",)
    path = bytes_as("b.jsonl", lines([{"chosen": CHATS[1], "rejected": CHATS[1]}]))(tmp_path)
    assert read(path, columns={"messages": "chosen"}).examples[0].references == ("Eelgrass\n",)


def test_every_shape_stands_in_the_table() -> None:
    page = (Path(__file__).parents[1] / "docs" / "own-files.md").read_text(encoding="utf-8")
    assert [shape for shape in (*SHAPES, *REFUSED) if f"| {shape} |" not in page] == []


def test_what_is_dropped_is_counted_by_reason(tmp_path: Path) -> None:
    rows = [{**ROWS[0], "output": out} for out in ("a", "", "a", None, "\ud800", "b", "  ")]
    path = bytes_as("a.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())(tmp_path)
    assert read(path).lines[1] == (
        "7 rows read, 4 dropped: 3 with an empty answer (rows 2, 4, 7), 1 with half a surrogate pair, "
        "which no file can hold (row 5)"
    )
    found = read(path, unique=True)
    assert "1 equal to an earlier row (row 3)" in found.lines[1]
    assert [e.doc_id for e in found.examples] == [0, 5]
    chats = [[CHATS[1][0]], CHATS[1], [CHATS[1][1]], []]
    path = bytes_as("b.jsonl", lines([{"messages": chat} for chat in chats]))(tmp_path)
    assert read(path).lines[1] == (
        "4 rows read, 3 dropped: 2 with no answer (rows 1, 4), 1 with no question before its answer (row 3)"
    )


def test_answers_that_are_not_read_of_a_conversation_are_counted(tmp_path: Path) -> None:
    said = [("user", "a"), ("assistant", ""), ("user", "b"), ("assistant", "x"), ("assistant", "y")]
    turns = [{"role": role, "content": text} for role, text in said]
    path = bytes_as(
        "a.jsonl", lines([{"messages": chat} for chat in (CHATS[1], turns, turns[2:])])
    )(tmp_path)
    assert read(path).lines[2:] == [
        "3 answers of these conversations not read: 2 without a question (first in row 2), "
        "1 empty (first in row 2)"
    ]
    last = read(path, turns="last")
    assert last.lines[2:] == [
        "2 answers of these conversations not read: 2 without a question (first in row 2)"
    ]
    path = bytes_as("b.jsonl", lines([{"messages": chat} for chat in CHATS]))(tmp_path)
    assert read(path).lines[2:] == ["3 answers in 2 conversations"]
    rows = [{"prompt": turns[:1], "completion": turns[3:]}]
    path = bytes_as("c.jsonl", lines(rows))(tmp_path)
    assert [e.references for e in read(path).examples] == [("x",)]
    assert "1 answer of these conversations not read: 1 without a question" in read(path).lines[2]


@pytest.mark.parametrize("labels", [("True", "False"), ("0", "1"), ("true", ""), ("1.0", "0.0")])
def test_labelled_completions_of_csv_are_refused_too(
    labels: tuple[str, str], tmp_path: Path
) -> None:
    head, one, two = "prompt,completion,Label", f"q,good,{labels[0]}", f"r,bad,{labels[1]}"
    path = bytes_as("a.csv", f"{head}\n{one}\n{two}\n".encode())(tmp_path)
    with pytest.raises(InputError, match="keep the rows whose label is true"):
        read(path)
    path = bytes_as("b.csv", f"{head}\nq,good,news\nr,bad,{labels[0]}\n".encode())(tmp_path)
    assert len(read(path).examples) == 2


def test_the_last_answer_alone_is_learnt_if_that_is_asked(tmp_path: Path) -> None:
    path = bytes_as("a.jsonl", lines([{"messages": chat} for chat in CHATS]))(tmp_path)
    every, last = read(path), read(path, turns="last")
    assert [e.references[0] for e in last.examples] == ["Gut. 😀", "Eelgrass\n"]
    assert every.lines[2] == "3 answers in 2 conversations"
    assert [e.doc_id for e in every.examples] == [0, 0, 1]
    assert first_rows(every.examples, 1) == every.examples[:2]


def test_a_conversation_needs_a_chat_template_and_a_system_does_not(tmp_path: Path) -> None:
    path = bytes_as("a.jsonl", lines([{"messages": CHATS[0]}]))(tmp_path)
    first, second = read(path).examples
    assert render(first, "none") == "Be brief.\n\nHi"
    assert render(first, "alpaca").startswith("Be brief.\n\nBelow is an instruction")
    with pytest.raises(
        InputError, match=r"row 1 .* 2 turns before its last question.*template alpaca"
    ):
        render(second, "alpaca")


def test_all_of_a_plain_text_is_trained(tmp_path: Path) -> None:
    found = read(bytes_as("a.jsonl", lines([{"text": "Eelgrass grows."}, {"text": " "}]))(tmp_path))
    assert found.lines[1] == "2 rows read, 1 dropped: 1 with an empty text (row 2)"
    tokenizer = CHATML.tokenizer()
    for boundary in ("apart", "joint"):
        rule = TokenRule(boundary=boundary, over_long="drop")  # type: ignore[arg-type]
        ((row,), _) = tokenise(found.examples, tokenizer, template="chat", rule=rule, end_id=2)
        assert tokenizer.decode(row.prompt_ids) == "<s>"
        assert tokenizer.decode(row.response_ids[:-1]) == "Eelgrass grows."


def test_splits_are_found_named_or_refused(tmp_path: Path) -> None:
    place = str(saved_splits(tmp_path))
    dev = understand(place, "dev")
    assert dev is not None and dev.examples[0].references == ("dev",) and dev.split == "validation"
    assert understand(f"{place}::validation", "train") is not None
    with pytest.raises(InputError, match="no split is called 'tset'"):
        understand(f"{place}:tset", "train")
    with pytest.raises(
        InputError, match="has the splits train, validation; say which of them is for test"
    ):
        understand(place, "test")
    assert understand(str(files_of_splits(tmp_path)), "dev") is None


def test_a_hub_out_of_reach_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("kdbench.harness.data.hub.reachable", lambda: False)
    says = r"no file or folder user/set, and the Hugging Face hub does not answer .*connect to the network$"
    with pytest.raises(InputError, match=says):
        understand("user/set:config:train")
    with pytest.raises(InputError, match=r"cannot read own/rows\.csv: no such file"):
        understand("own/rows.csv")


def test_names_of_places() -> None:
    assert place_of("user/set:conf:train") == ("user/set", "conf", "train", True)
    assert place_of("user/set::train") == ("user/set", "", "train", True)
    assert place_of("none/rows.jsonl:train") == ("none/rows.jsonl", "", "train", False)
    assert file_task("own/Test.jsonl.gz") == ("test", "own/Test.jsonl.gz")
    assert file_task("mine=user/set:conf:test") == ("mine", "user/set:conf:test")
    assert file_task("user/set:conf:test") == ("set", "user/set:conf:test")
    assert file_task("hellaswag") is None


def test_columns_are_a_setting() -> None:
    given = DataConfig(train="a.csv", columns="prompt=q, response=a")  # type: ignore[arg-type]
    assert given.columns == {"prompt": "q", "response": "a"}
    for wrong in ("prompt", "prompt=", "promt=q"):
        with pytest.raises(ValueError, match=r"PART=COLUMN|no part of a row"):
            DataConfig(train="a.csv", columns=wrong)  # type: ignore[arg-type]


def test_rows_held_out_never_part_what_asks_the_same(tmp_path: Path) -> None:
    rows = [{**ROWS[0], "instruction": f"Say {n % 30}"} for n in range(60)]
    found = read(bytes_as("a.jsonl", lines(rows))(tmp_path))
    kept, back = held_out(found.examples)
    assert (len(kept), len(back)) == (54, 6)
    assert not {e.asked for e in kept} & {e.asked for e in back}
    assert held_out(found.examples[:1]) == (found.examples[:1], [])


def test_several_answers_in_a_cell_and_a_ready_prompt(tmp_path: Path) -> None:
    both = '["red, or so", "blue"]'
    for column, expected in {"answers": ("red, or so", "blue"), "answer": (both,)}.items():
        row = {"question": "Q", column: both}
        found = read(bytes_as("a.csv", separated([row], ","))(tmp_path))
        assert found.examples[0].references == expected
    broken = read(
        bytes_as("b.csv", separated([{"question": "Q", "answers": "[red"}], ","))(tmp_path)
    )
    assert broken.examples[0].references == ("[red",)
    ready = read(bytes_as("c.jsonl", lines([{**ROWS[0], "prompt": "ready"}]))(tmp_path))
    assert "; prompt in place of them under the template alpaca only" in ready.lines[0]


def test_a_run_says_what_became_of_its_rows(tmp_path: Path) -> None:
    rows = [{"ask": f"Say {n}", "reply": "" if n in (3, 5) else f"{n}"} for n in range(50)]
    path = bytes_as("a.csv", separated(rows, ","))(tmp_path)  # type: ignore[arg-type]
    settings = [f"data.train={path}", "data.columns=prompt=ask,response=reply", "data.dev=null"]
    settings += ["data.limit=20", "data.prompts=null", "data.text=null"]
    config = resolve(suite="mini-test", method="sft", assignments=settings)
    found = load_rows(config, None)
    assert found.told == [
        f"train: {path}: CSV; columns ask (as instruction), reply (as output)",
        "train: 50 rows read, 2 dropped: 2 with an empty answer (rows 4, 6)",
        "dev: 4 of these rows, held out (data.dev names others)",
        "train: 20 rows used because data.limit=20",
    ]
    assert (len(found.train), len(found.dev)) == (20, 4)
    facts = {"train": {"rows": 20, "kept": 18, "dropped": 2, "responses_cut": 1}}
    assert fitted(facts, config.train) == [
        "train: 18 of 20 used: 2 dropped because their prompts are longer than train.max_prompt="
        f"{config.train.max_prompt}; 1 answers cut at train.max_length={config.train.max_length}"
    ]
    with pytest.raises(InputError, match="no data set is called 'dooly'; did you mean dolly"):
        load_rows(resolve(suite="mini-test", method="sft", assignments=["data.train=dooly"]), None)
