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
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import lm_eval.api.task
from lm_eval.api.group import Group
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM, TemplateLM
from lm_eval.evaluator import evaluate, simple_evaluate
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from kdbench.harness.errors import InputError
from kdbench.harness.files.records import SampleRow
from kdbench.harness.prompts import PreparedTask, PromptDoc
from kdbench.harness.samples import Answerer, collect, samples_file
from kdbench.harness.text_model import Completion, TextModel
from kdbench.tasks.catalogue import METRICS, YAML_FOLDER, lm_eval_name
from kdbench.tasks.docs import Doc
from kdbench.tasks.labels import LabelDoc
from kdbench.trainers.types import Decoding

LM_EVAL_VERSION = version("lm_eval")


class GenerationResult(NamedTuple):
    """What one (task, seed) gave.

    Attributes:
        path: the sample file.
        rows: all its answers, in prompt order.
        generated: answers that this call generated; the others were stored before.
        metrics: lm-eval's own aggregate, percent, by metric name.
        prepared: the prompts, with counts of what the protocol dropped or cut.
    """

    path: Path
    rows: list[SampleRow]
    generated: int
    metrics: dict[str, float]
    prepared: PreparedTask


class SamplerLM(LM):
    """lm-eval's model for text tasks: prompts go to the sample sink, which asks the model.

    Args:
        docs: the prompts, in the order in which lm-eval will ask for them.
        answers: gives the stored and generated answers of all of them.
    """

    def __init__(
        self, docs: Sequence[PromptDoc], answers: Callable[[], Sequence[SampleRow]]
    ) -> None:
        super().__init__()
        self._docs = docs
        self._answers = answers

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Answers in the order of the requests, which must be our prompts, untouched."""
        asked = [request.args[0] for request in requests]
        if asked != [doc.prompt for doc in self._docs]:
            raise RuntimeError("lm-eval asks for other prompts than were prepared")
        return [row.response for row in self._answers()]

    def loglikelihood(self, requests: list[Instance]) -> list[Any]:
        """Not for text tasks; see `ModelLM`."""
        raise NotImplementedError("text tasks ask for answers, not for likelihoods")

    loglikelihood_rolling = loglikelihood


def generate_prepared(
    answer: Answerer,
    prepared: PreparedTask,
    *,
    seed: int,
    out: Path,
    chunk: int,
    on_progress: Callable[[int], None] | None = None,
) -> GenerationResult:
    """Answers a prepared task with one decoding seed, continuing what is stored.

    Arguments are those of `samples.collect`; answers go to ``out/samples.seed<seed>.jsonl``.
    """
    path = samples_file(out, seed)
    collected = []

    def answers() -> list[SampleRow]:
        found = collect(
            path, prepared.docs, answer, seed=seed, chunk=chunk, on_progress=on_progress
        )
        collected.append(found)
        return found.rows

    name = lm_eval_name(prepared.task, prepared.edition)
    with undisturbed():
        manager = TaskManager(
            include_path=str(YAML_FOLDER),
            include_defaults=False,  # thousands of files to read, none of them ours
            metadata={"rows": [_doc(doc) for doc in prepared.docs]},
        )
        # not simple_evaluate: it reseeds every global generator and spends seconds on a survey of
        # the machine at each call
        found = evaluate(
            SamplerLM(prepared.docs, answers),
            manager.load([name]),
            bootstrap_iters=0,
            log_samples=False,
        )
    results = found["results"][name]
    return GenerationResult(
        path=path,
        rows=collected[0].rows,
        generated=collected[0].generated,
        metrics={metric: float(results[f"{metric},none"]) for metric in METRICS},
        prepared=prepared,
    )


class ModelLM(TemplateLM):
    """lm-eval's model for any other task: likelihoods and answers of one causal language model.

    Contexts and continuations are tokenised as lm-eval's own ``hf`` model does, so its numbers come
    out; columns beyond the tokenizer's vocabulary take no part (they do there).
    """

    def __init__(self, model: TextModel, seed: int = 0) -> None:
        super().__init__()
        self._model = model
        self._seed = seed
        self.tokenizer = model.tokenizer

    @property
    def eot_token_id(self) -> int:
        """The end token."""
        return self._model.end_id

    @property
    def prefix_token_id(self) -> int:
        """Stands for an empty context: the begin token, else the end token."""
        begin = self.tokenizer.bos_token_id
        return self.eot_token_id if begin is None else int(begin)

    @property
    def tokenizer_name(self) -> str:
        """What lm-eval's request cache would be keyed by."""
        return str(self.tokenizer.name_or_path)

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Ids of a text; special tokens as the tokenizer does by default."""
        return self._model.encode(string, add_special_tokens)

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        found = self._model.likelihoods([(context, target) for _, context, target in requests])
        return [(log_probability, greedy) for log_probability, greedy in found]

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[tuple[float, bool]]:
        """Log-probability of each continuation, without a progress bar."""
        return list(super().loglikelihood(requests, disable_tqdm=disable_tqdm))

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = True
    ) -> list[float]:
        """Log-probability of whole texts, in windows of the context length."""
        windows = [
            get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self._model.max_length,
                context_len=1,
            )
            for request in requests
        ]
        pieces = [[make_disjoint_window(window) for window in each] for each in windows]
        scores = iter(self._model.likelihoods([pair for each in pieces for pair in each]))
        return [sum(next(scores).log_probability for _ in each) for each in pieces]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """Answers under each request's own generation settings, cut at its stop texts.

        A request that comes again asks for another sample (lm-eval's ``repeats``).
        """
        asked: list[Completion] = []
        seen: Counter[int] = Counter()
        for request in requests:
            prompt, settings = request.args
            asked.append(_completion(prompt, settings, self._seed, seen[id(request)]))
            seen[id(request)] += 1
        return self._model.complete(asked)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The tokenizer's chat format."""
        return str(
            self.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        )


def evaluate_stock(
    model: TextModel,
    *,
    tasks: Sequence[str],
    seed: int = 0,
    limit: int | None = None,
    num_fewshot: int | None = None,
    include_paths: Iterable[Path | str] = (),
    chat: bool = False,
) -> dict[str, Any]:
    """Runs lm-eval tasks that are not ours, as lm-eval would.

    Args:
        model: who answers.
        tasks: lm-eval's tasks, groups or tags, or tasks in ``include_paths``.
        seed: decoding seed.
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
            ModelLM(model, seed),
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


def evaluate_labels(model: TextModel, name: str, docs: Sequence[LabelDoc]) -> dict[str, Any]:
    """Runs a classification task of ours on prepared documents; returns lm-eval's results."""
    with undisturbed():
        manager = TaskManager(
            include_path=str(YAML_FOLDER),
            include_defaults=False,
            metadata={"rows": [dict(doc) for doc in docs]},
        )
        found = evaluate(ModelLM(model), manager.load([name]), bootstrap_iters=0, log_samples=True)
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
        for each in _load(_manager([name], include_paths), name):
            for task in each.get_all_tasks() if isinstance(each, Group) else [each]:
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


def _completion(prompt: str, gen_kwargs: dict[str, Any], seed: int, sample: int) -> Completion:
    settings = normalize_gen_kwargs(gen_kwargs)
    decoding = Decoding(
        max_new_tokens=int(settings["max_gen_toks"]),
        temperature=float(settings.get("temperature", 1.0)) if settings["do_sample"] else 0.0,
        top_p=float(settings.get("top_p", 1.0)),
        top_k=int(settings.get("top_k", 0)),
        seed=seed,
    )
    stop = tuple(text for text in settings["until"] if text)
    return Completion(prompt, decoding, stop, sample)


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


def _doc(doc: PromptDoc) -> Doc:
    return Doc(
        doc_id=doc.doc_id,
        prompt=doc.prompt,
        references=list(doc.references),
        category=doc.category or "",
        prompt_hash=doc.prompt_hash,
    )
