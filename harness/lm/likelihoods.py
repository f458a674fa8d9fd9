"""lm-eval over an engine: likelihoods as its own ``hf`` model gives them."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from kdbench.harness.lm.answers import request_decoding
from kdbench.harness.lm.tasks import results_of, undisturbed
from kdbench.harness.text_model import Completion, TextModel, decoding_of
from kdbench.tasks.labels import LabelDoc


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
        self.cut: set[str] = set()
        """Prompts that lost tokens on the left, since the context is too short for them."""

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
        longest = self._model.max_length + 1  # the last token is never read
        self.cut |= {
            texts[0] for texts, context, target in requests if len(context) + len(target) > longest
        }
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
            how = request_decoding(settings)
            decoding = decoding_of(how, self._seed)
            room = self._model.max_length - how.max_new_tokens
            if len(self._model.encode(prompt)) > room:
                self.cut.add(prompt)
            asked.append(Completion(prompt, decoding, how.stop, seen[id(request)]))
            seen[id(request)] += 1
        return self._model.complete(asked)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """The model's chat format."""
        return self._model.chat_text(chat_history, add_generation_prompt)


def evaluate_stock(
    model: TextModel,
    name: str,
    *,
    limit: int | None = None,
    include_paths: Iterable[Path | str] = (),
    chat: bool = False,
) -> dict[str, Any]:
    """Runs a task that is not ours, as lm-eval would.

    Args:
        model: who answers.
        name: lm-eval's task, group or tag, or a task in ``include_paths``.
        limit: the first so many documents of each task.
        include_paths: folders with further task files.
        chat: asked in the model's chat format, as with lm-eval's ``apply_chat_template``.

    Returns:
        lm-eval's results, ``samples`` with its document, prompt and target hashes among them, and
        ``prompts_cut``: how many prompts lost tokens on the left.

    Raises:
        InputError: the task cannot be loaded (unknown, broken, or its data is out of reach).
    """
    lm = ModelLM(model)
    with undisturbed():
        found = results_of(name, lm, include_paths, limit, chat=chat)
    return {**found, "prompts_cut": len(lm.cut)}


def label_likelihoods(model: TextModel, docs: Sequence[LabelDoc]) -> tuple[list[list[float]], int]:
    """Log-probability (nats) of each label word after its prompt, encoded as lm-eval does it; and how many
    prompts lost tokens on the left.
    """
    pairs = [(doc["prompt"], choice) for doc in docs for choice in doc["choices"]]
    asked = [Instance("loglikelihood", {}, pair, 0) for pair in pairs]
    lm = ModelLM(model)
    found = iter(lm.loglikelihood(asked))
    return [[next(found)[0] for _ in doc["choices"]] for doc in docs], len(lm.cut)
