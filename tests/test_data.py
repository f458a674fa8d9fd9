"""Rows, files, templates and tokens."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from kdbench.harness.data import hub
from kdbench.harness.data.examples import Example, examples_sha256, load_jsonl
from kdbench.harness.data.labelled import load_labelled
from kdbench.harness.data.overlaps import overlaps
from kdbench.harness.data.sources import load_split, split_names
from kdbench.harness.data.templates import prompt_hash, prompt_key, render
from kdbench.harness.data.texts import load_texts
from kdbench.harness.data.tokens import TokenRule, tokenise, tokenise_prompts
from kdbench.harness.errors import InputError


def write(path: Path, *lines: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts) + "\n")
    return path


def row(**changes: object) -> dict[str, object]:
    return {"instruction": "Name a colour.", "input": "", "output": "Red.", **changes}


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """Characters in pairs: a response's first character may merge with the prompt's last."""
    letters = "abcdefghijklmnopqrstuvwxyz \n#:.,ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    vocab = {letter: i for i, letter in enumerate(letters)}
    vocab["xy"] = len(vocab)
    core = Tokenizer(models.BPE(vocab=vocab, merges=[("x", "y")]))
    core.pre_tokenizer = pre_tokenizers.Split("|", "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=core)


# --- files


def test_rows_are_read_in_order_with_optional_fields(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl",
        row(topic="closed_qa"),
        "",
        row(output=["one", "", "two"], category="fermi"),
        {"prompt": "Say hi:", "output": "hi"},
    )
    first, second, third = load_jsonl(path)
    assert (first.doc_id, first.category, first.references) == (0, "closed_qa", ("Red.",))
    assert (second.doc_id, second.category, second.references) == (1, "fermi", ("one", "two"))
    assert (third.instruction, third.input, third.prompt) == ("", "", "Say hi:")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"instruction": "x", ', "not valid JSON"),
        ("[1]", "JSON list"),
        ("7", "JSON int"),
        ({"output": "x"}, "neither instruction nor prompt"),
        (row(instruction="  "), "neither instruction nor prompt"),
        ({"instruction": "x"}, "no output"),
        (row(output=None), "no output"),
        (row(output=[]), "no output"),
        (row(output=""), "empty output"),
        (row(output=["", " "]), "empty output"),
        (row(output=5), "output must be"),
        (row(output=["a", 5]), "output must be"),
        (row(input=3), "input must be a text"),
        ('{"instruction": "x", "output": "\\ud800"}', "surrogate"),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_a_bad_row_is_one_sentence_with_file_and_line(
    tmp_path: Path, line: object, says: str
) -> None:
    path = write(tmp_path / "bad.jsonl", row(), "", line)
    with pytest.raises(InputError, match=says) as caught:
        load_jsonl(path)
    message = str(caught.value)
    assert f"{path}:3" in message
    assert "\n" not in message


def test_other_bytes_than_utf8_are_named(tmp_path: Path) -> None:
    path = tmp_path / "latin.jsonl"
    path.write_bytes(b'{"instruction": "caf\xe9", "output": "x"}\n')
    with pytest.raises(InputError, match=r":1 is not UTF-8"):
        load_jsonl(path)


def test_missing_and_empty_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read"):
        load_jsonl(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="no rows"):
        load_jsonl(write(tmp_path / "empty.jsonl", ""))


@pytest.mark.parametrize("seed", range(200))
def test_any_line_is_read_or_refused_in_a_sentence(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    good = bytearray(json.dumps(row(output=["Red.", "Blue."])).encode())
    for _ in range(dice.randrange(4)):  # overwrite, insert or remove bytes of a good line
        place = dice.randrange(len(good))
        good[place : place + dice.randrange(3)] = dice.randbytes(dice.randrange(3))
    path = tmp_path / "fuzz.jsonl"
    path.write_bytes(bytes(good))
    try:
        assert load_jsonl(path)
    except InputError as error:
        assert str(path) in str(error)
        assert "\n" not in str(error)


def test_fingerprints_follow_content(tmp_path: Path) -> None:
    a = write(tmp_path / "a.jsonl", row(), row(output="Blue."))
    b = write(tmp_path / "b.jsonl", json.dumps(row(), indent=None, separators=(",", ":")), row())
    first = load_jsonl(a)[:1]
    assert examples_sha256(first) == examples_sha256(load_jsonl(b)[:1])
    assert examples_sha256(first) != examples_sha256(load_jsonl(a))


# --- splits


def test_split_from_our_layout_and_from_the_papers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    write(ours / "dolly/dev.jsonl", row(output="dev"))
    write(theirs / "dolly/raw.jsonl", *[row(output=f"row {i}") for i in range(1002)])
    write(theirs / "sinst/11_/valid.jsonl", row())
    assert load_split("dolly", "dev", ours)[0].references == ("dev",)
    dev, train = load_split("dolly", "dev", theirs), load_split("dolly", "train", theirs)
    assert (len(dev), len(train)) == (1000, 2)
    assert (train[0].doc_id, train[0].references) == (0, ("row 1000",))
    monkeypatch.setenv("KDBENCH_DATA", str(theirs))
    assert len(load_split("sni", "test")) == 1


def test_data_that_is_nowhere_is_one_sentence_with_both_remedies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.delenv("KDBENCH_DATA", raising=False)
    begin = time.monotonic()
    with pytest.raises(InputError) as caught:
        load_split("unni", "test", tmp_path)
    message = str(caught.value)
    for part in ("uinst/valid_11_.jsonl", str(tmp_path), "MiniLLM/uinst", "--data-dir", "network"):
        assert part in message
    with pytest.raises(InputError, match="neither --data-dir nor KDBENCH_DATA is set"):
        load_split("dolly", "train")
    with pytest.raises(InputError, match="stanfordnlp/sst2"):
        load_labelled("sst2", tmp_path)
    assert time.monotonic() - begin < 5


def test_no_network_is_noticed_fast(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://hub.invalid")
    for name in ("https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(hub, "PROBE_SECONDS", 0.5)
    begin = time.monotonic()
    with pytest.raises(InputError, match="does not answer"):
        load_split("selfinst", "test", tmp_path)
    assert time.monotonic() - begin < 5


def test_unknown_names_and_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean dolly"):
        load_split("doly", "test")
    with pytest.raises(InputError, match="choose from train, dev, test"):
        load_split("dolly", "valid")
    with pytest.raises(InputError, match=r"--data-dir .* is no folder"):
        load_split("dolly", "test", tmp_path / "none")
    with pytest.raises(InputError, match="no labelled set is called"):
        load_labelled("sst3")


def test_overlaps_are_counted_not_filtered() -> None:
    def example(i: int, question: str, answer: str = "a") -> Example:
        return Example(i, question, "", (answer,))

    train = [example(0, "q1"), example(1, "q1"), example(2, "q2"), example(3, "q2", "b")]
    found = overlaps({"train": train, "dev": [example(0, "q2")], "test": [example(0, "q3")]})
    assert found == {
        "train&dev": 1,
        "train&test": 0,
        "dev&test": 0,
        "train duplicates": 1,
        "dev duplicates": 0,
        "test duplicates": 0,
    }


def test_plain_text_of_jsonl_txt_and_one_line_corpora(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", {"text": "first"}, {"text": "second\nline"})
    write(tmp_path / "b.txt", "third", "same document")
    write(tmp_path / "sub/c.txt", "fourth<@x(x!>its second line", "fifth")
    assert load_texts(tmp_path) == [
        "first",
        "second\nline",
        "third\nsame document\n",
        "fourth\nits second line",
        "fifth",
    ]
    with pytest.raises(InputError, match="cannot read"):
        load_texts(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"d\.jsonl:1 has no text"):
        load_texts(write(tmp_path / "d.jsonl", {"body": "x"}))


def test_labelled_rows(tmp_path: Path) -> None:
    write(tmp_path / "boolq/validation.jsonl", {"question": "q", "passage": "p", "answer": True})
    write(tmp_path / "sst2/validation.jsonl", {"sentence": "fine", "label": 2})
    only = load_labelled("boolq", tmp_path)[0]
    assert (only.fields, only.label) == ({"question": "q", "passage": "p"}, 1)
    with pytest.raises(InputError, match=r"validation\.jsonl:1 needs sentence, label"):
        load_labelled("sst2", tmp_path)


def test_the_published_split_has_its_known_blemishes(data_dir: Path) -> None:
    splits = {name: load_split("dolly", name, data_dir) for name in split_names("dolly")}
    assert {name: len(rows) for name, rows in splits.items()} == {
        "train": 11_435,
        "dev": 1000,
        "test": 500,
    }
    found = overlaps(splits)
    assert (found["train&dev"], found["train&test"], found["dev&test"]) == (25, 8, 1)
    assert found["train duplicates"] == 11
    for task, size in {"selfinst": 242, "vicuna": 80, "sni": 628}.items():
        assert len(load_split(task, "test", data_dir)) == size


# --- templates


@pytest.mark.parametrize("task", ["dolly", "selfinst", "vicuna", "sni"])
def test_our_wording_is_the_papers(data_dir: Path, task: str) -> None:
    for example in load_split(task, "test", data_dir):
        plain = Example(0, example.instruction, example.input, ("x",))
        assert render(plain, "alpaca") == example.prompt


def test_templates_end_where_the_response_begins() -> None:
    bare, full = Example(0, "Do it.", "", ("x",)), Example(0, "Do it.", "With this.", ("x",))
    assert render(bare, "alpaca").endswith("### Instruction:\nDo it.\n\n### Response:\n")
    assert "### Input:\nWith this.\n\n### Response:\n" in render(full, "alpaca")
    assert render(bare, "mini") == "Instruction : Do it. Response : "
    assert render(full, "mini") == "Instruction : Do it. Input : With this. Response : "
    ready = Example(0, "", "", ("x",), prompt="Go:")
    assert render(ready, "alpaca") == "Go:"
    assert render(ready, "mini") == "Go: "


def test_chat_template_is_the_tokenizers(tokenizer: PreTrainedTokenizerFast) -> None:
    example = Example(0, "Do it.", "With this.", ("x",))
    with pytest.raises(InputError, match="no chat template"):
        render(example, "chat", tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    assert render(example, "chat", tokenizer) == "<user>Do it.\n\nWith this.<assistant>"


def test_unknown_template() -> None:
    with pytest.raises(InputError, match="did you mean alpaca"):
        render(Example(0, "x", "", ("y",)), "alpacca")


def test_prompt_ids_are_stable() -> None:
    assert prompt_hash("abc") == "ba7816bf8f01cfea"
    assert prompt_key("abc") == 0xBA7816BF8F01CFEA >> 1
    assert prompt_key("abc") < 2**63


# --- tokens


def rule(**changes: object) -> TokenRule:
    fields = {"boundary": "apart", "over_long": "drop", "max_prompt": 20, "max_length": 30}
    return TokenRule(**{**fields, **changes})  # type: ignore[arg-type]


def prompt_rows(*pairs: tuple[str, str]) -> list[Example]:
    return [Example(i, "", "", (answer,), prompt=p) for i, (p, answer) in enumerate(pairs)]


@pytest.mark.parametrize("boundary", ["joint", "apart"])
def test_a_merge_over_the_boundary_is_counted(
    tokenizer: PreTrainedTokenizerFast, boundary: str
) -> None:
    rows, counts = tokenise(
        prompt_rows(("abx", "yc"), ("ab", "cd")),
        tokenizer,
        template="alpaca",
        rule=rule(boundary=boundary),
        end_id=99,
    )
    assert (counts.rows, counts.kept, counts.boundary_different) == (2, 2, 1)
    ids = tokenizer.get_vocab()
    # joint loses the merged first letter of the response; apart keeps it
    expected = [ids["c"], 99] if boundary == "joint" else [ids["y"], ids["c"], 99]
    assert list(rows[0].response_ids) == expected
    assert list(rows[1].response_ids) == [ids["c"], ids["d"], 99]
    assert list(rows[1].prompt_ids) == [ids["a"], ids["b"]]


def test_long_rows_are_dropped_or_cut_and_counted(tokenizer: PreTrainedTokenizerFast) -> None:
    examples = prompt_rows(("a" * 21, "b"), ("a" * 20, "b" * 10), ("a" * 20, "b" * 9))
    for boundary in ("joint", "apart"):
        rows, counts = tokenise(
            examples, tokenizer, template="alpaca", rule=rule(boundary=boundary), end_id=99
        )
        assert [r.doc_id for r in rows] == [1, 2]
        assert (counts.dropped, counts.responses_cut, counts.boundary_different) == (1, 1, 0)
        assert len(rows[0].response_ids) == 10 and 99 not in rows[0].response_ids
        assert len(rows[1].response_ids) == 10 and rows[1].response_ids[-1] == 99
        rows, counts = tokenise(
            examples,
            tokenizer,
            template="alpaca",
            rule=rule(boundary=boundary, over_long="cut"),
            end_id=99,
        )
        assert (counts.kept, counts.prompts_cut, counts.boundary_different) == (3, 1, 0)
        assert len(rows[0].prompt_ids) == 20
        assert rows[0].response_ids == (tokenizer.get_vocab()["b"], 99)


def test_rules_that_leave_nothing_are_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(InputError, match="no room for a response"):
        tokenise_prompts(["a"], tokenizer, rule(max_prompt=30))
    with pytest.raises(InputError, match="all 1 prompts are longer"):
        tokenise_prompts(["a" * 21], tokenizer, rule())
    with pytest.raises(InputError, match="prompt 2 has no tokens"):
        tokenise_prompts(["a", ""], tokenizer, rule())


def test_the_package_imports_nothing_heavy() -> None:
    code = (
        "import importlib, pkgutil, sys, kdbench.harness.data as data\n"
        "for module in pkgutil.iter_modules(data.__path__, 'kdbench.harness.data.'):\n"
        "    importlib.import_module(module.name)\n"
        "import kdbench.tasks.catalogue, kdbench.harness.evaluation.names\n"
        "print([m for m in ('torch', 'datasets', 'transformers', 'lm_eval') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
