"""ROUGE-L and exact match against rouge_score and the authors' numbers; text statistics."""

import json
import random
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
from rouge_score.rouge_scorer import RougeScorer

from kdbench.harness.errors import InputError
from kdbench.harness.files.records import SampleRow
from kdbench.harness.metrics import text_metrics
from kdbench.tasks import ngrams, scoring, text_stats, words

PEER = RougeScorer(["rougeL"], use_stemmer=True)

WORDS = "running runs ran news skies dying flies the a of abstractness 1980s I'm naïve Straße"


def peer(prediction: str, reference: str) -> float:
    return 100 * PEER.score(reference, prediction)["rougeL"].fmeasure


def sample(doc_id: int = 0, seed: int = 10, **changes: object) -> SampleRow:
    fields = {
        "doc_id": doc_id,
        "prompt_hash": f"{doc_id:016x}",
        "seed": seed,
        "prompt": "p",
        "references": ["the red fox"],
        "response": "a red fox",
        "response_tokens": 4,
        "finished": True,
        "reference_tokens": 3,
    }
    return SampleRow(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("prediction", "reference"),
    [
        ("", ""),
        ("", "a word"),
        ("a word", ""),
        ("!!! ???", "..."),
        ("The cat sat.", "the CAT sat"),
        ("running dogs", "run dog"),
        ("naïve café Straße İstanbul", "naive cafe strasse istanbul"),
        ("數學 mathematics", "mathematics 数学"),
        ("x y z", "z y x"),
        ("1980s 20,000", "1980s 20000"),
        ("news skies dying", "new sky die"),
        ("a\x00b\u2028c", "a b c"),
    ],
)
def test_edge_cases_equal_rouge_score(prediction: str, reference: str) -> None:
    assert scoring.rouge_f(prediction, reference) == peer(prediction, reference)


@pytest.mark.parametrize("seed", range(50))
def test_any_text_equals_rouge_score(seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(20):
        words = [" ".join(dice.choices(WORDS.split(), k=dice.randrange(60))) for _ in range(2)]
        assert scoring.rouge_f(*words) == peer(*words)
        # code points of every plane, surrogates (which no text file holds) left out
        points = [c for c in dice.choices(range(0x11000), k=40) if not 0xD800 <= c < 0xE000]
        marks = [chr(c) for c in points] + list("aAbB1 \n'")
        signs = ["".join(dice.choices(marks, k=dice.randrange(30))) for _ in range(2)]
        assert scoring.rouge_f(*signs) == peer(*signs)


def test_real_answers_equal_rouge_score(data_dir: Path) -> None:
    lines = (data_dir / "dolly/valid.jsonl").read_text().splitlines()
    answers = [json.loads(line)["output"] for line in lines[:60]]
    for prediction, reference in pairwise(answers):
        assert scoring.rouge_f(prediction, reference) == peer(prediction, reference)


def test_best_reference_counts() -> None:
    texts = ["nothing alike", "the red fox", "a red fox ran"]
    best = PEER.score_multi(texts, "a red fox")["rougeL"].fmeasure
    assert scoring.rouge_f("a red fox", texts) == 100 * best
    assert scoring.rouge_f("a red fox", []) == 0.0


def test_what_is_remembered_does_not_change_values(monkeypatch: pytest.MonkeyPatch) -> None:
    dice = random.Random(3)
    texts = [" ".join(dice.choices(WORDS.split(), k=dice.randrange(1, 40))) for _ in range(60)]
    pairs = [(dice.choice(texts), [dice.choice(texts)]) for _ in range(300)]
    expected = [scoring.rouge_f(prediction, references) for prediction, references in pairs]
    for characters, last in [(10**9, 0x10FFFF), (200, 0x10FFFF), (10**9, 20)]:
        monkeypatch.setattr(scoring, "_KEPT_CHARACTERS", characters)
        monkeypatch.setattr(words, "_LAST", last)  # so few stems that all is begun anew
        scorer = scoring.TextScorer()
        parts = [pairs[i : i + 2] for i in range(0, len(pairs), 2)]
        found = [value for part in parts for value in scorer.rouge_l(*zip(*part, strict=True))]
        assert found == expected


@pytest.mark.parametrize(
    ("prediction", "reference", "equal"),
    [
        ("The Red Fox!", "the red fox", True),
        (" the  red\nfox ", "the red fox", True),
        ("the fox", "fox", False),  # articles are kept
        ("don't", "dont", True),
        ("", "...", True),
        ("“quoted”", "quoted", False),  # only ASCII punctuation is taken off
    ],
)
def test_exact_match(prediction: str, reference: str, equal: bool) -> None:
    assert scoring.exact_match(prediction, reference) == 100.0 * equal
    assert scoring.exact_match(prediction, ["something else", reference]) == 100.0 * equal


def test_every_row_of_the_authors_numbers(reference_dir: Path) -> None:
    stored = json.loads((reference_dir / "text_metrics.json").read_text())
    rows = stored["rows"]
    got = {
        name: [score(r["prediction"], r["references"]) for r in rows]
        for name, score in text_metrics().items()
    }
    assert got["rouge_l"] == pytest.approx([100 * r["rougeL"] for r in rows], abs=1e-9)
    assert got["exact_match"] == [100.0 * r["exact_match"] for r in rows]
    for ours, theirs in {"rouge_l": "rougeL", "exact_match": "exact_match"}.items():
        mean = sum(got[ours]) / len(rows)
        assert round(mean, 4) == stored["expected_aggregate"][theirs]


def test_seeds_are_grouped_by_prompt() -> None:
    samples = [
        sample(1, 20, response="the red fox", finished=False),
        sample(0, 10),
        sample(1, 10),
        sample(0, 20, response=""),
    ]
    first, second = scoring.score_rows(samples)
    assert (first.doc_id, first.seeds, second.doc_id, second.seeds) == (0, [10, 20], 1, [10, 20])
    assert second.metrics["rouge_l"] == pytest.approx([200 / 3, 100.0])
    assert second.metrics["exact_match"] == [0.0, 100.0]
    assert second.metrics["cut"] == [0.0, 100.0]
    assert first.metrics["rouge_l"][1] == 0.0
    assert first.metrics["response_tokens"] == [4.0, 4.0]


def test_mixed_up_samples_are_refused() -> None:
    with pytest.raises(InputError, match="two answers with one seed"):
        scoring.score_rows([sample(), sample()])
    with pytest.raises(InputError, match="differs between seeds"):
        scoring.score_rows([sample(), sample(seed=20, prompt_hash="f" * 16)])


def test_buckets_cover_every_length_once() -> None:
    for buckets in text_stats.BUCKETS.values():
        for tokens in range(200):
            assert sum(bucket.holds(tokens) for bucket in buckets) == 1
    rows = scoring.score_rows([sample(i, reference_tokens=n) for i, n in enumerate((5, 6, 30))])
    found = text_stats.by_length(rows, text_stats.BUCKETS["minillm"])
    assert [len(rows) for rows in found.values()] == [1, 1, 1]
    found = text_stats.by_length(rows, text_stats.BUCKETS["dpkd"])
    assert [len(rows) for rows in found.values()] == [2, 1, 0]


def distinct(texts: list[str], n: int) -> tuple[int, int]:
    """Different n-grams, and all, the slow way."""
    parted = [text.split() for text in texts]
    grams = [tuple(w[i : i + n]) for w in parted for i in range(len(w) - n + 1)]
    return len(set(grams)), len(grams)


@pytest.mark.parametrize("bits", [16, 1, 2, 3])
def test_ngrams_are_counted_exactly(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With few bits a word most words are rare ones."""
    monkeypatch.setattr(ngrams, "_BLOCK", 7 + bits)
    monkeypatch.setattr(ngrams, "_BITS", bits)
    monkeypatch.setattr(ngrams, "_COMMON", 1 << bits)
    dice = random.Random(bits)
    for _ in range(100):
        known = dice.choice([1, 2, 6, 20, 300])
        sizes = [dice.randrange(12) for _ in range(dice.randrange(8))]
        texts = [
            dice.choice(["", " ", "\u3000", "\t\x1c"])
            + dice.choice([" ", "\n", " \xa0"]).join(f"ü{dice.randrange(known)}" for _ in range(k))
            + dice.choice(["", " ", "\u2028"])
            for k in sizes
        ]
        half = dice.randrange(len(texts) + 1)
        counted, vocabulary = ngrams.NGrams(), words.Vocabulary()
        for part in (texts[:half], texts[half:]):
            counted.add(vocabulary.numbered(part))
        expected = {n: distinct(texts, n) for n in range(1, 5)}
        assert counted.counts() == expected, texts


def test_distinct_n_is_a_mean_over_seeds() -> None:
    def counts(*texts: str) -> dict[int, ngrams.Counts]:
        counted = ngrams.NGrams()
        counted.add(words.Vocabulary().numbered(texts))
        return counted.counts()

    found = text_stats.diversity([counts("a b a b", "a b", "c"), counts("x x")])
    assert found["distinct_1"] == pytest.approx((100 * 3 / 7 + 50) / 2)
    assert found["distinct_4"] == pytest.approx(100)
    assert text_stats.diversity([counts("x x")])["distinct_4"] is None


def test_white_space_is_what_str_split_knows() -> None:
    spaces = "".join(c for c in map(chr, range(0x110000)) if c.isspace())
    near = "".join(chr(ord(c) + step) for c in spaces for step in (-1, 1))
    dice = random.Random(0)
    texts = ["".join(dice.choices(spaces + near + "aé漢😀\ud800", k=30)) for _ in range(2000)]
    vocabulary = words.Vocabulary()
    numbered = vocabulary.numbered(texts)
    places = [0, *numbered.ends_T.tolist()]
    for text, start, end in zip(texts, places, places[1:], strict=False):
        found = [vocabulary[number] for number in numbered.ids_W[start:end].tolist()]
        assert found == text.replace("\ud800", "?").split(), ascii(text)


def test_a_vocabulary_is_the_same_in_all_threads() -> None:
    texts = [" ".join(f"w{n * step % 997}" for n in range(2000)) for step in range(1, 9)]
    vocabulary = words.Vocabulary()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda text: vocabulary.numbered([text]), texts))
    assert len(vocabulary) == 1 + 997
    for text, each in zip(texts, found, strict=True):
        assert [vocabulary[number] for number in each.ids_W.tolist()] == text.split()


def test_a_text_that_begins_alike_is_told_apart() -> None:
    same = "x" * 100
    assert scoring.exact_match(f"{same}, Y.", f"{same} y") == 100.0
    assert scoring.exact_match(f"{same} y", f"{same} z") == 0.0
    assert scoring.exact_match("漢" * 70 + "a", "漢" * 70 + "b") == 0.0
    assert scoring.exact_match("." * 70 + "a", "a") == 100.0
