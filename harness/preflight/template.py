"""What the format of the prompts does to a question and its answer."""

from collections.abc import Iterator

from kdbench.harness.data import chat
from kdbench.harness.data.tokens import opening
from kdbench.harness.preflight.finding import Finding
from kdbench.harness.preflight.subject import Subject


def check(subject: Subject) -> Iterator[Finding]:
    """What a prompt begins with, what is trained, what ends a turn; of chat templates, a round trip.

    A teacher without a chat template is trained with in the student's, so it is not asked for one here; one
    that has to answer tasks is (`kdbench.harness.runner.references.check_references`).
    """
    tokenizer, form = subject.tokenizer, subject.form
    begin = [
        str(token) for token in tokenizer.convert_ids_to_tokens(list(opening(tokenizer, form)))
    ]
    if form.template != "chat":
        began = f"prompts begin with {' '.join(begin)}" if begin else "no begin token"
        yield Finding(
            "template", f"{form.template}: {began}; answers end with {tokenizer.eos_token}"
        )
    elif tokenizer.chat_template or subject.role != "teacher":
        yield from _chat(subject, bool(begin))


def _chat(subject: Subject, begun: bool) -> Iterator[Finding]:
    tokenizer, form = subject.tokenizer, subject.form
    turn, again = (chat.turn(tokenizer, date=form.date, arguments=form.arguments) for _ in range(2))
    if turn != again:
        yield Finding(
            "template",
            f"the chat template of {subject.name} writes something else each time; use another template "
            "(pair.template)",
            "fail",
        )
        return
    mark = tokenizer.bos_token
    begun = begun or bool(mark and turn.prompt.startswith(mark))
    parts = [f"chat: {f'begins with {mark}' if begun else 'no begin token'}"]
    parts.append(f"an answer is trained with {turn.end or tokenizer.eos_token} behind it")
    if chat.asks_the_clock(tokenizer):
        parts.append(f"the template is told the date {form.date}")
    yield Finding("template", ", ".join(parts))
    yield from _strange(subject, turn)


def _strange(subject: Subject, turn: chat.Turn) -> Iterator[Finding]:
    """Where what is trained is not what the template writes of an answer."""
    whose = f"the chat template of {subject.name}"
    if not turn.prefix:
        yield Finding(
            "template",
            f"{whose} writes an open question otherwise than one with its answer: training follows the "
            "open one",
            "warn",
        )
    elif turn.before.strip():
        yield Finding(
            "template",
            f"{whose} writes {turn.before!r} between prompt and answer, which is not trained; an argument "
            "may write it into the prompt (data.template_arguments, as {enable_thinking: false})",
            "warn",
        )
    if turn.end_id is None:
        yield Finding(
            "template",
            f"{whose} ends an answer with {turn.after!r}, no token of its own; the tokenizer's end token "
            f"{subject.tokenizer.eos_token} is trained instead",
            "warn",
        )
