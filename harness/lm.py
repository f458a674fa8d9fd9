"""The door to lm-eval, and the only module that imports it.

Our text tasks run through lm-eval's Python API with an `LM` over our sampler and the sample sink;
any other lm-eval task runs through the same door with a model-backed `LM`. lm-eval's own response
cache is never used: its key ignores the model.
"""

import hashlib
import itertools
import json
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import lm_eval.api.task
from lm_eval.api.group import Group
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.evaluator import evaluate, simple_evaluate
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from kdbench.harness.errors import InputError
from kdbench.harness.files.records import MetricCard
from kdbench.harness.metrics import METRICS
from kdbench.harness.model_side import GenerationSettings, ModelSide
from kdbench.tasks.catalogue import YAML_FOLDER
from kdbench.tasks.labels import LabelDoc

LM_EVAL_VERSION = version("lm_eval")


SCORED_BY = f"lm-eval {LM_EVAL_VERSION}"
"""Version of scores that lm-eval makes."""


class ModelLM(TemplateLM):
    """lm-eval's model for any other task: likelihoods and answers of one causal language model.

    Contexts and continuations are tokenised as lm-eval's own ``hf`` model does, so its numbers come
    out; columns beyond the tokenizer's vocabulary take no part (they do there).
    """

    def __init__(self, side: ModelSide) -> None:
        super().__init__()
        self._side = side
        self.tokenizer = side.tokenizer

    @property
    def eot_token_id(self) -> int:
        """The end token."""
        return self._side.end_id

    @property
    def prefix_token_id(self) -> int:
        """Stands for an empty context: the begin token, else the end token."""
        begin = self._side.tokenizer.bos_token_id
        return self.eot_token_id if begin is None else int(begin)

    @property
    def tokenizer_name(self) -> str:
        """What lm-eval's request cache would be keyed by."""
        return str(self._side.tokenizer.name_or_path)

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Ids of a text; special tokens as the tokenizer does by default."""
        return self._side.encode(string, add_special_tokens)

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        found = self._side.score([(context, target) for _, context, target in requests])
        return [(score.log_probability, score.greedy) for score in found]

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """Log-probability of each continuation, without a progress bar."""
        return list(super().loglikelihood(requests, disable_tqdm=disable_tqdm))

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[float]:
        """Log-probability of whole texts, in windows of the context length."""
        totals = []
        for request in requests:
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self._side.max_length,
                context_len=1,
            )
            scores = self._side.score([make_disjoint_window(window) for window in windows])
            totals.append(sum(log_probability for log_probability, _ in scores))
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """Answers under each request's own generation settings, cut at its stop texts."""
        prompts = [request.args[0] for request in requests]
        return self._side.answer(prompts, [_settings(request.args[1]) for request in requests])

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The tokenizer's chat format."""
        return chat_text(self._side.tokenizer, chat_history, add_generation_prompt)


def evaluate_stock(
    side: ModelSide,
    *,
    tasks: Sequence[str],
    limit: int | None = None,
    num_fewshot: int | None = None,
    include_paths: Iterable[Path | str] = (),
    chat: bool = False,
) -> dict[str, Any]:
    """Runs lm-eval tasks that are not ours, as lm-eval would.

    Args:
        side: model, tokenizer and sizes.
        tasks: lm-eval's tasks, groups or tags, or tasks in ``include_paths``.
        limit: the first so many documents of each task.
        include_paths: folders with further task files.
        num_fewshot: overrides the tasks' own number of examples.
        chat: apply the tokenizer's chat template.

    Returns:
        lm-eval's results, ``samples`` with its document, prompt and target hashes among them.

    Raises:
        InputError: a task cannot be loaded (unknown, broken, or its data is out of reach).
    """
    with undisturbed():
        manager = _manager(tasks, include_paths)
        loaded = [task for name in tasks for task in _load(manager, name)]
        found = simple_evaluate(
            ModelLM(side),
            tasks=loaded,
            limit=limit,
            num_fewshot=num_fewshot,
            task_manager=manager,
            apply_chat_template=chat,
            bootstrap_iters=0,
            # None: leave the global generators of a training in progress alone
            random_seed=None,
            numpy_random_seed=None,
            torch_random_seed=None,
        )
    return dict(found)


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
    settings: GenerationSettings


class AnswersLM(TemplateLM):
    """lm-eval's model for generation tasks whose answers come from elsewhere.

    Args:
        answer: all requests of an evaluation, in lm-eval's order -> their answers.
        tokenizer: for the chat format; None: prompts are plain.
    """

    def __init__(
        self, answer: Callable[[list[Instance]], list[str]], tokenizer: Any = None
    ) -> None:
        super().__init__()
        self._answer = answer
        self.tokenizer = tokenizer

    eot_token_id = 0
    tokenizer_name = ""

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """The answers."""
        return self._answer(requests)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The tokenizer's chat format."""
        return chat_text(self.tokenizer, chat_history, add_generation_prompt)

    def tok_encode(self, string: str, **_: Any) -> list[int]:
        """Not for tasks that are answered."""
        raise NotImplementedError("generation tasks ask for answers, not for likelihoods")

    def _loglikelihood_tokens(self, requests: Any, **_: Any) -> Any:
        raise NotImplementedError("generation tasks ask for answers, not for likelihoods")

    def loglikelihood_rolling(self, requests: Any, **_: Any) -> Any:
        """Not for tasks that are answered."""
        raise NotImplementedError("generation tasks ask for answers, not for likelihoods")


def generates(name: str, include_paths: Iterable[Path | str] = ()) -> bool:
    """Whether a task of lm-eval's is answered in words, all of its parts.

    Raises:
        InputError: it cannot be loaded.
    """
    with undisturbed():
        kinds = {task.OUTPUT_TYPE for task in _leaves(name, include_paths)}
    return kinds == {"generate_until"}


def stock_prompts(
    name: str,
    *,
    include_paths: Iterable[Path | str] = (),
    limit: int | None = None,
    chat: Any = None,
) -> list[StockPrompt]:
    """What a generation task of lm-eval's asks, in its order; ``chat``: the tokenizer of its format.

    Raises:
        InputError: it cannot be loaded.
    """
    found: list[StockPrompt] = []

    def listen(requests: list[Instance]) -> list[str]:
        repeats: Counter[int] = Counter()
        for request in requests:
            place = id(request)  # a prompt asked several times is one object several times
            targets = _targets(tasks[str(request.task_name)], request.doc)
            settings = _settings(request.args[1])
            found.append(
                StockPrompt(
                    str(request.task_name), repeats[place], request.args[0], targets, settings
                )
            )
            repeats[place] += 1
        raise _Heard

    with undisturbed():
        tasks = {str(task.config.task): task for task in _leaves(name, include_paths)}
        with suppress(_Heard):
            _answered(name, AnswersLM(listen, chat), include_paths, limit, chat is not None)
    return found


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
        tasks = {str(task.config.task): task for task in _leaves(name, include_paths)}

        def stored(requests: list[Instance]) -> list[str]:
            now = [_targets(tasks[str(r.task_name)], r.doc) for r in requests]
            if now != [tuple(texts) for texts in references]:
                raise InputError(
                    f"lm-eval task {name!r} has other documents than were answered; restore its data, "
                    "or evaluate again"
                )
            return list(answers)

        return _answered(name, AnswersLM(stored), include_paths, limit, False)


def metric_cards(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """How metrics that lm-eval brings are shown; their direction is what the task says."""
    cards = {}
    for directions in (results.get("higher_is_better") or {}).values():
        for name, higher in directions.items():
            if name not in METRICS and higher is not None:
                card = MetricCard(label=name, better=1 if higher else -1, digits=3, headline=True)
                cards[name] = card.model_dump(mode="json")
    return cards


class _Heard(Exception):
    """Ends an evaluation whose prompts were all that was wanted."""


def _answered(
    name: str, model: AnswersLM, include_paths: Iterable[Path | str], limit: int | None, chat: bool
) -> dict[str, Any]:
    manager = _manager([name], include_paths)
    found = simple_evaluate(
        model,
        tasks=_load(manager, name),
        limit=limit,
        task_manager=manager,
        apply_chat_template=chat,
        bootstrap_iters=0,
        random_seed=None,
        numpy_random_seed=None,
        torch_random_seed=None,
    )
    return dict(found)


def _leaves(name: str, include_paths: Iterable[Path | str]) -> list[Any]:
    """The tasks that a name stands for, groups taken apart."""
    return [
        task
        for each in _load(_manager([name], include_paths), name)
        for task in (each.get_all_tasks() if isinstance(each, Group) else [each])
    ]


def _targets(task: Any, doc: Any) -> tuple[str, ...]:
    """Right answers to a document as texts."""
    target = task.doc_to_target(doc)
    listed = target if isinstance(target, (list, tuple)) else [target]
    return tuple(str(each) for each in listed) or ("",)


def chat_text(tokenizer: Any, messages: list[dict[str, str]], opened: bool = True) -> str:
    """Messages in a tokenizer's chat format, the assistant's turn opened or the last one going on."""
    return str(
        tokenizer.apply_chat_template(
            messages,
            tokenize=False,
            add_generation_prompt=opened,
            continue_final_message=not opened,
        )
    )


def encode(tokenizer: Any, text: str, add_special_tokens: bool | None = None) -> list[int]:
    """Ids of a text. None: as the tokenizer does by default, but never a second begin token."""
    begin = tokenizer.bos_token
    if add_special_tokens is None and begin and text.startswith(begin):
        add_special_tokens = False
    wanted = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
    return list(tokenizer.encode(text, **wanted))


def evaluate_labels(side: ModelSide, name: str, docs: Sequence[LabelDoc]) -> dict[str, Any]:
    """Runs a classification task of ours on prepared documents; returns lm-eval's results."""
    with undisturbed():
        manager = TaskManager(
            include_path=str(YAML_FOLDER),
            include_defaults=False,
            metadata={"rows": [dict(doc) for doc in docs]},
        )
        found = evaluate(ModelLM(side), manager.load([name]), bootstrap_iters=0, log_samples=True)
    return dict(found)


def stock_identity(
    name: str, *, include_paths: Iterable[Path | str] = (), limit: int | None = None
) -> str:
    """sha256 of what a stock task asks: its configuration and documents, of all its subtasks.

    Raises:
        InputError: the task cannot be loaded.
    """
    digest = hashlib.sha256()
    with undisturbed():
        for task in _leaves(name, include_paths):
            # functions by their names: their addresses change with the process
            for row in (task.dump_config(), *itertools.islice(task.eval_docs, limit)):
                text = json.dumps(row, sort_keys=True, default=_name_or_text)
                digest.update(text.encode())
    return digest.hexdigest()


def _name_or_text(value: Any) -> str:
    return str(value.__qualname__) if callable(value) else str(value)


def _manager(names: Sequence[str], include_paths: Iterable[Path | str]) -> TaskManager:
    """A manager that knows these names; lm-eval's own files are read only if they are needed."""
    paths = tuple(str(path) for path in include_paths)
    if paths:
        own = _read_tasks(paths, False)
        if all(name in own.all_subtasks for name in names):
            return own
    return _read_tasks(paths, True)


@cache
def _read_tasks(include_paths: tuple[str, ...], defaults: bool) -> TaskManager:
    """Once a process: with ``defaults``, some 15,000 files are parsed, which takes seconds."""
    return TaskManager(include_path=list(include_paths), include_defaults=defaults)


def _load(manager: TaskManager, name: str) -> list[Any]:
    """A task's objects; lm-eval's own errors, of many kinds, become one sentence."""
    try:
        found = manager.load([name])
    except Exception as error:  # a task file may raise anything: it runs code and loads data
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        raise InputError(
            f"cannot load lm-eval task {name!r} ({reason}); check its file and that its data is "
            "on this machine or the network can be reached"
        ) from error
    return [*(found.get("groups") or {}).values()] or [*found["tasks"].values()]


def _settings(gen_kwargs: dict[str, Any]) -> GenerationSettings:
    settings = normalize_gen_kwargs(gen_kwargs)
    sampled = bool(settings["do_sample"])
    return GenerationSettings(
        max_new_tokens=int(settings["max_gen_toks"]),
        temperature=float(settings.get("temperature", 1.0)) if sampled else 0.0,
        top_p=float(settings.get("top_p", 1.0)),
        top_k=int(settings.get("top_k", 0)),
        stop=tuple(text for text in settings["until"] if text),
    )


@contextmanager
def undisturbed() -> Iterator[None]:
    """lm-eval without log lines below errors, without progress bars, and without side effects.

    It draws from Python's global generator whenever a task is asked for its name; an evaluation in
    the middle of a training must not change what comes after it.
    """
    state = random.getstate()
    logger = logging.getLogger("lm_eval")
    level, bar = logger.level, lm_eval.api.task.tqdm
    logger.setLevel(logging.ERROR)
    lm_eval.api.task.tqdm = _no_bar
    try:
        yield
    finally:
        random.setstate(state)
        logger.setLevel(level)
        lm_eval.api.task.tqdm = bar


def _no_bar(items: Any, **_: Any) -> Any:
    return items
