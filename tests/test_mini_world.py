"""The mini world is deterministic, its truth is exact, and no evaluation prompt is in train."""

import hashlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest

from kdbench.tasks.mini import grammar
from kdbench.tasks.mini.facts import build
from kdbench.tasks.mini.kinds_reading import read_passage
from kdbench.tasks.mini.models import model_config, tokenizer_of
from kdbench.tasks.mini.parse import KINDS, readings, render
from kdbench.tasks.mini.pieces import PIECES
from kdbench.tasks.mini.tokenizer import SPECIALS, build_tokenizer, vocabulary
from kdbench.tasks.mini.truth import NOISE, Truth
from kdbench.tasks.mini.words import split
from kdbench.tasks.mini.world import EDITION, SIZES, plain_text, rows, truth_of

EVALS = ("dev", "dolly", "selfinst", "vicuna", "sni", "unni", "cls")
FINGERPRINT = """
import hashlib, json
from kdbench.tasks.mini.world import plain_text, rows
from kdbench.tasks.mini.tokenizer import vocabulary
made = [rows(s, size="mini-test") for s in ("train", "dolly", "sni", "cls")]
print(hashlib.sha256(json.dumps([made, plain_text(5), vocabulary()]).encode()).hexdigest())
"""


@pytest.fixture(scope="module")
def truth() -> Truth:
    return truth_of(EDITION)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def prompt_of(row: dict) -> str:
    return render(row["instruction"], row["input"])


def prompts(split_name: str, n: int | None = None) -> list[str]:
    return [prompt_of(row) for row in rows(split_name)[:n]]


def some_of_each_kind(truth: Truth) -> list[str]:
    """A prompt of each kind that the training rows show."""
    found = {}
    for prompt in (*prompts("train", 1500), *prompts("vicuna", 3), *prompts("cls", 30)):
        found.setdefault(readings(prompt, truth.world)[0].kind.name, prompt)
    return list(found.values())


def log_prob(truth: Truth, prompt: str, ids: Sequence[int]) -> float:
    """Log-probability of the tokens ``ids`` (with the end token: of exactly that answer)."""
    return float(truth.log_probs(prompt, ids)[np.arange(len(ids)), list(ids)].sum())


def mode_count(truth: Truth, prompt: str) -> int:
    """An upper bound on the number of valid answers, from the graph alone."""
    return grammar.count_paths(truth._open(prompt))


def test_the_world_is_the_same_in_every_process():
    digests = set()
    for hash_seed in ("0", "1"):
        env = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", FINGERPRINT], env=env, capture_output=True, text=True, check=True
        )
        digests.add(done.stdout)
    assert len(digests) == 1


def test_the_world_does_not_pull_in_torch():
    code = "import sys, kdbench.tasks.mini as m; m.rows('dolly', size='mini-test'); "
    code += "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_another_seed_is_another_world():
    one, two = build(0), build(1)
    assert one.people.keys() != two.people.keys()
    assert rows("dolly", size="mini-test", world_seed=1) != rows("dolly", size="mini-test")


def test_no_evaluation_prompt_is_in_train_or_in_dev():
    train = set(prompts("train"))
    dev = set(prompts("dev"))
    for name in EVALS:
        asked = prompts(name)
        assert len(set(asked)) == len(asked), name
        assert not train & set(asked), name
        if name != "dev":
            assert not dev & set(asked), name


def test_every_prompt_is_read_back_into_one_answer_grammar(truth: Truth):
    seen = set()
    for name in ("train", *EVALS):
        for prompt in prompts(name, 300):
            found = readings(prompt, truth.world)
            assert len(found) == 1, (prompt, [f.kind.name for f in found])
            seen.add(found[0].kind.name)
    assert seen == {kind.name for kind in KINDS}


def test_all_eight_categories_are_trained():
    assert {row["category"] for row in rows("train")} == {
        "open_qa", "closed_qa", "classification", "information_extraction", "summarization",
        "brainstorming", "creative_writing", "general_qa",
    }  # fmt: skip


def test_rows_are_of_the_promised_form(truth: Truth):
    for name in ("train", *EVALS):
        made = rows(name)
        assert len(made) == SIZES[EDITION][name]
        for row in made:
            references = row["output"] if name == "sni" else [row["output"]]
            assert references and all(isinstance(r, str) and r for r in references)
    assert all(row["input"] for row in rows("sni"))
    assert sum(len(row["output"]) > 1 for row in rows("sni")) > 90
    lengths = [len(split(row["output"])) for row in rows("vicuna")]
    assert 40 <= np.mean(lengths) <= 80
    for row in rows("cls"):
        assert set(truth.modes(prompt_of(row))) == set(row["choices"])
    assert len(rows("dolly", size="mini-test")) == SIZES["mini-test"]["dolly"]
    with pytest.raises(KeyError):
        rows("nothing")


def test_the_tokenizer_gives_every_text_back(tokenizer):
    texts = plain_text(200)
    for name in ("train", *EVALS):
        for row in rows(name)[:300]:
            texts += [row["instruction"], row["input"]]
            texts += row["output"] if name == "sni" else [row["output"]]
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text
        assert tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True) == text


def test_a_student_with_another_tokenizer_writes_the_same_texts():
    own = tokenizer_of("student-bpe", "mini-test")
    assert own.get_vocab() == tokenizer_of("student-bpe", "mini-test").get_vocab() != vocabulary()
    assert model_config("student-bpe", "mini-test").vocab_size == len(own) <= PIECES
    for row in rows("train", size="mini-test"):
        text = render(row["instruction"], row["input"]) + row["output"]
        ids = own(text)["input_ids"]
        assert own.decode([*ids, own.eos_token_id], skip_special_tokens=True) == text
        assert max(ids) < len(own)


def test_the_tokenizer_agrees_with_the_truth(tokenizer, truth: Truth, tmp_path):
    assert tokenizer.get_vocab() == vocabulary()
    assert 400 <= len(vocabulary()) <= 800
    assert tokenizer.all_special_tokens and set(tokenizer.all_special_tokens) == set(SPECIALS)
    prompt = prompts("dolly", 1)[0]
    ids = truth.sample(prompt, 0, 0)
    assert tokenizer.decode(ids, skip_special_tokens=True) == truth.decode(ids)
    joined = tokenizer(prompt + truth.decode(ids))["input_ids"]
    assert joined == tokenizer(prompt)["input_ids"] + ids[:-1]
    tokenizer.save_pretrained(tmp_path)
    from transformers import AutoTokenizer

    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again(prompt)["input_ids"] == tokenizer(prompt)["input_ids"]


def test_next_token_probabilities_sum_to_one_everywhere(truth: Truth):
    rng = np.random.default_rng(0)
    for prompt in some_of_each_kind(truth):
        answer = truth.sample(prompt, 3, 1)
        random = rng.integers(0, len(vocabulary()), 6).tolist()  # a prefix no grammar writes
        for prefix in (answer[:-1], random, answer[:2] + random):
            rows_TV = truth.log_probs(prompt, prefix)
            assert np.isfinite(rows_TV).all()
            assert np.allclose(np.exp(rows_TV).sum(1), 1, atol=1e-12)
            assert np.exp(rows_TV).min() >= NOISE / len(vocabulary()) * 0.999


def test_log_prob_is_the_sum_over_hidden_answers(truth: Truth):
    """Against the formula itself: every valid answer, copied word by word."""
    rng = np.random.default_rng(1)
    size, eos = len(vocabulary()), truth.eos
    for prompt in some_of_each_kind(truth):
        modes = truth.modes(prompt, 64)
        if modes is None:
            continue
        said = truth.sample(prompt, 5, 2)
        slipped = [*said[:1], int(rng.integers(size)), *said[2:]]
        for x in (said, slipped, [*said, eos, eos]):
            total = 0.0
            for text, p in modes.items():
                y = [vocabulary()[w] for w in split(text)] + [eos] * len(x)
                hits = [(1 - NOISE) * (a == b) + NOISE / size for a, b in zip(x, y, strict=False)]
                total += p * float(np.prod(hits))
            assert log_prob(truth, prompt, x) == pytest.approx(np.log(total), abs=1e-9)


def test_log_prob_is_the_sum_of_the_next_log_probs(truth: Truth):
    for prompt in prompts("dolly", 20):
        ids = truth.sample(prompt, 1, 1)
        alone = sum(truth.log_probs(prompt, ids[:t])[-1][x] for t, x in enumerate(ids))
        assert log_prob(truth, prompt, ids) == pytest.approx(alone, abs=1e-9)


def test_sampled_frequencies_match_the_truth():
    truth = Truth(noise=0.1)  # so that slips are counted too
    prompt = next(p for p in prompts("dolly") if 4 < (mode_count(truth, p)) < 20)
    n, first, second = 20_000, np.zeros(len(vocabulary())), np.zeros(len(vocabulary()))
    start = int(truth.log_probs(prompt, [])[-1].argmax())
    for key in range(n):
        ids = truth.sample(prompt, 0, key, 2)
        first[ids[0]] += 1
        if ids[0] == start:
            second[ids[1]] += 1
    for counts, prefix in ((first, []), (second, [start])):
        p = np.exp(truth.log_probs(prompt, prefix)[-1])
        z = (counts / counts.sum() - p) / np.sqrt(p * (1 - p) / counts.sum())
        assert np.abs(z).max() < 5
    assert truth.sample(prompt, 0, 7) == truth.sample(prompt, 0, 7)
    assert len({tuple(truth.sample(prompt, 0, k)) for k in range(50)}) > 3


def test_modes_are_valid_and_nothing_else_is(truth: Truth):
    for prompt in some_of_each_kind(truth):
        modes = truth.modes(prompt)
        if modes is None:
            assert mode_count(truth, prompt) > 4096
            continue
        assert sum(modes.values()) == pytest.approx(1)
        assert len(modes) <= mode_count(truth, prompt)
        for text in list(modes)[:50]:
            assert truth.is_valid(prompt, text)
            assert not truth.is_valid(prompt, text + " geese")
            assert not truth.is_valid(prompt, " ".join(text.split()[:-1]))


def test_valid_answers_never_repeat_six_words(truth: Truth):
    """So that a no-repeat-6-gram rule forbids nothing that is true."""
    clean = Truth(truth.world, noise=0.0)
    for name in ("train", *EVALS):
        for i, prompt in enumerate(prompts(name, 300)):
            words = split(prompt) + split(clean.sample_text(prompt, 0, i))
            grams = list(zip(*(words[k:] for k in range(6)), strict=False))
            assert len(grams) == len(set(grams)), " ".join(words)


def test_a_strange_prompt_is_refused(truth: Truth):
    for prompt in ("Who?", render("Who is Nobody Here?"), render("What do bowls eat?")):
        with pytest.raises(ValueError, match="not a prompt of the mini world"):
            truth.log_probs(prompt, [])


def test_a_grammar_weighs_its_choices():
    graph = grammar.compile_spec("a [3 b [1 | 1 c] | 1 ] d")
    answers = grammar.enumerate_answers(graph)
    assert answers == {
        ("a", "b", "c", "d"): 0.375,
        ("a", "b", "d"): 0.375,
        ("a", "d"): 0.25,
    }
    assert grammar.count_paths(graph) == 3
    with pytest.raises(ValueError, match="unbalanced"):
        grammar.compile_spec("a ] b")


def test_ordered_picks_follow_plackett_luce():
    spec = grammar.plackett_luce(["a", "b", "c"], [2, 1, 1], 2, "and")
    answers = grammar.enumerate_answers(grammar.compile_spec(spec))
    assert len(answers) == len(list(itertools.permutations("abc", 2)))
    assert answers[("a", "and", "b")] == pytest.approx(0.25)
    assert answers[("b", "and", "a")] == pytest.approx(1 / 4 * 2 / 3)


def test_passages_are_read_back():
    for row in rows("train"):
        if row["category"] in ("closed_qa", "summarization"):
            assert len(read_passage(row["input"])) == row["input"].count(".")


def test_the_student_is_a_tenth_of_the_teacher():
    from transformers import LlamaForCausalLM

    inner = {}
    for size in (EDITION, "mini-test"):
        for role in ("teacher", "student"):
            model = LlamaForCausalLM(model_config(role, size))
            embedding = model.get_input_embeddings().weight.numel()
            inner[size, role] = sum(p.numel() for p in model.parameters()) - embedding
    assert 0.8e6 < inner[EDITION, "teacher"] < 1.2e6
    assert 8 < inner[EDITION, "teacher"] / inner[EDITION, "student"] < 15
    assert inner["mini-test", "teacher"] > inner["mini-test", "student"]


def test_the_published_world():
    """Changing the world changes the benchmark: do it on purpose, with a new edition."""
    made = [rows(name, size="mini-test") for name in ("train", *EVALS)]
    digest = hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()
    assert digest[:16] == "cea5f80133127d03"
