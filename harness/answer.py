"""A model as something that answers requests, on top of the one sampler."""

from collections.abc import Callable, Iterator, Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kdbench.harness.data.tokens import encode
from kdbench.harness.errors import InputError
from kdbench.harness.samples import Answerer, Request, Response
from kdbench.tasks.protocols import Protocol
from kdbench.trainers.models import Vocabulary
from kdbench.trainers.sampler.sampler import generate
from kdbench.trainers.types import Answer, Decoding, Prompt


def protocol_decoding(protocol: Protocol, seed: int) -> Decoding:
    """How test prompts are answered: sampling at temperature 1, the protocol's n-gram rule."""
    return Decoding(
        max_new_tokens=protocol.max_new_tokens,
        no_repeat_ngram=protocol.no_repeat_ngram,
        seed=seed,
    )


def model_answerer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    protocol: Protocol,
    vocab: Vocabulary,
    batch_size: int,
    chunk: int,
    dtype: torch.dtype | None = None,
    decoding: Callable[[int], Decoding] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Answerer:
    """An answer callable for `kdbench.harness.lm.generate_task`.

    Args:
        model: causal language model, in eval mode, on its device.
        tokenizer: the model's; prompts are encoded without special tokens.
        protocol: lengths, over-long rule and n-gram rule.
        vocab: real tokens, end tokens and padding of the model.
        batch_size: rows decoded at once; changes speed only (exactly so in float64).
        chunk: prompts a chunk, in each of which finished rows are refilled.
        dtype: compute type of decoding, see `kdbench.trainers.sampler.sampler.generate`.
        decoding: decoding seed -> sampling settings; default `protocol_decoding`.
        on_progress: passed to the sampler.
    """

    def answer(requests: Sequence[Request], decoding_seed: int) -> Iterator[list[Response]]:
        ids = encode(tokenizer, [request.prompt for request in requests])
        prompts = [
            Prompt(ids=_limited(tokens, protocol, request), key=request.key)
            for tokens, request in zip(ids, requests, strict=True)
        ]
        chunks = generate(
            model,
            prompts,
            decoding(decoding_seed) if decoding else protocol_decoding(protocol, decoding_seed),
            eos_ids=frozenset(vocab.eos_ids),
            pad_id=vocab.pad_id,
            vocab=vocab.size,
            batch_size=batch_size,
            chunk=chunk,
            dtype=dtype,
            on_progress=on_progress,
        )
        for answers in chunks:
            yield decode(tokenizer, answers)

    return answer


def decode(tokenizer: PreTrainedTokenizerBase, answers: Sequence[Answer]) -> list[Response]:
    """Sampled ids as text, special tokens left out."""
    texts = tokenizer.batch_decode([list(a.ids) for a in answers], skip_special_tokens=True)
    return [
        Response(text=text, response_tokens=len(answer.ids), finished=answer.finished)
        for text, answer in zip(texts, answers, strict=True)
    ]


def _limited(tokens: list[int], protocol: Protocol, request: Request) -> tuple[int, ...]:
    if len(tokens) > protocol.max_prompt and protocol.evaluation_over_long == "drop":
        raise InputError(
            f"prompt {request.doc_id} has {len(tokens)} tokens, protocol {protocol.name} allows "
            f"{protocol.max_prompt}; prepare the task with the tokenizer of the model that answers"
        )
    return tuple(tokens[: protocol.max_prompt])
