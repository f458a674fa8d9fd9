"""ROUGE-L and exact match: text in, numbers out, no model and no GPU.

ROUGE-L is google rouge_score 0.1.2 (``RougeScorer(["rougeL"], use_stemmer=True)``, F-measure, best
over references), value for value, by the tokenizer ``rouge`` of `kdbench.tasks.words`; by ``unicode`` the
same measure over words of all scripts. What makes it fast: texts are parted and numbered many at a time
in C (Arrow), references once, and the longest common subsequence is found in bit-parallel form (rapidfuzz;
Hyyrö 2004, "Bit-parallel LCS-length computation revisited").

A prompt whose references hold nothing that the tokenizer can read has no ROUGE-L: a reason, not 0. That
depends on references only, so that no answer can choose whether it counts.
"""

import math
import string
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import groupby
from typing import NamedTuple

import numpy as np
import regex
from rapidfuzz.distance import LCSseq
from rapidfuzz.process import cpdist

from kdbench.harness.errors import InputError
from kdbench.harness.files.records import SampleRow, ScoreRow
from kdbench.harness.foreign import foreign
from kdbench.harness.metrics import Unmeasured, others
from kdbench.tasks.words import (
    Full,
    Numbered,
    Speller,
    Tokenizer,
    Vocabulary,
    folded,
    reads,
    spaced,
)

SCORER = "kdbench-text-2 (rouge_score 0.1.2 semantics)"
"""Version of the numbers; changed whenever any of them would change."""

UNICODE = 2
"""Version of what is done otherwise for texts in all scripts."""

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ANY_PUNCTUATION = regex.compile(r"\p{P}")
_ALONE = threading.Lock()
_KEPT_CHARACTERS = 50_000_000
"""Of references whose spelling is remembered."""
_HEAD = 64
"""Characters of an answer that tell most answers and references apart."""


def scorer_of(tokenizer: Tokenizer) -> str:
    """What scores by this tokenizer are called."""
    return SCORER if tokenizer == "rouge" else f"{SCORER} rouge_tokenizer={tokenizer} {UNICODE}"


class Scored(NamedTuple):
    """The metrics of one answer, and why others have no value."""

    values: dict[str, float]
    missing: dict[str, str]


class TextScorer:
    """Scores answers, and remembers what it knows of references.

    Args:
        tokenizer: what a word of ROUGE-L is.
        vocabulary: that numbers words, where others number the same answers.
    """

    def __init__(
        self, tokenizer: Tokenizer = "rouge", vocabulary: Vocabulary | None = None
    ) -> None:
        self.tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._reads = reads(tokenizer)
        self._forget()

    def __call__(self, rows: Sequence[SampleRow], words: Numbered | None = None) -> list[Scored]:
        """All text metrics of stored answers.

        Args:
            rows: the answers.
            words: of the answers, by the vocabulary, if they are numbered already.

        Returns:
            ``rouge_l``, ``exact_match`` and ``cut`` in percent (``cut`` 100: stopped at the length
            limit), ``response_tokens`` in tokens, end included, and what packages add.
        """
        rouge = self.rouge_l([r.response for r in rows], [r.references for r in rows], words)
        more = {name: metric.score for name, metric in others().items()}
        found = []
        for row, value in zip(rows, rouge, strict=True):
            scored = Scored({}, {})
            _put(scored, "rouge_l", value)
            _put(scored, "exact_match", self._exact(row.response, row.references))
            for name, score in more.items():
                assert callable(score)
                with foreign(f"metric {name!r} cannot score the answer to prompt {row.doc_id}"):
                    _put(scored, name, _tried(score, row))
            scored.values["response_tokens"] = float(row.response_tokens)
            scored.values["cut"] = 100.0 * (not row.finished)
            found.append(scored)
        return found

    def rouge_l(
        self,
        predictions: Sequence[str],
        references: Sequence[Sequence[str]],
        words: Numbered | None = None,
    ) -> list[float | str]:
        """ROUGE-L F-measure in percent, best over references; or why there is none."""
        found: list[float | str] = []
        spelled, known = self._spelled(predictions, references, words)
        pairs = [
            (place, reference)
            for place, texts in enumerate(references)
            for text in texts
            if (reference := known[text]) is not None
        ]
        values = _f_measures([spelled[place] for place, _ in pairs], [ref for _, ref in pairs])
        best: dict[int, float] = {}
        for (place, _), value in zip(pairs, values, strict=True):
            best[place] = max(value, best.get(place, 0.0))
        for place, texts in enumerate(references):
            found.append(100.0 * best[place] if place in best else unread(self.tokenizer, texts))
        return found

    def _spelled(
        self,
        predictions: Sequence[str],
        references: Sequence[Sequence[str]],
        words: Numbered | None,
    ) -> tuple[list[str], dict[str, str | None]]:
        """Predictions, and every reference by its text (None: not readable), by one speller."""
        wanted = dict.fromkeys(text for texts in references for text in texts)
        try:
            new = [text for text in wanted if text not in self._known]
            spelled = self._speller.spelled(predictions, words)
            for text, reference in zip(new, self._speller.spelled(new), strict=True):
                self._known[text] = reference if reference and self._reads(text) else None
                self._size += len(text)
        except Full:
            self._forget()
            return self._spelled(predictions, references, words)
        known = {text: self._known[text] for text in wanted}
        if self._size > _KEPT_CHARACTERS:
            self._forget()
        return spelled, known

    def _forget(self) -> None:
        self._speller = Speller(self.tokenizer, self._vocabulary)
        self._known: dict[str, str | None] = {}
        self._size = 0

    def _exact(self, prediction: str, references: Sequence[str]) -> float | str:
        if not references:
            return unread("unicode", references)
        if self.tokenizer == "unicode":
            wanted = normalise_unicode(prediction)
            return 100.0 * any(normalise_unicode(text) == wanted for text in references)
        # most answers are told apart by how they begin alone, and faster
        head = _letters(prediction[:_HEAD])
        alike = [text for text in references if _one_begins(head, _letters(text[:_HEAD]))]
        normal = normalise(prediction) if alike else ""
        return 100.0 * any(normalise(text) == normal for text in alike)


def unread(tokenizer: Tokenizer, references: Sequence[str]) -> str:
    """Why ROUGE-L has no value where no reference can be read."""
    if not references:
        return "no reference"
    if tokenizer == "rouge":
        return "ROUGE's tokenizer reads a-z and 0-9 only (see tasks.rouge_tokenizer)"
    return "no reference holds a word"


def rouge_f(
    prediction: str, references: str | Sequence[str], tokenizer: Tokenizer = "rouge"
) -> float:
    """ROUGE-L in percent exactly as rouge_score has it: 0 where there is no word, or no reference."""
    texts = [references] if isinstance(references, str) else references
    predicted, *spelled = Speller(tokenizer).spelled([prediction, *texts])
    return 100.0 * max(_f_measures([predicted] * len(texts), spelled), default=0.0)


def rouge_l(prediction: str, references: str | Sequence[str]) -> float:
    """ROUGE-L F-measure of one answer in percent, best over references.

    Raises:
        Unmeasured: no reference can be read.
    """
    texts = [references] if isinstance(references, str) else references
    with _ALONE:
        (value,) = _alone().rouge_l([prediction], [texts])
    if isinstance(value, str):
        raise Unmeasured(value)
    return value


@cache
def _alone() -> TextScorer:
    """For callers with one answer at a time: stems and references are remembered between them."""
    return TextScorer()


def exact_match(prediction: str, references: str | Sequence[str]) -> float:
    """100 if the answer equals a reference but for case, ASCII punctuation and spacing, else 0.

    As LMOps minillm/rouge_metric.py: articles are kept.

    Raises:
        Unmeasured: there is no reference.
    """
    texts = [references] if isinstance(references, str) else references
    with _ALONE:
        value = _alone()._exact(prediction, texts)
    if isinstance(value, str):
        raise Unmeasured(value)
    return value


def _letters(text: str) -> bytes:
    """ASCII letters and digits only: alike for texts that are alike but for case, marks and spaces."""
    return spaced(text).replace(b" ", b"")


def _one_begins(one: bytes, other: bytes) -> bool:
    """Whether one of two begins with the other, as the beginnings of texts that are alike do."""
    return one.startswith(other) or other.startswith(one)


def normalise(text: str) -> str:
    """Lower case, no ASCII punctuation, single spaces."""
    return " ".join(text.lower().translate(_PUNCTUATION).split())


def normalise_unicode(text: str) -> str:
    """The same of all scripts: one form of what is written alike, no punctuation of any, single spaces."""
    return " ".join(_ANY_PUNCTUATION.sub("", folded(text)).translate(_PUNCTUATION).split())


def _tried(score: Callable[[str, Sequence[str]], float], row: SampleRow) -> float | str:
    try:
        return float(score(row.response, row.references))
    except Unmeasured as why:
        return str(why)


def _put(scored: Scored, name: str, value: float | str) -> None:
    """A finite value, or why there is none."""
    if isinstance(value, str):
        scored.missing[name] = value
    elif math.isfinite(value):
        scored.values[name] = value
    else:
        scored.missing[name] = f"the metric is {value} for an answer"


def _f_measures(predictions: Sequence[str], references: Sequence[str]) -> list[float]:
    """F-measures of the longest common subsequences, in rouge_score's order of operations."""
    if not predictions:
        return []
    common = cpdist(predictions, references, scorer=LCSseq.similarity, dtype=np.int64)
    common_N = np.asarray(common, dtype=float)
    lengths = [np.array(list(map(len, texts)), dtype=float) for texts in (predictions, references)]
    precision_N, recall_N = (common_N / np.maximum(length_N, 1.0) for length_N in lengths)
    total_N = precision_N + recall_N
    found_N = 2 * precision_N * recall_N / np.where(total_N > 0, total_N, 1.0)
    values: list[float] = found_N.tolist()
    return values


def score_rows(samples: Iterable[SampleRow], tokenizer: Tokenizer = "rouge") -> list[ScoreRow]:
    """Scores stored answers and groups the decoding seeds of each prompt.

    Args:
        samples: answers of one evaluation, any number of seeds, any order.
        tokenizer: what a word of ROUGE-L is.

    Returns:
        One row a prompt by ``doc_id``, seeds ascending, metrics as `TextScorer`'s.

    Raises:
        InputError: two answers to the same prompt with the same seed, or prompts that differ
            between seeds (samples of different data).
    """
    rows = list(samples)
    return grouped_rows(
        [(About.of(row), each) for row, each in zip(rows, TextScorer(tokenizer)(rows), strict=True)]
    )


class About(NamedTuple):
    """What a score row needs of an answer besides its values."""

    doc_id: int
    seed: int
    prompt_hash: str
    category: str | None
    reference_tokens: int

    @classmethod
    def of(cls, row: SampleRow) -> "About":
        """Of a stored answer."""
        return cls(row.doc_id, row.seed, row.prompt_hash, row.category, row.reference_tokens)


def grouped_rows(scored: Sequence[tuple[About, Scored]]) -> list[ScoreRow]:
    """One row a prompt; see `score_rows`."""
    ordered = sorted(scored, key=lambda pair: pair[0][:2])
    return [
        _score_row(doc_id, list(group))
        for doc_id, group in groupby(ordered, key=lambda pair: pair[0].doc_id)
    ]


def _score_row(doc_id: int, rows: list[tuple[About, Scored]]) -> ScoreRow:
    seeds = [about.seed for about, _ in rows]
    if len(set(seeds)) < len(seeds):
        raise InputError(f"prompt {doc_id} has two answers with one seed; remove one of them")
    if len({about.prompt_hash for about, _ in rows}) > 1:
        raise InputError(f"prompt {doc_id} differs between seeds; score samples of one data set")
    missing: dict[str, str] = {}
    for _, scored in rows:
        missing |= scored.missing
    names = [name for name in rows[0][1].values if name not in missing]
    return ScoreRow(
        doc_id=doc_id,
        prompt_hash=rows[0][0].prompt_hash,
        category=rows[0][0].category,
        reference_tokens=rows[0][0].reference_tokens,
        seeds=seeds,
        metrics={name: [scored.values[name] for _, scored in rows] for name in names},
        missing=missing,
    )
