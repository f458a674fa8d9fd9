"""BLEU and chrF2 of sacrebleu: of all answers together, which is how they are defined, and of each alone.

The value of a corpus is no mean of its sentences: counts of n-grams are added up over all of them first.
So both are kept: the corpus value, with an interval by drawing prompts anew and adding up again, and
sentence values (BLEU's with effective order and exponential smoothing), which can be compared in pairs.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import regex
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from kdbench.harness import stats
from kdbench.harness.stats import Array, Interval

Name = Literal["bleu", "chrf"]
NAMES: tuple[Name, ...] = ("bleu", "chrf")
RESAMPLES = 1_000

_HAN = regex.compile(r"\p{Han}")
_UNSPACED = regex.compile(
    r"[\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}]"
)


def bleu_words(texts: Sequence[str]) -> str:
    """Sacrebleu's tokenizer for texts of their script: ``13a``; ``zh`` for Chinese; ``char`` for others
    that part no words by spaces.
    """
    whole = "".join(texts)
    letters = max(1, sum(map(str.isalpha, whole)))
    unspaced, han = len(_UNSPACED.findall(whole)), len(_HAN.findall(whole))
    if 2 * (unspaced + han) < letters:
        return "13a"
    return "zh" if 10 * unspaced < han else "char"


class Corpus:
    """The references of a set of prompts, ready for several sets of answers.

    Args:
        references: of each prompt, one or more.
    """

    def __init__(self, references: Sequence[Sequence[str]]) -> None:
        most = max(map(len, references))
        streams: Any = [
            [texts[i] if i < len(texts) else None for texts in references] for i in range(most)
        ]
        self.words = bleu_words([text for texts in references for text in texts])
        self._whole: dict[Name, BLEU | CHRF] = {
            "bleu": BLEU(tokenize=self.words, force=True, references=streams),
            "chrf": CHRF(references=streams),
        }
        self._alone: dict[Name, BLEU | CHRF] = {
            "bleu": BLEU(tokenize=self.words, effective_order=True),
            "chrf": CHRF(),
        }

    def statistics(self, name: Name, answers: Sequence[str]) -> Array:
        """Counts of each answer, (P, K): what is added up."""
        return np.array(self._whole[name]._extract_corpus_statistics(answers, None), dtype=float)

    def whole(self, name: Name, counts_PK: Array) -> float:
        """The value of all answers together, in percent."""
        return self._of(self._whole[name], counts_PK.sum(axis=0))

    def each(self, name: Name, counts_PK: Array) -> list[float]:
        """The value of each answer alone, in percent."""
        return [self._of(self._alone[name], row) for row in counts_PK]

    def interval(self, name: Name, counts_SPK: Sequence[Array]) -> Interval:
        """The mean of the seeds' corpus values, and its interval over prompts, drawn for all alike."""
        found = float(np.mean([self.whole(name, counts) for counts in counts_SPK]))
        prompts = len(counts_SPK[0])
        if prompts < 2:
            return Interval(found, found, found)
        label, drawn = f"prompts:{prompts}", []
        for times_RP in stats.drawn_counts(prompts, RESAMPLES, label):
            sums_SRK = [times_RP @ counts for counts in counts_SPK]
            for sums_SK in zip(*sums_SRK, strict=True):
                drawn.append(np.mean([self._of(self._whole[name], sums) for sums in sums_SK]))
        low, high = stats.percentiles(np.array(drawn), prompts)
        return Interval(found, float(low), float(high))

    def _of(self, metric: BLEU | CHRF, counts_K: Array) -> float:
        given = counts_K.round().astype(int).tolist()
        return min(100.0, float(metric._compute_score_from_stats(given).score))
