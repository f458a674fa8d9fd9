"""From rendered rows to token ids, under a stated rule, with counts of what the rule changed.

No special tokens are added but the begin token, and that never twice: see `opening`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from kdbench.harness.data import chat
from kdbench.harness.data.examples import Example
from kdbench.harness.data.templates import Form, PromptFormat, prompt_key, render
from kdbench.harness.errors import InputError


class TokenizerLike(Protocol):
    """What is used of a transformers tokenizer."""

    def __call__(
        self, text: list[str], *, add_special_tokens: bool, return_attention_mask: bool
    ) -> dict[str, list[list[int]]]:
        """Encodes a batch of texts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRule:
    """How text becomes ids.

    Attributes:
        boundary: ``joint`` takes the tokens of (prompt + response) beyond the prompt's, as
            MiniLLM's processor does (a merge across the boundary corrupts the split); ``apart``
            tokenises the response on its own.
        over_long: what happens to a prompt of more than ``max_prompt`` tokens: ``drop`` the row, or
            ``cut`` it to its first ``max_prompt`` tokens.
        max_prompt: tokens.
        max_length: tokens of prompt, response and end token; responses are cut to it.
    """

    boundary: Literal["joint", "apart"]
    over_long: Literal["drop", "cut"]
    max_prompt: int = 256
    max_length: int = 512


@dataclass(slots=True)
class TokenCounts:
    """What tokenisation did: rows in, rows kept, and how many were changed in which way.

    ``boundary_different`` counts kept rows whose prompt + response tokenises differently in one
    piece than in two.
    """

    rows: int = 0
    kept: int = 0
    dropped: int = 0
    prompts_cut: int = 0
    responses_cut: int = 0
    boundary_different: int = 0


class TokenRow(NamedTuple):
    """One training row; ``response_ids`` ends with the end token unless it was cut. ``place`` counts
    from 0 in the list that was given.
    """

    doc_id: int
    key: int
    prompt: str
    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]
    place: int = 0


class TokenisedPrompt(NamedTuple):
    """One prompt to be answered; ``place`` counts from 0 in the list that was given."""

    place: int
    ids: tuple[int, ...]


def tokenise(
    examples: Sequence[Example],
    tokenizer: TokenizerLike,
    *,
    template: Form,
    rule: TokenRule,
    end_id: int,
) -> tuple[list[TokenRow], TokenCounts]:
    """Training rows: prompt and first reference as ids.

    Args:
        examples: rows in training order.
        tokenizer: a transformers tokenizer.
        template: how rows become prompts.
        rule: boundary and length rules.
        end_id: appended to every response before it is cut.

    Returns:
        Kept rows in the given order, and counts.
    """
    prompts = [render(example, template, tokenizer) for example in examples]
    begin = opening(tokenizer, template)
    kept, counts = tokenise_prompts(prompts, tokenizer, rule, begin)
    responses = [examples[prompt.place].references[0] for prompt in kept]
    apart = encode(tokenizer, responses)
    whole = encode(
        tokenizer,
        [prompts[p.place] + response for p, response in zip(kept, responses, strict=True)],
        begin,
    )
    # a prompt that was cut has lost its end, so the joint split is taken at its full length
    texts = [prompts[p.place] for p in kept] if counts.prompts_cut else []
    full = encode(tokenizer, texts, begin) or None
    rows = []
    for row, (prompt, alone, joint) in enumerate(zip(kept, apart, whole, strict=True)):
        text = prompts[prompt.place]
        prompt_ids = tuple(full[row]) if full is not None and text else prompt.ids
        counts.boundary_different += bool(text) and joint != [*prompt_ids, *alone]
        joined = rule.boundary == "joint" and bool(text)
        response = joint[len(prompt_ids) :] if joined else alone
        room = rule.max_length - len(prompt.ids)
        counts.responses_cut += len(response) + 1 > room
        rows.append(
            TokenRow(
                doc_id=examples[prompt.place].doc_id,
                key=prompt_key(text),
                prompt=text,
                prompt_ids=prompt.ids,
                response_ids=(*response, end_id)[:room],
                place=prompt.place,
            )
        )
    return rows, counts


def tokenise_prompts(
    prompts: Sequence[str],
    tokenizer: TokenizerLike,
    rule: TokenRule,
    begin: Sequence[int] = (),
) -> tuple[list[TokenisedPrompt], TokenCounts]:
    """Prompts as ids, over-long ones cut or dropped as the rule says; ``begin`` as of `opening`.

    Returns:
        Kept prompts in order, and counts (``responses_cut`` and ``boundary_different`` stay 0).

    Raises:
        InputError: a prompt without tokens, or none left.
    """
    if rule.max_prompt >= rule.max_length:
        raise InputError(
            f"max_prompt {rule.max_prompt} leaves no room for a response in max_length "
            f"{rule.max_length}; lower the one or raise the other"
        )
    kept = []
    counts = TokenCounts(rows=len(prompts))
    for index, ids in enumerate(encoded_prompts(tokenizer, prompts, begin)):
        if not ids:
            raise InputError(f"prompt {index + 1} has no tokens; check tokenizer and template")
        if len(ids) > rule.max_prompt:
            if rule.over_long == "drop":
                counts.dropped += 1
                continue
            counts.prompts_cut += 1
        kept.append(TokenisedPrompt(index, tuple(ids[: rule.max_prompt])))
    counts.kept = len(kept)
    if prompts and not kept:
        raise InputError(
            f"all {len(prompts)} prompts are longer than {rule.max_prompt} tokens; give shorter ones, or "
            "more room by --set train.max_prompt=N"
        )
    return kept, counts


def encoded_prompts(
    tokenizer: Any, prompts: Iterable[str], begin: Sequence[int] = ()
) -> list[list[int]]:
    """Prompts as ids. That of plain text, which is empty, is the token that texts begin with, so that all
    of the text is learnt: the begin token, or else the end token, which parts texts from each other.
    """
    given = list(prompts)
    found = encode(tokenizer, given, begin)
    if "" not in given:
        return found
    ids = (tokenizer.bos_token_id, tokenizer.eos_token_id)
    start = [int(token) for token in ids if token is not None][:1]
    return [ids or (start if not text else ids) for text, ids in zip(given, found, strict=True)]


def encode(
    tokenizer: TokenizerLike, texts: Iterable[str], begin: Sequence[int] = ()
) -> list[list[int]]:
    """Token ids of each text, without special tokens but those it writes.

    Args:
        tokenizer: a transformers tokenizer.
        texts: any number.
        begin: put before a text that does not begin with it; see `opening`.
    """
    batch = list(texts)
    if not batch:
        return []
    encoded = tokenizer(batch, add_special_tokens=False, return_attention_mask=False)
    first = list(begin)
    return [
        [*(() if ids[: len(first)] == first else first), *ids]
        for ids in map(list, encoded["input_ids"])
    ]


def opening(tokenizer: Any, form: Form) -> tuple[int, ...]:
    """What prompts begin with: the begin token, or nothing.

    Raises:
        InputError: it is wanted always, and the tokenizer names none.
    """
    form = PromptFormat.of(form)
    if form.begin == "never" or (form.begin == "auto" and form.template == "chat"):
        return ()
    added = added_before(tokenizer)
    if form.begin == "always" and not added:
        if tokenizer.bos_token_id is None:
            raise InputError(
                f"the tokenizer of {tokenizer.name_or_path} names no begin token; set "
                "data.begin_token to auto"
            )
        return (int(tokenizer.bos_token_id),)
    return added


def added_before(tokenizer: Any) -> tuple[int, ...]:
    """What a tokenizer puts before a text of its own accord; most often a begin token or nothing."""
    plain = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    whole = list(tokenizer("a")["input_ids"])
    places = (i for i in range(len(whole)) if whole[i : i + len(plain)] == plain)
    return tuple(whole[: next(places, 0)])


def encode_whole(tokenizer: Any, text: str, form: Form = "none") -> list[int]:
    """Ids of a text as lm-eval's own ``hf`` model takes it, unless the format says how it begins.

    ``auto``: as the tokenizer does by default, but never a second begin token.
    """
    form = PromptFormat.of(form)
    if form.begin == "auto":
        begun = tokenizer.bos_token and text.startswith(tokenizer.bos_token)
        return list(tokenizer.encode(text, **({"add_special_tokens": False} if begun else {})))
    return encode(tokenizer, [text], opening(tokenizer, form))[0]


def end_of(tokenizer: Any, form: Form) -> int | None:
    """The token that ends an answer in a format; None: the tokenizer's end token.

    Raises:
        InputError: the chat template fails.
    """
    form = PromptFormat.of(form)
    if form.template != "chat":
        return None
    return chat.turn(tokenizer, date=form.date, arguments=form.arguments).end_id
