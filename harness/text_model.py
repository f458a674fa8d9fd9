"""A loaded model with its tokenizer: texts in, answers and likelihoods out."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from kdbench.harness.data import chat
from kdbench.harness.data.templates import PromptFormat, prompt_key
from kdbench.harness.data.tokens import encode_whole
from kdbench.harness.errors import InputError
from kdbench.harness.files.records import DecodingRecord
from kdbench.harness.questions import Response
from kdbench.trainers.engine import Engine
from kdbench.trainers.types import Answer, Decoding, Prompt
from kdbench.trainers.types import Sequence as Tokens

CONTEXT = 2048
"""Context length where neither model nor tokenizer names one; lm-eval's."""


class Completion(NamedTuple):
    """One answer that a task of lm-eval's asks for; ``sample`` counts answers to the same question."""

    prompt: str
    decoding: Decoding
    stop: tuple[str, ...]
    sample: int


class Likelihood(NamedTuple):
    """Sum of the continuation's token log-probabilities (nats), and whether each was the argmax."""

    log_probability: float
    greedy: bool


PLAIN = PromptFormat("none")


@dataclass(frozen=True, slots=True)
class TextModel:
    """An engine and the tokenizer of its model."""

    engine: Engine
    tokenizer: PreTrainedTokenizerBase
    form: PromptFormat = PLAIN
    """How prompts are written for it: its chat format and begin token."""

    @property
    def end_id(self) -> int:
        """The first end token."""
        return self.engine.vocabulary.eos_ids[0]

    @property
    def max_length(self) -> int:
        """Context length in tokens, prompt and answer together, as lm-eval finds it."""
        return context_of(self.engine.max_length, self.tokenizer)

    # -- answers

    def respond(
        self, prompts: Sequence[Prompt], decoding: Decoding, stop: Sequence[str] = ()
    ) -> Iterator[list[Response]]:
        """Answers as texts, a chunk of the engine at a time; see ``text`` for ``stop``."""
        for answers in self.engine.answers(prompts, decoding):
            yield [self._response(answer, stop) for answer in answers]

    def _response(self, answer: Answer, stop: Sequence[str]) -> Response:
        text = self.text(answer.ids, stop)
        stopped = bool(stop) and text != self.text(answer.ids)
        return Response(text, len(answer.ids), answer.finished or stopped)

    def text(self, ids: Sequence[int], stop: Sequence[str] = ()) -> str:
        """Sampled ids as text up to the first stop text, special tokens and the ending one left out.

        Where a stop names special tokens, they are taken out after it has been looked for.
        """
        added = self.tokenizer.added_tokens_decoder.values() if stop else ()
        special = [t.content for t in added if t.special and any(t.content in s for s in stop)]
        said = self.engine.vocabulary.said(ids)
        text = str(self.tokenizer.decode(said, skip_special_tokens=not special))
        text = cut_at(text, stop)
        if special:
            for token in added:
                text = text.replace(token.content, "") if token.special else text
        return text

    # -- for lm-eval's own tasks

    def encode(self, text: str, add_special_tokens: bool | None = None) -> list[int]:
        """Ids of a text. None: begun as the format says; see `kdbench.harness.data.tokens`."""
        if add_special_tokens is None:
            return encode_whole(self.tokenizer, text, self.form)
        return list(self.tokenizer.encode(text, add_special_tokens=add_special_tokens))

    def chat_text(self, messages: list[dict[str, str]], opened: bool = True) -> str:
        """Messages in its chat format, the assistant's turn opened or the last one going on."""
        return chat_text(self.tokenizer, self.form, messages, opened)

    def complete(self, asked: Sequence[Completion]) -> list[str]:
        """Answers in the given order; prompts with equal settings are decoded together.

        Prompts too long for the context lose tokens on the left, as in lm-eval.

        Raises:
            InputError: a task asks for more tokens than the context has.
        """
        groups: dict[tuple[Decoding, tuple[str, ...]], list[int]] = defaultdict(list)
        for index, each in enumerate(asked):
            groups[each.decoding, each.stop].append(index)
        texts = [""] * len(asked)
        for (decoding, stop), indices in groups.items():
            room = self.max_length - decoding.max_new_tokens
            if room < 1:
                raise InputError(
                    f"a task asks for {decoding.max_new_tokens} new tokens, but the model's context "
                    f"has {self.max_length}; lower the task's max_gen_toks"
                )
            prompts = [
                Prompt(
                    tuple(self.encode(each.prompt)[-room:]), prompt_key(each.prompt), each.sample
                )
                for each in (asked[index] for index in indices)
            ]
            found = chain.from_iterable(self.respond(prompts, decoding, stop))
            for index, response in zip(indices, found, strict=True):
                texts[index] = response.text
        return texts

    def likelihoods(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[Likelihood]:
        """Likelihood of each continuation after its (non-empty) context, in the given order.

        Pairs too long for the context lose tokens on the left, as in lm-eval.

        Raises:
            InputError: a continuation has no tokens, or more than the context.
        """
        sequences, limit = [], self.max_length
        for context, continuation in pairs:
            if not 0 < len(continuation) <= limit:
                raise InputError(
                    f"a task asks how likely a text of {len(continuation)} tokens is, but there must "
                    f"be 1 to {limit}, the model's context; change the task's texts"
                )
            room = limit + 1 - len(continuation)  # the last token is never read
            sequences.append(Tokens(tuple(context[-room:]), tuple(continuation)))
        # longest first: what does not fit into memory fails at once
        order = sorted(range(len(pairs)), key=lambda i: -len(sequences[i]))
        found = self.engine.logprobs([sequences[i] for i in order])
        scores = {
            i: Likelihood(float(s.log_q.sum()), bool(s.greedy.all()))
            for i, s in zip(order, found, strict=True)
        }
        return [scores[i] for i in range(len(pairs))]


def context_of(named: int | None, tokenizer: PreTrainedTokenizerBase) -> int:
    """Context length in tokens: what the model's configuration names, else what the tokenizer does."""
    found = int(named or tokenizer.model_max_length)
    return found if found < 1 << 40 else CONTEXT  # a tokenizer that knows none says 1e30


def decoding_of(record: DecodingRecord, seed: int) -> Decoding:
    """The sampler's settings of a stored decoding."""
    return Decoding(**record.model_dump(exclude={"stop"}), seed=seed)


def chat_text(
    tokenizer: PreTrainedTokenizerBase,
    form: PromptFormat,
    messages: list[dict[str, str]],
    opened: bool = True,
) -> str:
    """Messages in a tokenizer's chat format, the assistant's turn opened or the last one going on."""
    date, arguments = form.date, form.arguments
    return chat.rendered(
        tokenizer, messages, date=date, arguments=arguments, opened=opened, going_on=not opened
    )


def cut_at(text: str, stop: Sequence[str]) -> str:
    """The text before the first occurrence of any stop text."""
    places = [place for mark in stop if (place := text.find(mark)) >= 0]
    return text[: min(places)] if places else text
