"""Every architecture through what kdbench does with a model; ``python tests/support/arch_trials.py`` writes
docs/architectures.md.
"""

import functools
import re
import sys
import tempfile
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import architectures
import torch
from accelerate import Accelerator
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from kdbench.harness.config import TrainConfig
from kdbench.harness.data.examples import Example
from kdbench.harness.data.templates import PromptFormat, render
from kdbench.harness.errors import KdbenchError
from kdbench.harness.files.records import ModelRef
from kdbench.harness.preflight import first_steps
from kdbench.harness.preflight.flight import model_flight
from kdbench.harness.preflight.subject import Subject
from kdbench.harness.registry import find_method
from kdbench.trainers.models import load_model, load_tokenizer, prune
from kdbench.trainers.sampler.draw import gumbel, hash31, position_keys, stream_key, token_table
from kdbench.trainers.sampler.sampler import generate
from kdbench.trainers.types import Decoding, Prompt, Sequence

DOCUMENT = Path(__file__).parents[2] / "docs" / "architectures.md"
VOCAB = architectures.VOCAB
TEMPLATE = "{% for m in messages %}w4 {{ m['content'] }} w5 {% endfor %}"
METHODS = ("fkd", "cr-ild")


class Row(NamedTuple):
    """What came of one architecture: a word, or the sentence of a refusal."""

    name: str
    model: str
    rows: str
    answers: str
    trains: str
    prunes: str
    reloads: str

    def line(self) -> str:
        """Of the table."""
        return f"| {' | '.join(self)} |"


def trial(name: str) -> Row:
    """Tries one architecture from its configuration to an exported, pruned student.

    Raises:
        AssertionError: something that the preflight let pass is wrong.
    """
    torch.manual_seed(0)
    model = architectures.model(name)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        tokenizer().save_pretrained(folder)
        try:
            model.save_pretrained(folder)
            again = load_model(str(folder))
        except Exception as error:  # of transformers, or our refusal to load
            return refused(name, model, error)
        flight = model_flight(_subject(folder), Path(scratch) / "cache")
        if flight.failure is not None:
            return refused(name, model, flight.failure.found)
        ids = torch.arange(3, 30)[None]
        with torch.no_grad():
            before, after = (m(input_ids=ids, use_cache=False).logits for m in (model, again))
        torch.testing.assert_close(after, before)
        check_template(folder)
        said = {finding.what: finding.found for finding in flight.findings}
        answers = said["sampling"].partition(";")[0].partition(":")[0].removeprefix("answers ")
        check_answers(again)
        return Row(
            name=name,
            model=type(model).__name__,
            rows="packed" if any("packed" in f.found for f in flight.findings) else "padded",
            answers=answers,
            trains=trains(folder),
            prunes=_outcome(lambda: check_pruned(again, folder.parent / "pruned")),
            reloads="yes",
        )


def _subject(folder: Path) -> Subject:
    card = ModelRef(name=folder.name, fingerprint="0", parameters=0, tokenizer="0")
    return Subject(
        role="teacher",
        ref=str(folder),
        card=card,
        dtype=torch.float32,
        device=torch.device("cpu"),
        tokens=64,
        form=PromptFormat("chat"),
    )


def refused(name: str, model: PreTrainedModel, why: object) -> Row:
    """Of an architecture that the preflight refuses."""
    return Row(name, type(model).__name__, _said(why), "", "", "", "")


def _said(why: object) -> str:
    text = " ".join(str(why).split()).replace("|", "/").partition("; ")[0]
    text = re.sub(r" \(\w+Error: .*\)", "", text)  # what transformers says may change
    return "refused: " + re.sub(r"'[^']*model'", "the model", text)


def _outcome(tried: Callable[[], None]) -> str:
    try:
        tried()
    except KdbenchError as error:
        return _said(error)
    return "yes"


@functools.cache
def tokenizer() -> PreTrainedTokenizerFast:
    """A word a token."""
    words = {f"w{i}": i for i in range(VOCAB)}
    core = Tokenizer(models.WordLevel(words, unk_token="w3"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    named = {"pad_token": "w0", "bos_token": "w1", "eos_token": "w2", "unk_token": "w3"}
    return PreTrainedTokenizerFast(tokenizer_object=core, chat_template=TEMPLATE, **named)


def check_template(folder: Path) -> None:
    """The chat template is what was exported."""
    example = Example(doc_id=0, instruction="w7 w8", input="", references=("w9",))
    assert render(example, "chat", load_tokenizer(str(folder))).split() == ["w4", "w7", "w8", "w5"]


def check_answers(model: PreTrainedModel) -> None:
    """Sampled answers are those of one plain forward pass a token, alone, with the same noise."""
    prompts = [Prompt(tuple(range(3, 3 + n)), key=n) for n in (2, 13, 5, 7)]
    decoding = Decoding(max_new_tokens=6, seed=3)
    ours = chain.from_iterable(
        generate(
            model,
            prompts,
            decoding,
            eos_ids=frozenset({2}),
            pad_id=0,
            vocab=VOCAB,
            batch_size=3,
        )
    )
    for prompt, answer in zip(prompts, ours, strict=True):
        keys = position_keys([stream_key(3, prompt.key, prompt.sample)], 6, torch.device("cpu"))[0]
        noise = gumbel(hash31(keys, token_table(VOCAB, torch.device("cpu"))), torch.float32)
        for place, token in enumerate(answer.ids):
            ids = torch.tensor([[*prompt.ids, *answer.ids[:place]]])
            with torch.no_grad():
                scores = model(input_ids=ids, use_cache=False).logits[0, -1, :VOCAB] + noise[place]
            assert scores.max() - scores[token] < 1e-3, "an answer is not the model's"


def check_pruned(model: PreTrainedModel, folder: Path) -> None:
    """Half of its layers, exported and loaded again, are what they were."""
    student = prune(model, 2)
    student.save_pretrained(folder)
    ids = torch.arange(3, 30)[None]
    with torch.no_grad():
        before, after = (
            m(input_ids=ids, use_cache=False).logits for m in (student, load_model(str(folder)))
        )
    torch.testing.assert_close(after, before)


def trains(folder: Path) -> str:
    """A method of logits and one of hidden states, each in its first steps."""
    found = {name: _outcome(functools.partial(train, name, folder)) for name in METHODS}
    if set(found.values()) == {"yes"}:
        return "yes"
    return ", ".join(f"{name}: {came}" for name, came in found.items())


def train(name: str, folder: Path) -> None:
    """The first steps of one method."""
    rows = [Sequence((3, 4, 5 + i), (6, 7 + i, 2), key=i) for i in range(8)]
    method = find_method(name).method
    recipe = {"steps": 3, "precision": "fp32", "sample_precision": "fp32"}
    rehearsal = first_steps.Rehearsal(
        name=name,
        method=lambda: method(method.Config()),
        recipe=TrainConfig(**recipe, max_length=64, max_prompt=32),
        student=lambda: load_model(str(folder)),
        teacher=lambda: load_model(str(folder)),
        tokenizer=tokenizer(),
        twins=None,
        end_id=2,
        shared=None,
        train=rows,
        text=(),
        accelerator=Accelerator(cpu=True),
    )
    for finding in first_steps.check(rehearsal):
        assert finding.state == "ok", finding


# -- the document

HEAD = """# Architectures

What kdbench does with the causal language models of transformers, found out on tiny random configurations
(`tests/data/architectures.yaml`) by `python tests/support/arch_trials.py`, which writes this page. Local
windows are shorter than the sequences tried.

* **rows**: how sequences of a micro-batch are laid out. *packed*: many a row; *padded*: one a row, since the
  architecture looks across packed ones. Both give each sequence what it gets alone.
* **answers**: *side by side*: a forward pass writes a token of every answer; *one at a time*: an answer by
  the model's own memory, which rows of other lengths cannot share; *each token from the whole text*: it keeps
  no memory that can be gone on with. All write what a plain forward pass a token writes; only time differs.
* **trains**: a method of logits (`fkd`) and one of hidden states (`cr-ild`) take their steps.
* **prune:2**: half of the layers, exported and loaded again, compute what the model does without the others.
* **exports**: saved and loaded, weights, configuration, tokenizer and chat template are what they were.

*refused* quotes what `kdbench doctor` and `kdbench run` say before anything is trained.

| architecture | class | rows | answers | trains | prune:2 | exports |
|---|---|---|---|---|---|---|
"""


def documented() -> dict[str, str]:
    """Lines of the table as they are in the document, by architecture."""
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line.startswith("| ")][1:]
    return {line.split(" | ")[0].removeprefix("| "): line for line in rows}


def main() -> None:
    """Tries all of them and writes the document."""
    rows = []
    for name in architectures.SETTINGS:
        rows.append(trial(name))
        print(rows[-1].line(), file=sys.stderr, flush=True)
    text = HEAD + "".join(f"{row.line()}\n" for row in rows)
    DOCUMENT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
