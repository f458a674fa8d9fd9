"""The word-level tokenizer of the mini world: one id a word or punctuation mark.

``decode(encode(text))`` gives back any text of the world: decoding joins by spaces and takes the
space before ``. , ? : 's`` away again.
"""

from functools import lru_cache
from typing import TYPE_CHECKING

from kdbench.tasks.mini import lexicon
from kdbench.tasks.mini.words import MARKS, SPLIT

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, EOS, UNK = "<pad>", "<eos>", "<unk>"
SPECIALS = (PAD, EOS, UNK)


def _lexicon_words() -> set[str]:
    words: set[str] = set()
    for name, value in vars(lexicon).items():
        if name.isupper() and not isinstance(value, dict):
            words.update(value)
    return words


@lru_cache(maxsize=1)
def vocabulary() -> dict[str, int]:
    """Word -> id: specials, marks, then all words of the lexicon and of the kinds by alphabet."""
    from kdbench.tasks.mini.parse import written_words

    words = sorted((_lexicon_words() | written_words()) - set(MARKS) - set(SPECIALS))
    return {word: i for i, word in enumerate((*SPECIALS, *MARKS, *words))}


def build_tokenizer() -> "PreTrainedTokenizerFast":
    """A new tokenizer with pad, end and unknown tokens and no beginning token."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel(vocabulary(), unk_token=UNK))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(SPLIT), behavior="removed", invert=True)
    spaced = decoders.Replace(Regex("^"), " ")
    marks = [decoders.Replace(f" {mark}", mark) for mark in MARKS]
    core.decoder = decoders.Sequence([spaced, decoders.Fuse(), *marks, decoders.Strip(" ", 1, 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNK,
        model_max_length=256,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
