"""What a word is to ROUGE: texts in, one string out whose characters stand for the stems of its words.

``rouge`` is google rouge_score 0.1.2 with its stemmer: lower case, everything but ``a-z0-9`` parts words,
words of more than three characters are stemmed by nltk's Porter stemmer (its default, extended mode).
It sees nothing of scripts other than Latin. ``unicode`` sees all of them: NFKC, case folded; letters,
digits and their marks are words; in scripts that part no words by spaces (Han, Kana, Thai, Lao, Khmer,
Burmese, Tibetan) each character with its marks is one, as sacrebleu's tokenizers have it for Chinese;
ASCII words are stemmed as above, so English texts without accents score alike by both.
"""

import re
import string
import unicodedata
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import chain, pairwise
from typing import Literal, NamedTuple, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import regex
from nltk.stem.porter import PorterStemmer
from numpy.typing import NDArray

Tokenizer = Literal["rouge", "unicode"]
TOKENIZERS: tuple[Tokenizer, ...] = get_args(Tokenizer)

_ASCII_WORD = re.compile(r"[a-z0-9]+")
_STEMMED_FROM = 4
_STEMMER = PorterStemmer()
# bytes to bytes: what is no letter or digit (a character outside ASCII is "?" by then) parts words
_TO_SPACES = bytes(
    b if chr(b) in string.ascii_lowercase + string.digits else 32 for b in range(256)
)
_UNSPACED = "".join(
    rf"\p{{{script}}}"
    for script in ("Han", "Hiragana", "Katakana", "Thai", "Lao", "Khmer", "Myanmar", "Tibetan")
)
_UNICODE_WORD = regex.compile(
    rf"[[\p{{L}}\p{{N}}]&&[{_UNSPACED}]]\p{{M}}*|[[\p{{L}}\p{{N}}\p{{M}}]--[{_UNSPACED}]]+",
    regex.VERSION1,
)
_SURROGATES = range(0xD800, 0xE000)
_LAST = 0x10FFFF


class Full(Exception):
    """More different stems than there are characters; begin anew."""


@lru_cache(maxsize=1 << 20)
def stem_of(word: str) -> str:
    """The stem of a word in lower case; empty where it is no longer a word. Remembered: it is slow."""
    if not word.isascii():
        return word
    stem: str = _STEMMER.stem(word) if len(word) >= _STEMMED_FROM else word
    return stem if _ASCII_WORD.fullmatch(stem) else ""


class _Alphabet(dict[str, int]):
    """Word -> the character of its stem, on demand; 0: what is no longer a word after stemming."""

    def __init__(self) -> None:
        self._characters: dict[str, int] = {}
        self[""] = 0

    def __missing__(self, word: str) -> int:
        stem = stem_of(word)
        found = (self._characters.get(stem, 0) or self._new(stem)) if stem else 0
        self[word] = found
        return found

    def _new(self, stem: str) -> int:
        character = len(self._characters) + 1
        if character >= _SURROGATES.start:
            character += len(_SURROGATES)
        if character > _LAST:
            raise Full
        self._characters[stem] = character
        return character


class Speller:
    """Spells texts; spellings of one speller can be compared with each other.

    Args:
        tokenizer: what a word is.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._alphabet = _Alphabet()

    def spelled(self, texts: Sequence[str]) -> list[str]:
        """Each text as a string of one character a word.

        Raises:
            Full: take a new speller.
        """
        code = self._ascii if self.tokenizer == "rouge" else self._any
        codes_W, ends_T = code(texts)
        kept_W = codes_W != 0
        places_T = np.concatenate([[0], np.cumsum(kept_W)])[ends_T].tolist()
        whole = codes_W[kept_W].astype("<u4").tobytes().decode("utf-32-le")
        return [whole[start:end] for start, end in pairwise([0, *places_T])]

    def _ascii(self, texts: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        words = parted([spaced(text) for text in texts])
        characters = [self._alphabet[word] for word in words.known]
        return np.array(characters, dtype=np.uint32)[words.places_W], words.ends_T

    def _any(self, texts: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        words = [_UNICODE_WORD.findall(folded(text)) for text in texts]
        codes = map(self._alphabet.__getitem__, chain.from_iterable(words))
        return (
            np.fromiter(codes, dtype=np.uint32),
            np.cumsum([len(each) for each in words], dtype=np.int64),
        )


class Parted(NamedTuple):
    """The words of many texts, an empty one beside every space that stands beside another or an end."""

    known: list[str]
    """Different ones."""
    places_W: NDArray[np.int64]
    """Of each word, in order: its place in ``known``."""
    ends_T: NDArray[np.int64]
    """Of each text: how many words there are up to its end."""


def parted(texts: Sequence[bytes]) -> Parted:
    """Texts in UTF-8, parted at spaces.

    Not by Arrow's kernels for white space: 26.0 reads past the end of a text that ends with some.
    """
    words = pc.split_pattern(pa.array(texts, pa.large_string()), " ")
    told = words.flatten().dictionary_encode()
    return Parted(
        told.dictionary.to_pylist(),
        told.indices.to_numpy(zero_copy_only=False).astype(np.int64),
        words.offsets.to_numpy()[1:].astype(np.int64) - words.offsets[0].as_py(),
    )


def spaced(text: str) -> bytes:
    """A text's ASCII letters, in lower case, and digits; a space for everything else."""
    return text.lower().encode("ascii", "replace").translate(_TO_SPACES)


def folded(text: str) -> str:
    """One form of what is written alike: compatible characters and case."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def reads(tokenizer: Tokenizer) -> Callable[[str], bool]:
    """Whether a tokenizer sees at least half of the letters and digits of a text, and one of them."""

    def enough(text: str) -> bool:
        if tokenizer == "unicode":
            return _UNICODE_WORD.search(folded(text)) is not None
        seen = len(spaced(text).replace(b" ", b""))
        if 2 * seen >= len(text) or text.isascii():
            return seen > 0
        return seen > 0 and 2 * seen >= sum(map(str.isalnum, text))

    return enough
