"""lm-eval's generation tasks: what they ask, and what answers from elsewhere score."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs

from kdbench.harness.errors import InputError
from kdbench.harness.files.records import DecodingRecord
from kdbench.harness.lm.tasks import leaves, results_of, undisturbed

Write = Callable[[list[dict[str, str]], bool], str]
"""Messages in a chat format, the assistant's turn opened (or the last one going on) -> text."""


class StockPrompt(NamedTuple):
    """A prompt of a generation task, as lm-eval asks it.

    Attributes:
        task: the leaf task.
        repeat: which time this prompt is asked, from 0.
        context: its text, few-shot examples and chat format included.
        targets: right answers.
        settings: how it is to be answered.
    """

    task: str
    repeat: int
    context: str
    targets: tuple[str, ...]
    settings: DecodingRecord


class AnswersLM(TemplateLM):
    """lm-eval's model for generation tasks whose answers come from elsewhere.

    Args:
        answer: all requests of an evaluation, in lm-eval's order -> their answers.
        write: messages -> text in the chat format; None: prompts are plain.
    """

    def __init__(
        self, answer: Callable[[list[Instance]], list[str]], write: "Write | None" = None
    ) -> None:
        super().__init__()
        self._answer, self._write = answer, write

    eot_token_id = 0
    tokenizer_name = ""

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """The answers."""
        return self._answer(requests)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The model's chat format."""
        assert self._write is not None
        return self._write(chat_history, add_generation_prompt)

    def tok_encode(self, *_: Any, **__: Any) -> Any:
        """Not for tasks that are answered."""
        raise NotImplementedError("generation tasks ask for answers, not for likelihoods")

    _loglikelihood_tokens = loglikelihood_rolling = tok_encode


def stock_prompts(
    name: str,
    *,
    include_paths: Iterable[Path | str] = (),
    limit: int | None = None,
    chat: Write | None = None,
) -> list[StockPrompt]:
    """What a generation task of lm-eval's asks, in its order; ``chat``: its format, if it has one.

    Raises:
        InputError: it cannot be loaded.
    """
    found: list[StockPrompt] = []

    def listen(requests: list[Instance]) -> list[str]:
        repeats: Counter[int] = Counter()
        for request in requests:
            place = id(request)  # a prompt asked several times is one object several times
            task, (context, how) = str(request.task_name), request.args
            targets, settings = _targets(tasks[task], request.doc), request_decoding(how)
            found.append(StockPrompt(task, repeats[place], context, targets, settings))
            repeats[place] += 1
        raise _Heard

    with undisturbed():
        tasks = {str(task.config.task): task for task in leaves(name, include_paths)}
        with suppress(_Heard):
            results_of(name, AnswersLM(listen, chat), include_paths, limit, chat=chat is not None)
    return found


def most_new_tokens(name: str, include_paths: Iterable[Path | str] = ()) -> int:
    """Tokens of the longest answer that a task of lm-eval's asks for; 0 if it asks for none.

    Raises:
        InputError: it cannot be loaded.
    """
    with undisturbed():
        asked = [t for t in leaves(name, include_paths) if t.OUTPUT_TYPE == "generate_until"]
        settings = [request_decoding(dict(t.config.generation_kwargs or {})) for t in asked]
    return max((each.max_new_tokens for each in settings), default=0)


def score_stock(
    name: str,
    answers: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    include_paths: Iterable[Path | str] = (),
    limit: int | None = None,
) -> dict[str, Any]:
    """lm-eval's results, samples included, of answers that are there already.

    Args:
        name: the task.
        answers: in the order of `stock_prompts`.
        references: its ``targets`` at the time of asking.
        include_paths: folders with further task files.
        limit: as asked with.

    Raises:
        InputError: the task cannot be loaded, or has other documents by now.
    """
    with undisturbed():
        tasks = {str(task.config.task): task for task in leaves(name, include_paths)}

        def stored(requests: list[Instance]) -> list[str]:
            now = [_targets(tasks[str(r.task_name)], r.doc) for r in requests]
            if now != [tuple(texts) for texts in references]:
                raise InputError(
                    f"lm-eval task {name!r} has other documents than were answered; restore its data, "
                    "or evaluate again"
                )
            return list(answers)

        return results_of(name, AnswersLM(stored), include_paths, limit)


class _Heard(Exception):
    """Ends an evaluation whose prompts were all that was wanted."""


def _targets(task: Any, doc: Any) -> tuple[str, ...]:
    """Right answers to a document as texts."""
    target = task.doc_to_target(doc)
    listed = target if isinstance(target, (list, tuple)) else [target]
    return tuple(str(each) for each in listed) or ("",)


UNDERSTOOD = {"max_gen_toks", "do_sample", "temperature", "top_p", "top_k", "until"}
NEUTRAL = {
    "num_beams": 1,
    "num_return_sequences": 1,
    "repetition_penalty": 1,
    "length_penalty": 1,
    "min_p": 0,
}
"""What changes nothing with this value."""


def request_decoding(gen_kwargs: dict[str, Any]) -> DecodingRecord:
    """How lm-eval wants a request to be answered, defaults filled in.

    Where it wants samples and names no ``top_k``, they are of the whole vocabulary.

    Raises:
        InputError: it wants something that decoding here cannot do, such as beams.
    """
    settings = normalize_gen_kwargs(gen_kwargs)
    for name, value in settings.items():
        if name not in UNDERSTOOD and value not in (None, NEUTRAL.get(name)):
            raise InputError(
                f"the task wants {name}={value} of a generation, which is not done here; choose another "
                "task, or a copy of its file without it (--include-path)"
            )
    return DecodingRecord(
        max_new_tokens=int(settings["max_gen_toks"]),
        temperature=float(settings.get("temperature", 1.0)) if settings["do_sample"] else 0.0,
        top_p=float(settings.get("top_p", 1.0)),
        top_k=int(settings.get("top_k", 0)),
        stop=tuple(text for text in settings["until"] if text),
    )
