"""Statistics of stored answers beyond accuracy: diversity, length, buckets of reference length."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kdbench.harness.files.records import ScoreRow
from kdbench.tasks.ngrams import LONGEST, Counts


@dataclass(frozen=True, slots=True)
class Bucket:
    """Reference lengths from ``low`` to ``high`` tokens, both included; ``high`` None is open."""

    label: str
    low: int
    high: int | None

    def holds(self, tokens: int) -> bool:
        """Whether a reference of that many tokens belongs here."""
        return tokens >= self.low and (self.high is None or tokens <= self.high)


BUCKETS: dict[str, tuple[Bucket, ...]] = {
    "minillm": (
        Bucket("[0,5]", 0, 5),
        Bucket("[6,10]", 6, 10),
        Bucket("[11,∞)", 11, None),
    ),
    # printed as (0,30), (30,70), (70,∞); the bounds are put into the longer bucket
    "dpkd": (
        Bucket("(0,30)", 0, 29),
        Bucket("[30,70)", 30, 69),
        Bucket("[70,∞)", 70, None),
    ),
}
"""Length buckets of the MiniLLM and DPKD papers; each set covers every length exactly once."""


def by_length(rows: Sequence[ScoreRow], buckets: Sequence[Bucket]) -> dict[str, list[ScoreRow]]:
    """Scored prompts by the length of their shortest reference, empty buckets included."""
    return {b.label: [row for row in rows if b.holds(row.reference_tokens)] for b in buckets}


def diversity(counted: Sequence[Mapping[int, Counts]]) -> Mapping[str, float | None]:
    """Distinct-n over whitespace words, averaged over decoding seeds.

    Args:
        counted: the n-grams of all answers of each decoding seed, by length.

    Returns:
        ``distinct_<n>`` in percent; None where no answer is long enough.
    """
    result: dict[str, float | None] = {}
    for n in range(1, LONGEST + 1):
        found = [seed[n] for seed in counted if seed[n].total]
        shares = [100.0 * one.distinct / one.total for one in found]
        result[f"distinct_{n}"] = sum(shares) / len(shares) if shares else None
    return result


def self_bleu(answers: Sequence[str], words: str = "13a") -> float | None:
    """Mean BLEU of each answer against all others, 0 to 100: high where answers are alike.

    Zhu et al. 2018, "Texygen", section 3.2, with sacrebleu's sentence BLEU; ``words`` is its tokenizer.

    Returns:
        None if there are fewer than two answers.
    """
    if len(answers) < 2:
        return None
    from sacrebleu.metrics.bleu import BLEU

    bleu = BLEU(tokenize=words, effective_order=True)
    scores = [
        bleu.sentence_score(answer, [*answers[:i], *answers[i + 1 :]]).score
        for i, answer in enumerate(answers)
    ]
    return sum(scores) / len(scores)
