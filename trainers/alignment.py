"""One text in the tokens of two tokenizers, aligned by what both write."""

import unicodedata
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Seq
from dataclasses import replace
from difflib import SequenceMatcher
from itertools import accumulate

import torch
from transformers import PreTrainedTokenizerBase

from kdbench.trainers.types import Sequence

Decode = Callable[[list[int]], str]


def ends(ids: Seq[int], decode: Decode) -> list[int | None]:
    """Where each token ends, in characters of the decoded text.

    None where a token ends inside a character, or where later tokens change what it looks like.
    """
    whole = decode(list(ids))
    found: list[int | None] = []
    for i in range(1, len(ids) + 1):
        text = decode(list(ids[:i]))
        found.append(len(text) if whole.startswith(text) else None)
    return found


def places(one: str, other: str) -> tuple[list[int | None], list[int | None]]:
    """Coordinates in which two writings of a text can be compared, one for each place in each of them.

    A tokenizer's normaliser may compose or take apart accents, change case or width, or drop and
    replace characters, so that the text that comes out of it has other places than the one that went
    in. Both are taken apart into what no normal form changes (letters without their accents, the
    accents, lower case); where even that differs, by what they have in common in order.

    Returns:
        For each text a list of its length + 1. None: inside something that the other writes otherwise.
    """
    (mine, starts), (theirs, other_starts) = _atoms(one), _atoms(other)
    if mine == theirs:
        return list(starts), list(other_starts)
    mine_at: list[int | None] = [None] * (len(mine) + 1)
    theirs_at: list[int | None] = [None] * (len(theirs) + 1)
    matcher = SequenceMatcher(None, mine, theirs, autojunk=False)
    for a, b, size in matcher.get_matching_blocks():
        for i in range(size + 1):
            mine_at[a + i] = theirs_at[b + i] = a + i
    return [mine_at[i] for i in starts], [theirs_at[i] for i in other_starts]


def _atoms(text: str) -> tuple[str, list[int]]:
    """A text taken apart, and where in that each of its characters begins; last, its length."""
    parts = [
        unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", c).casefold()) for c in text
    ]
    return "".join(parts), [0, *accumulate(map(len, parts))]


def align(one: Seq[int | None], other: Seq[int | None]) -> tuple[list[int], list[int]]:
    """Span numbers of both tokens' sides: tokens between two common ends form one span.

    Args:
        one: token ends in common coordinates, at least one.
        other: the same of the other side. Its last token closes the last span whatever its end is.
    """
    common = {e for e in one[:-1] if e} & {e for e in other[:-1] if e}

    def spans(side: Seq[int | None]) -> list[int]:
        last = {e: i for i, e in enumerate(side[:-1])}  # a token without text belongs to the left
        number, out = 0, []
        for i, end in enumerate(side):
            out.append(number)
            if end in common and last.get(end) == i:
                number += 1
        return out

    return spans(one), spans(other)


class Twins:
    """Gives sequences of the student's tokens their twin in the teacher's.

    The response without its end token is decoded and encoded anew; the end tokens are aligned with
    each other. Both sides get a column ``span``. An answer that one side writes without any token
    is one span with its end token.

    Args:
        student: its tokenizer.
        teacher: its tokenizer.
        prompts: sequence key -> the prompt as the teacher reads it; a prompt that is not there is
            decoded and encoded anew.
        ends: ids of what ends an answer, the student's and the teacher's; None: their end tokens.
    """

    def __init__(
        self,
        student: PreTrainedTokenizerBase,
        teacher: PreTrainedTokenizerBase,
        *,
        prompts: Mapping[int, tuple[int, ...]] | None = None,
        ends: tuple[int, int] | None = None,
    ) -> None:
        self.student, self.teacher = student, teacher
        self._prompts = prompts or {}
        self.ends = ends or (student.eos_token_id, teacher.eos_token_id)
        self._known: dict[tuple[tuple[int, ...], tuple[int, ...]], Sequence] = {}

    def __call__(self, sequence: Sequence) -> Sequence:
        """The sequence with ``twin`` and columns ``span``."""
        known = (sequence.prompt, sequence.response)
        if known not in self._known:
            self._known[known] = self._twinned(sequence)
        return self._known[known]

    def _twinned(self, sequence: Sequence) -> Sequence:
        read, read_teacher = _decoder(self.student), _decoder(self.teacher)
        ended = sequence.response[-1:] == self.ends[:1]
        body = list(sequence.response[:-1] if ended else sequence.response)
        text = read(body) if body else ""
        other = self._encode(text) if body else []
        prompt = self._prompts.get(sequence.key) if sequence.prompt else ()
        if prompt is None:
            prompt = tuple(self._encode(read(list(sequence.prompt))))
        tail = [self.ends[1]] if ended or not other else []
        mine, theirs, last = [0] * len(body), [0] * len(other), 0
        if body and other:
            here, there = places(text, read_teacher(other))
            mine, theirs = align(
                [None if e is None else here[e] for e in ends(body, read)],
                [None if e is None else there[e] for e in ends(other, read_teacher)],
            )
            last = mine[-1] + 1
        mine += [last] if ended else []
        theirs += [last] * len(tail)
        twin = Sequence(
            prompt, (*other, *tail), sequence.key, {"span": torch.tensor(theirs).float()}
        )
        columns = {**sequence.columns, "span": torch.tensor(mine).float()}
        return replace(sequence, columns=columns, twin=twin)

    def _encode(self, text: str) -> list[int]:
        return list(self.teacher(text, add_special_tokens=False)["input_ids"])


def _decoder(tokenizer: PreTrainedTokenizerBase) -> Decode:
    def decode(ids: list[int]) -> str:
        return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))

    return decode
