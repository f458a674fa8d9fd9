"""A byte-pair tokenizer of the mini world, for pairs whose tokenizers differ."""

from functools import lru_cache
from typing import TYPE_CHECKING

from kdbench.tasks.mini.parse import render
from kdbench.tasks.mini.tokenizer import EOS, PAD
from kdbench.tasks.mini.world import rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PIECES = 700
"""Tokens at most; less common words are two or three."""


@lru_cache(maxsize=2)
def _pieces(size: str) -> str:
    """The byte-pair tokenizer learnt from the training rows of a world size, as JSON."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=PIECES, special_tokens=[PAD, EOS], show_progress=False)
    texts = (render(r["instruction"], r["input"]) + r["output"] for r in rows("train", size=size))
    core.train_from_iterator(texts, trainer)
    return core.to_str()


def build_bpe_tokenizer(size: str) -> "PreTrainedTokenizerFast":
    """A byte-pair tokenizer of at most ``PIECES`` tokens, learnt from a world size's training rows."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_pieces(size)),
        pad_token=PAD,
        eos_token=EOS,
        model_max_length=256,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
