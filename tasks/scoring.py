"""ROUGE-L and exact match: text in, numbers out, no model and no GPU.

ROUGE-L is google rouge_score 0.1.2 (``RougeScorer(["rougeL"], use_stemmer=True)``, F-measure, best
over references), value for value: lower-case, everything but ``a-z0-9`` separates words, words of
more than three characters are stemmed by nltk's Porter stemmer (its default, extended mode). What
makes it fast is the longest common subsequence in bit-parallel form (rapidfuzz) over stems that are
computed once a word.
"""

import re
import string
from collections.abc import Sequence
from itertools import groupby

from nltk.stem.porter import PorterStemmer
from rapidfuzz.distance import LCSseq

from kdbench.harness.errors import InputError
from kdbench.harness.files.records import SampleRow, ScoreRow
from kdbench.harness.metrics import text_metrics

SCORER = "kdbench-text-1 (rouge_score 0.1.2 semantics)"
"""Version of the numbers; changed whenever any of them would change."""

_WORD = re.compile(r"[a-z0-9]+")
# bytes to bytes: what is no letter or digit (a character outside ASCII is "?" by then) parts words
_TO_SPACES = bytes(
    b if chr(b) in string.ascii_lowercase + string.digits else 32 for b in range(256)
)
_STEMMED_FROM = 4
_NO_WORD = -1
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class _StemIds(dict[bytes, int]):
    """Word (ASCII) -> number of its stem, filled on demand; equal stems have equal numbers."""

    def __init__(self) -> None:
        self._stemmer = PorterStemmer()
        self._numbers: dict[str, int] = {}

    def __missing__(self, key: bytes) -> int:
        word = key.decode()
        stem = self._stemmer.stem(word) if len(word) >= _STEMMED_FROM else word
        number = self._numbers.setdefault(stem, len(self._numbers))
        if not _WORD.fullmatch(stem):
            number = _NO_WORD  # rouge_score drops what is no longer a word after stemming
        self[key] = number
        return number


_STEM_IDS = _StemIds()


def rouge_words(text: str) -> list[int]:
    """The stems of a text as numbers; stable within a process only."""
    words = text.lower().encode("ascii", "replace").translate(_TO_SPACES).split()
    numbers = list(map(_STEM_IDS.__getitem__, words))
    return [n for n in numbers if n != _NO_WORD] if _NO_WORD in numbers else numbers


def rouge_l(prediction: str, references: str | Sequence[str]) -> float:
    """ROUGE-L F-measure in percent, best over references.

    Args:
        prediction: the answer.
        references: one text or several.

    Returns:
        0 to 100; 0 if there is no reference, or no word in common.
    """
    texts = (references,) if isinstance(references, str) else references
    predicted = rouge_words(prediction)
    return 100.0 * max((_f_measure(rouge_words(text), predicted) for text in texts), default=0.0)


def exact_match(prediction: str, references: str | Sequence[str]) -> float:
    """100 if the answer equals a reference but for case, ASCII punctuation and spacing, else 0.

    As LMOps minillm/rouge_metric.py: articles are kept.
    """
    texts = (references,) if isinstance(references, str) else references
    predicted = normalise(prediction)
    return 100.0 * any(normalise(text) == predicted for text in texts)


def normalise(text: str) -> str:
    """Lower case, no ASCII punctuation, single spaces."""
    return " ".join(text.lower().translate(_PUNCTUATION).split())


def score_sample(row: SampleRow) -> dict[str, float]:
    """All text metrics of one stored answer.

    Returns:
        ``rouge_l``, ``exact_match`` and ``cut`` in percent (``cut`` 100: stopped at the length
        limit), ``response_tokens`` in tokens, end included, and what packages add.
    """
    return {
        **{name: score(row.response, row.references) for name, score in text_metrics().items()},
        "response_tokens": float(row.response_tokens),
        "cut": 100.0 * (not row.finished),
    }


def score_rows(samples: Sequence[SampleRow]) -> list[ScoreRow]:
    """Scores stored answers and groups the decoding seeds of each prompt.

    Args:
        samples: answers of one evaluation, any number of seeds, any order.

    Returns:
        One row a prompt by ``doc_id``, seeds ascending, metrics as `score_sample`'s.

    Raises:
        InputError: two answers to the same prompt with the same seed, or prompts that differ
            between seeds (samples of different data).
    """
    ordered = sorted(samples, key=lambda row: (row.doc_id, row.seed))
    return [
        _score_prompt(doc_id, list(group))
        for doc_id, group in groupby(ordered, key=lambda row: row.doc_id)
    ]


def _score_prompt(doc_id: int, rows: list[SampleRow]) -> ScoreRow:
    seeds = [row.seed for row in rows]
    if len(set(seeds)) < len(seeds):
        raise InputError(f"prompt {doc_id} has two answers with one seed; remove one of them")
    if len({row.prompt_hash for row in rows}) > 1:
        raise InputError(f"prompt {doc_id} differs between seeds; score samples of one data set")
    scores = [score_sample(row) for row in rows]
    return ScoreRow(
        doc_id=doc_id,
        prompt_hash=rows[0].prompt_hash,
        category=rows[0].category,
        reference_tokens=rows[0].reference_tokens,
        seeds=seeds,
        metrics={name: [score[name] for score in scores] for name in scores[0]},
    )


def _f_measure(reference: list[int], prediction: list[int]) -> float:
    """F-measure of the longest common subsequence, in rouge_score's order of operations."""
    if not reference or not prediction:
        return 0.0
    common = LCSseq.similarity(reference, prediction)
    precision, recall = common / len(prediction), common / len(reference)
    return 2 * precision * recall / (precision + recall) if common else 0.0
