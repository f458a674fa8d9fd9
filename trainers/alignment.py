"""One text in the tokens of two tokenizers, aligned by byte offsets."""

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import replace

import torch
from transformers import PreTrainedTokenizerBase

from kdbench.trainers.types import Sequence

Decode = Callable[[list[int]], str]


def ends(ids: Seq[int], decode: Decode) -> list[int | None]:
    """Where each token ends, in bytes of the decoded text.

    None where a token ends inside a character, or where later tokens change what it looks like.
    """
    whole = decode(list(ids))
    found: list[int | None] = []
    for i in range(1, len(ids) + 1):
        text = decode(list(ids[:i]))
        found.append(len(text.encode()) if whole.startswith(text) else None)
    return found


def align(one: Seq[int | None], other: Seq[int | None]) -> tuple[list[int], list[int]]:
    """Span numbers of both tokens' sides: tokens between two common ends form one span.

    Args:
        one: token ends as :func:`ends` gives them, at least one.
        other: the same of the other side. Its last token closes the last span whatever its end is.
    """
    common = {e for e in one[:-1] if e} & {e for e in other[:-1] if e}

    def spans(side: Seq[int | None]) -> list[int]:
        last = {e: i for i, e in enumerate(side[:-1])}  # a token without bytes belongs to the left
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
    """

    def __init__(self, student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase) -> None:
        self.student, self.teacher = student, teacher
        self._known: dict[tuple[tuple[int, ...], tuple[int, ...]], Sequence] = {}

    def __call__(self, sequence: Sequence) -> Sequence:
        """The sequence with ``twin`` and columns ``span``."""
        known = (sequence.prompt, sequence.response)
        if known not in self._known:
            self._known[known] = self._twinned(sequence)
        return self._known[known]

    def _twinned(self, sequence: Sequence) -> Sequence:
        read, read_teacher = _decoder(self.student), _decoder(self.teacher)
        ended = sequence.response[-1:] == (self.student.eos_token_id,)
        body = list(sequence.response[:-1] if ended else sequence.response)
        other = self._encode(read(body)) if body else []
        prompt = self._encode(read(list(sequence.prompt)))
        tail = [self.teacher.eos_token_id] if ended or not other else []
        mine, theirs, last = [0] * len(body), [0] * len(other), 0
        if body and other:
            mine, theirs = align(ends(body, read), ends(other, read_teacher))
            last = mine[-1] + 1
        mine += [last] if ended else []
        theirs += [last] * len(tail)
        twin = Sequence(
            tuple(prompt), (*other, *tail), sequence.key, {"span": torch.tensor(theirs).float()}
        )
        columns = {**sequence.columns, "span": torch.tensor(mine).float()}
        return replace(sequence, columns=columns, twin=twin)

    def _encode(self, text: str) -> list[int]:
        return list(self.teacher(text, add_special_tokens=False)["input_ids"])


def _decoder(tokenizer: PreTrainedTokenizerBase) -> Decode:
    def decode(ids: list[int]) -> str:
        return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))

    return decode
