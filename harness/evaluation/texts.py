"""What stored answers say beyond per-prompt scores: length buckets, diversity. No model."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from kdbench.harness.evaluation.estimates import estimates
from kdbench.harness.files.records import Missing, SampleRow, ScoreRow
from kdbench.tasks.text_stats import BUCKETS, by_length, cut_share, diversity, mean_length

GPT2 = "openai-community/gpt2"


def text_report(samples: Sequence[SampleRow], scores: Sequence[ScoreRow]) -> dict[str, Any]:
    """Length buckets of both papers by both tokenizers, distinct-n, length, share cut.

    Args:
        samples: all answers of one evaluation.
        scores: their per-prompt scores.
    """
    return {
        "distinct": dict(diversity(samples)) | {"unit": "words, n-grams inside answers, a seed"},
        "mean_length": mean_length(samples),
        "cut_share": cut_share(samples),
        "buckets": {
            "student": _buckets(scores) | {"signature": "reference tokens: student tokenizer"},
            "gpt2": _gpt2_buckets(samples, scores),
        },
    }


def _buckets(scores: Sequence[ScoreRow]) -> dict[str, Any]:
    metrics = list(scores[0].metrics) if scores else []
    found: dict[str, Any] = {}
    for paper, buckets in BUCKETS.items():
        found[paper] = {
            label: {
                "n": len(rows),
                "metrics": {
                    name: value.model_dump() for name, value in estimates(rows, metrics).items()
                },
            }
            for label, rows in by_length(scores, buckets).items()
        }
    return found


def _gpt2_buckets(samples: Sequence[SampleRow], scores: Sequence[ScoreRow]) -> dict[str, Any]:
    tokenizer = gpt2_tokenizer()
    if tokenizer is None:
        reason = f"the papers' tokenizer ({GPT2}) is not in this machine's Hugging Face cache"
        return Missing(missing=reason).model_dump()
    references = {row.doc_id: row.references for row in samples}
    counted = [
        row.model_copy(
            update={
                "reference_tokens": min(
                    len(ids)
                    for ids in tokenizer(references[row.doc_id], add_special_tokens=False)[
                        "input_ids"
                    ]
                )
            }
        )
        for row in scores
    ]
    return _buckets(counted) | {"signature": f"reference tokens: {GPT2}"}


@cache
def gpt2_tokenizer() -> Any:
    """GPT-2's tokenizer if it is on this machine; never looked for on the network."""
    from transformers import AutoTokenizer

    for name in (GPT2, "gpt2"):
        try:
            return AutoTokenizer.from_pretrained(name, local_files_only=True)
        except (OSError, ValueError):
            continue
    return None
