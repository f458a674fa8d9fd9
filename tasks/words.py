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
import threading
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import chain, pairwise
from typing import Literal, NamedTuple, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import regex
from numpy.typing import NDArray

from kdbench.harness.data.scripts import UNSPACED
from kdbench.tasks.porter import porter_stemmer

Tokenizer = Literal["rouge", "unicode"]
TOKENIZERS: tuple[Tokenizer, ...] = get_args(Tokenizer)

_ASCII_WORD = re.compile(r"[a-z0-9]+")
_STEMMED_FROM = 4
_STEMMER = porter_stemmer()
# bytes to bytes: what is no letter or digit (a character outside ASCII is "?" by then) parts words
_TO_SPACES = bytes(
    b if chr(b) in string.ascii_lowercase + string.digits else 32 for b in range(256)
)
_LATIN = re.compile(r"[A-Za-z]")
_UNICODE_WORD = regex.compile(
    rf"[[\p{{L}}\p{{N}}]&&[{UNSPACED}]]\p{{M}}*|[[\p{{L}}\p{{N}}\p{{M}}]--[{UNSPACED}]]+",
    regex.VERSION1,
)
# in ASCII only: bytes from 128 on are parts of longer characters
_WHITE = bytes(32 if byte < 128 and chr(byte).isspace() else byte for byte in range(256))
_WIDE_WHITE = re.compile(  # in UTF-8: all that str.isspace knows beyond ASCII
    rb"\xc2[\x85\xa0]|\xe1\x9a\x80|\xe2\x80[\x80-\x8a\xa8\xa9\xaf]|\xe2\x81\x9f|\xe3\x80\x80"
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


class Numbered(NamedTuple):
    """The words of many texts by their numbers."""

    ids_W: NDArray[np.int32]
    ends_T: NDArray[np.int64]
    """Of each text: how many words there are up to its end."""


class Vocabulary:
    """Words between white space, numbered from 1 in the order they are met; for many threads at once."""

    def __init__(self) -> None:
        self._ids = _Ids()

    def __len__(self) -> int:
        """One more than the highest number."""
        return len(self._ids.words)

    def __getitem__(self, number: int) -> str:
        return self._ids.words[number].decode()

    def numbered(self, texts: Sequence[str]) -> Numbered:
        """Texts parted as ``str.split`` does.

        Not by Arrow's kernels for white space: 26.0 reads past the end of a text that ends with some.
        """
        bytes_T = pa.array([_single_spaced(text) for text in texts], pa.large_binary())
        words = pc.split_pattern(bytes_T, " ")
        told = words.flatten().dictionary_encode()
        known = list(map(self._ids.__getitem__, told.dictionary.to_pylist()))
        places_W = told.indices.to_numpy(zero_copy_only=False)
        ids_W = np.array(known, dtype=np.int32)[places_W]
        ends_T = words.offsets.to_numpy()[1:] - words.offsets[0].as_py()
        if 0 not in known:
            return Numbered(ids_W, ends_T)
        kept_W = (
            ids_W != 0
        )  # an empty word is beside every space that stands beside another or an end
        return Numbered(ids_W[kept_W], np.concatenate([[0], np.cumsum(kept_W)])[ends_T])


class _Ids(dict[bytes, int]):
    """Word in UTF-8 -> number, on demand; 0: the empty word."""

    def __init__(self) -> None:
        self.words = [b""]
        self._growing = threading.Lock()
        self[b""] = 0

    def __missing__(self, word: bytes) -> int:
        with self._growing:
            found = self.get(word)
            if found is None:
                found = len(self.words)
                self.words.append(word)
                self[word] = found
        return found


class Speller:
    """Spells texts; spellings of one speller can be compared with each other.

    Args:
        tokenizer: what a word is.
        vocabulary: that numbers words; what a word between white space holds is found out once.
    """

    def __init__(self, tokenizer: Tokenizer, vocabulary: Vocabulary | None = None) -> None:
        self.tokenizer = tokenizer
        self._alphabet = _Alphabet()
        self._vocabulary = Vocabulary() if vocabulary is None else vocabulary
        self._codes = np.zeros(0, dtype=np.uint32)
        self._starts = np.zeros(0, dtype=np.int32)
        self._counts = np.zeros(0, dtype=np.int32)

    def spelled(self, texts: Sequence[str], words: Numbered | None = None) -> list[str]:
        """Each text as a string of one character a word.

        Args:
            texts: at any length.
            words: their numbers in this speller's vocabulary, if they are known.

        Raises:
            Full: take a new speller.
        """
        if self.tokenizer == "rouge":
            codes, ends_T = self._ascii(
                self._vocabulary.numbered(texts) if words is None else words
            )
        else:
            codes, ends_T = self._any(texts)
        whole = codes.astype("<u4").tobytes().decode("utf-32-le")
        return [whole[start:end] for start, end in pairwise([0, *ends_T.tolist()])]

    def _ascii(self, words: Numbered) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """What the tokenizer sees in words between white space, which part its words too."""
        self._learn(words.ids_W)
        counts_W = self._counts[words.ids_W]
        ends_W = np.cumsum(counts_W, dtype=np.int32)
        shifts_W = self._starts[words.ids_W] - ends_W + counts_W
        total = int(ends_W[-1]) if len(ends_W) else 0
        places = np.repeat(shifts_W, counts_W) + np.arange(total, dtype=np.int32)
        return self._codes[places], np.concatenate([[0], ends_W])[words.ends_T]

    def _learn(self, ids_W: NDArray[np.int32]) -> None:
        """Characters of words that this speller has not met."""
        more = len(self._vocabulary) - len(self._counts)
        starts_V = np.pad(self._starts, (0, more))
        counts_V = np.pad(self._counts, (0, more), constant_values=-1)
        used_V = np.zeros(len(counts_V), dtype=bool)
        used_V[ids_W] = True
        new_K = np.flatnonzero(used_V & (counts_V < 0))
        codes = [self._characters(self._vocabulary[number]) for number in new_K.tolist()]
        counts_V[new_K] = counts_K = np.array([len(each) for each in codes], dtype=np.int64)
        starts_V[new_K] = len(self._codes) + np.cumsum(counts_K) - counts_K
        flat = np.array(list(chain.from_iterable(codes)), dtype=np.uint32)
        self._codes = np.concatenate([self._codes, flat])
        self._starts, self._counts = starts_V, counts_V

    def _characters(self, text: str) -> list[int]:
        found = (self._alphabet[word] for word in spaced(text).decode().split())
        return [character for character in found if character]

    def _any(self, texts: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        words = [_UNICODE_WORD.findall(folded(text)) for text in texts]
        codes = map(self._alphabet.__getitem__, chain.from_iterable(words))
        codes_W = np.fromiter(codes, dtype=np.uint32)
        kept_W = codes_W != 0
        ends_T = np.cumsum([len(each) for each in words], dtype=np.int64)
        return codes_W[kept_W], np.concatenate([[0], np.cumsum(kept_W)])[ends_T]


def _single_spaced(text: str) -> bytes:
    """A text whose white space is ASCII's one space."""
    found = text.encode("utf-8", "replace").translate(_WHITE)
    return found if text.isascii() else _WIDE_WHITE.sub(b" ", found)


def spaced(text: str) -> bytes:
    """A text's ASCII letters, in lower case, and digits; a space for everything else."""
    return text.lower().encode("ascii", "replace").translate(_TO_SPACES)


def folded(text: str) -> str:
    """One form of what is written alike: compatible characters and case."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


OTHER_LETTERS = 0.01
"""Share of letters outside ASCII above which texts need a tokenizer that knows them: English with a few
accents stays below, other languages do not."""


def fitting(texts: Iterable[str]) -> Tokenizer:
    """The tokenizer for texts in any language: the papers' for plain Latin letters, else ``unicode``."""
    letters = others = 0
    for text in texts:
        known = sum(map(str.isalpha, text))
        letters += known
        others += 0 if text.isascii() else known - len(_LATIN.findall(text))
    return "unicode" if others > OTHER_LETTERS * letters else "rouge"


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
