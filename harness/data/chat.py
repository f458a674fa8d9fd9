"""Chat templates of tokenizers: rendered the same on any day, and what they do to a conversation.

A chat template is a program of somebody else's. It may ask for the date, take arguments, write a begin
token or not, end a turn with a token that is not the tokenizer's end token, and write text around an
answer that no model was asked for. All of that is found out here by rendering.
"""

import datetime
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from kdbench.harness.errors import InputError
from kdbench.harness.foreign import foreign

BeginToken = Literal["auto", "always", "never"]
"""Whether prompts start with the tokenizer's begin token."""

DATE = "2024-07-26"
"""The date that templates are told unless a run says another: what Llama 3.1's writes by default."""

QUESTION, ANSWER = "kdbenchquestion", "kdbenchanswer"
"""One word each: no template trims, splits or translates it."""

Messages = Sequence[Mapping[str, str]]


def rendered(
    tokenizer: Any,
    messages: Messages,
    *,
    date: str = DATE,
    arguments: Mapping[str, Any] | None = None,
    opened: bool = True,
    going_on: bool = False,
) -> str:
    """Messages as the tokenizer's chat template writes them.

    Args:
        tokenizer: a transformers tokenizer.
        messages: ``role`` and ``content`` each.
        date: ISO date for templates that ask for today's (``strftime_now``, ``date_string``).
        arguments: further names that the template may use; they win over the date.
        opened: with the assistant's turn begun.
        going_on: the last message is left open, to be continued.

    Raises:
        InputError: there is no template, or it fails.
    """
    whose = "" if tokenizer is None else f" of {tokenizer.name_or_path}"
    if tokenizer is None or not tokenizer.chat_template:
        raise InputError(f"the tokenizer{whose} has no chat template; use the template alpaca")
    remedy = "use another template (pair.template), or repair it or data.template_arguments"
    with foreign(f"the chat template of the tokenizer{whose} fails", remedy):
        source = tokenizer.get_chat_template()
        given = {"date_string": _day(date).strftime("%d %b %Y")} if "date_string" in source else {}
        text = tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            chat_template=_dated(source, date),
            tokenize=False,
            add_generation_prompt=opened,
            continue_final_message=going_on,
            **{**given, **(arguments or {})},
        )
        return str(text)


# -- the clock ------------------------------------------------------------------------------------

_DIRECTIVES = "aAbBcdfHIjmMpSUwWxXyYzZGuVeDFTR"


@functools.lru_cache(maxsize=32)
def _dated(source: str, date: str) -> str:
    """The template with its clock stopped at midnight of a date.

    transformers gives templates a function ``strftime_now`` and lets no other one in; a macro of the
    same name, before the template, hides it.
    """
    if "strftime_now" not in source:
        return source
    day = _day(date)
    steps = [("%%", "\x00")]
    steps += [(f"%-{d}", str(int(day.strftime(f"%{d}")))) for d in "dmHIMSjy"]
    steps += [(f"%{d}", day.strftime(f"%{d}")) for d in _DIRECTIVES]
    steps += [("\x00", "%")]
    text = "format" + "".join(f" | replace({old!r}, {new!r})" for old, new in steps)
    # the newline is the one that follows a block, which templates leave out
    return f"{{%- macro strftime_now(format) -%}}{{{{ {text} }}}}{{%- endmacro %}}\n{source}"


def _day(date: str) -> datetime.datetime:
    return datetime.datetime.fromisoformat(date)


# -- what a template does -------------------------------------------------------------------------


class Turn(NamedTuple):
    """A question and its answer as a chat template writes them.

    Attributes:
        prompt: the question alone, opened for the answer.
        prefix: whether question and answer together begin with it.
        before: what is written between the prompt and the answer.
        after: what follows the answer.
        end: the token that ends the turn: the first token of its own behind the answer.
        end_id: its id; none where the template writes no such token.
    """

    prompt: str
    prefix: bool
    before: str
    after: str
    end: str
    end_id: int | None


def turn(tokenizer: Any, *, date: str = DATE, arguments: Mapping[str, Any] | None = None) -> Turn:
    """What the tokenizer's chat template makes of one question and one answer.

    Raises:
        InputError: it fails, or leaves the answer out.
    """
    asked = {"role": "user", "content": QUESTION}
    said = {"role": "assistant", "content": ANSWER}
    how: dict[str, Any] = {"date": date, "arguments": arguments}
    prompt = rendered(tokenizer, [asked], **how)
    whole = rendered(tokenizer, [asked, said], opened=False, **how)
    if whole.count(ANSWER) != 1 or prompt.count(QUESTION) != 1:
        raise InputError(
            f"the chat template of the tokenizer of {tokenizer.name_or_path} does not write a question "
            "and its answer once each; use another template (pair.template)"
        )
    head, after = whole.split(ANSWER)
    prefix = head.startswith(prompt)
    end_id = _ending(tokenizer, after)
    end = "" if end_id is None else str(tokenizer.convert_ids_to_tokens(end_id))
    before = head[len(prompt) :] if prefix else head[_common(head, prompt) :]
    return Turn(prompt, prefix, before, after, end, end_id)


def _ending(tokenizer: Any, after: str) -> int | None:
    """The first token of its own (added to the vocabulary, or the end token) in a text."""
    own = {*tokenizer.added_tokens_decoder, tokenizer.eos_token_id}
    ids = tokenizer(after, add_special_tokens=False)["input_ids"] if after else []
    return next((int(token) for token in ids if token in own), None)


def _common(one: str, other: str) -> int:
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def asks_the_clock(tokenizer: Any) -> bool:
    """Whether the chat template wants a date."""
    source = str(tokenizer.get_chat_template()) if tokenizer.chat_template else ""
    return bool(re.search(r"strftime_now|date_string", source))
