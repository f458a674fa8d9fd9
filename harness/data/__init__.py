"""Data sets: rows, where they are found, what they hash to, how they are rendered and tokenised.

Imports neither torch nor transformers; tokenizers are passed in and used through
`kdbench.harness.data.tokens.TokenizerLike`.
"""

from kdbench.harness.data.examples import Example, examples_sha256, load_jsonl, parse_examples
from kdbench.harness.data.labelled import Labelled, load_labelled
from kdbench.harness.data.ngrams import shared_ngrams
from kdbench.harness.data.overlaps import overlaps
from kdbench.harness.data.sources import SplitFile, find_split, load_split, split_names
from kdbench.harness.data.templates import TEMPLATES, prompt_hash, prompt_key, render
from kdbench.harness.data.texts import load_texts
from kdbench.harness.data.tokens import (
    TokenCounts,
    TokenisedPrompt,
    TokenRow,
    TokenRule,
    tokenise,
    tokenise_prompts,
)

__all__ = [
    "TEMPLATES",
    "Example",
    "Labelled",
    "SplitFile",
    "TokenCounts",
    "TokenRow",
    "TokenRule",
    "TokenisedPrompt",
    "examples_sha256",
    "find_split",
    "load_jsonl",
    "load_labelled",
    "load_split",
    "load_texts",
    "overlaps",
    "parse_examples",
    "prompt_hash",
    "prompt_key",
    "render",
    "shared_ngrams",
    "split_names",
    "tokenise",
    "tokenise_prompts",
]
