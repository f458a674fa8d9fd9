"""What stored answers say beyond per-prompt scores: diversity, length, buckets of reference length."""

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, cached_property, partial
from typing import Any

from kdbench.harness.errors import InputError
from kdbench.harness.evaluation.estimates import estimates, names_of
from kdbench.harness.evaluation.many import in_threads, sample_batches
from kdbench.harness.files.records import Missing, SampleRow, ScoreRow
from kdbench.harness.files.run_folder import Evaluation
from kdbench.harness.foreign import foreign
from kdbench.harness.progress import Progress
from kdbench.tasks.ngrams import Counts, NGrams
from kdbench.tasks.text_stats import BUCKETS, by_length, diversity
from kdbench.tasks.words import Numbered, Vocabulary

GPT2 = "openai-community/gpt2"
_TOKENIZER_FILES = ("tokenizer.json", "vocab.json")


def describe(
    evaluation: Evaluation,
    progress: Progress | None = None,
    told: Mapping[int, "Told"] | None = None,
) -> None:
    """What stored answers say by themselves, as probe ``text``; made again with every scoring.

    Args:
        evaluation: scored.
        progress: told how many decoding seeds are described.
        told: what the answers of a seed say, where they were read already.
    """
    scorer = evaluation.scored.info().get("scorer")
    seeds = evaluation.seeds()
    with (progress or Progress(quiet=True)).stage(
        f"describe {evaluation.key}", len(seeds), unit="seed"
    ) as stage:

        def counted(seed: int) -> Told:
            known = (told or {}).get(seed)
            one = known or Told.of(sample_batches(evaluation, seed), measure=seed == seeds[0])
            _ = one.counts  # the work of it
            return one

        found = in_threads([partial(counted, seed) for seed in seeds], stage.update)
    report = text_report(found, evaluation.scores())
    evaluation.keep_probe("text", report, {"scorer": scorer})


class Told:
    """What the answers of one decoding seed say.

    Args:
        measure: whether to count the references' tokens too, by the papers' tokenizer.
    """

    def __init__(self, measure: bool = True) -> None:
        self.measure = measure
        self.answers = self.tokens = self.cut = 0
        self.lengths: dict[int, int] = {}
        self._ngrams = NGrams()

    @classmethod
    def of(cls, batches: Iterable[Sequence[SampleRow]], measure: bool = True) -> "Told":
        """Of all answers of a seed, some at a time."""
        told, vocabulary = cls(measure), Vocabulary()
        for rows in batches:
            told.add(rows, vocabulary.numbered([row.response for row in rows]))
        return told

    def add(self, rows: Sequence[SampleRow], words: Numbered) -> None:
        """Some more answers, and their words, all by one vocabulary."""
        self._ngrams.add(words)
        self.answers += len(rows)
        self.tokens += sum(row.response_tokens for row in rows)
        self.cut += sum(not row.finished for row in rows)
        self.lengths |= _gpt2_lengths(rows) if self.measure else {}

    @cached_property
    def counts(self) -> dict[int, Counts]:
        """N-grams of all answers, by length."""
        return self._ngrams.counts()


def text_report(told: Sequence[Told], scores: Sequence[ScoreRow]) -> dict[str, Any]:
    """Length buckets of both papers by both tokenizers, distinct-n, length, share cut.

    Args:
        told: of each decoding seed of one evaluation.
        scores: their per-prompt scores.
    """
    answers = sum(each.answers for each in told)
    lengths = {doc: length for each in told for doc, length in each.lengths.items()}
    distinct = dict(diversity([each.counts for each in told]))
    return {
        "distinct": distinct | {"unit": "words, n-grams inside answers, a seed"},
        "mean_length": sum(each.tokens for each in told) / answers if answers else None,
        "cut_share": 100.0 * sum(each.cut for each in told) / answers if answers else None,
        "buckets": {
            "student": _buckets(scores) | {"signature": "reference tokens: student tokenizer"},
            "gpt2": _gpt2_buckets(scores, lengths),
        },
    }


def _gpt2_lengths(rows: Sequence[SampleRow]) -> dict[int, int]:
    """Tokens of the shortest reference, by prompt."""
    tokenizer = gpt2_tokenizer()
    asked = [row for row in rows if row.references]
    if tokenizer is None or not asked:
        return {}
    texts = [text for row in asked for text in row.references]
    ids = iter(tokenizer(texts, add_special_tokens=False)["input_ids"])
    return {row.doc_id: min(len(next(ids)) for _ in row.references) for row in asked}


def _buckets(scores: Sequence[ScoreRow]) -> dict[str, Any]:
    names = names_of(scores)
    found: dict[str, Any] = {}
    for paper, buckets in BUCKETS.items():
        found[paper] = {
            label: {
                "n": len(rows),
                "metrics": {
                    name: value.model_dump() for name, value in estimates(rows, names).items()
                },
            }
            for label, rows in by_length(scores, buckets).items()
        }
    return found


def _gpt2_buckets(scores: Sequence[ScoreRow], lengths: Mapping[int, int]) -> dict[str, Any]:
    """The same by the papers' tokenizer: ``lengths`` of the shortest reference, by prompt."""
    if gpt2_tokenizer() is None:
        reason = f"the papers' tokenizer ({GPT2}) is not in this machine's Hugging Face cache"
        return Missing(missing=reason).model_dump()
    counted = [
        row.model_copy(update={"reference_tokens": lengths.get(row.doc_id, 0)}) for row in scores
    ]
    return _buckets(counted) | {"signature": f"reference tokens: {GPT2}"}


@cache
def gpt2_tokenizer() -> Any:
    """GPT-2's tokenizer if it is on this machine; never looked for on the network."""
    from huggingface_hub import try_to_load_from_cache

    for name in (GPT2, "gpt2"):
        if not any(
            isinstance(try_to_load_from_cache(name, file), str) for file in _TOKENIZER_FILES
        ):
            continue
        from transformers import AutoTokenizer  # seconds, and torch

        with contextlib.suppress(InputError), foreign(f"cannot load the tokenizer {name}"):
            return AutoTokenizer.from_pretrained(
                name, local_files_only=True, trust_remote_code=False
            )
    return None
