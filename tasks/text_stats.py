"""Statistics of stored answers beyond accuracy: diversity, length, buckets of reference length."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from kdbench.harness.errors import InputError
from kdbench.harness.files.records import SampleRow, ScoreRow


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


def distinct_n(answers: Iterable[Sequence[Hashable]], n: int) -> float | None:
    """Share of distinct n-grams among all n-grams of all answers, in percent.

    Args:
        answers: tokens or words of each answer; n-grams do not cross answers.
        n: at least 1. MiniLLM's Dist-4 is n = 4.

    Returns:
        0 to 100, or None if no answer has n tokens.
    """
    seen: set[tuple[Hashable, ...]] = set()
    total = 0
    for answer in answers:
        grams = [tuple(answer[i : i + n]) for i in range(len(answer) - n + 1)]
        seen.update(grams)
        total += len(grams)
    return 100.0 * len(seen) / total if total else None


def diversity(
    samples: Sequence[SampleRow], orders: Sequence[int] = (1, 2, 3, 4)
) -> Mapping[str, float | None]:
    """Distinct-n over whitespace words, computed a decoding seed at a time and averaged.

    Returns:
        ``distinct_<n>`` in percent; None where no answer is long enough.
    """
    seeds = sorted({row.seed for row in samples})
    words = {s: [row.response.split() for row in samples if row.seed == s] for s in seeds}
    result: dict[str, float | None] = {}
    for n in orders:
        values = [value for s in seeds if (value := distinct_n(words[s], n)) is not None]
        result[f"distinct_{n}"] = sum(values) / len(values) if values else None
    return result


def cut_share(samples: Sequence[SampleRow]) -> float | None:
    """Percent of answers that stopped at the length limit; None without answers."""
    return 100.0 * sum(not row.finished for row in samples) / len(samples) if samples else None


def mean_length(samples: Sequence[SampleRow]) -> float | None:
    """Mean tokens of an answer, end token included; None without answers."""
    return sum(row.response_tokens for row in samples) / len(samples) if samples else None


def self_bleu(answers: Sequence[str]) -> float | None:
    """Mean BLEU of each answer against all others, 0 to 100: high where answers are alike.

    Zhu et al. 2018, "Texygen", section 3.2, with sacrebleu's sentence BLEU.

    Returns:
        None if there are fewer than two answers.

    Raises:
        InputError: sacrebleu is not installed.
    """
    if len(answers) < 2:
        return None
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError as error:
        raise InputError("self-BLEU needs sacrebleu: pip install 'kdbench[text]'") from error

    bleu = BLEU(effective_order=True)
    scores = [
        bleu.sentence_score(answer, [*answers[:i], *answers[i + 1 :]]).score
        for i, answer in enumerate(answers)
    ]
    return sum(scores) / len(scores)
