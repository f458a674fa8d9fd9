"""What benchmarks measure on: rows of Dolly, models, a training of ours and the same settings for TRL."""

import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

BATCH = 8
LR = 1e-5
Row = TypeVar("Row")

# -- rows -----------------------------------------------------------------------------------------


def dolly(split: str, data_dir: str | None = None) -> Iterator[dict[str, Any]]:
    """Rows of Dolly's file ``train`` or ``valid`` in order; the data lie in a folder or ``KDBENCH_DATA``."""
    folder = data_dir or os.environ.get("KDBENCH_DATA")
    if not folder:
        raise SystemExit(f"set KDBENCH_DATA to the folder that holds dolly/{split}.jsonl")
    with (Path(folder) / "dolly" / f"{split}.jsonl").open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def first(count: int, rows: Iterable[Row]) -> list[Row]:
    """The first so many rows, which must be there."""
    found = list(islice(rows, count))
    if len(found) < count:
        raise SystemExit(f"there are only {len(found)} such rows; use fewer --steps")
    return found


def ids_of(tokenizer: Any, text: str) -> list[int]:
    """A text's tokens and no others."""
    found: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return found


def prompts_of(texts: list[str], tokenizer: Any) -> list[Any]:
    """Texts as our engine is asked them."""
    from kdbench.trainers.types import Prompt

    return [Prompt(tuple(ids), key) for key, ids in enumerate(tokenizer(texts)["input_ids"])]


def random_rows(count: int, prompt: int, response: int, vocab: int) -> list[Any]:
    """Sequences of these lengths, of any tokens but the first few."""
    import torch

    from kdbench.trainers.types import Sequence

    drawn = torch.randint(5, vocab, (count, prompt + response)).tolist()
    return [Sequence(tuple(i[:prompt]), tuple(i[prompt:]), key) for key, i in enumerate(drawn)]


# -- models ---------------------------------------------------------------------------------------


MIXED = {"bf16": "bf16", "fp32": "no"}
"""What accelerate calls a training's precision."""


def pair_of(teacher_path: str, precision: str) -> tuple[Any, Any, Any]:
    """The student: 8 evenly spaced layers of the teacher, float32; the teacher, so precise; the tokenizer."""
    import torch

    from kdbench.trainers.models import load_model, load_tokenizer, prune

    # the student first: where weights lie is worth 3% of a step
    student = prune(load_model(teacher_path, dtype=torch.float32), 8)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    return student, load_model(teacher_path, dtype=dtype), load_tokenizer(teacher_path)


def engine_of(path: str, *, dtype: str, threads: int, batch_size: int, chunk: int) -> Any:
    """A model's tokenizer, and the model as our engine."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from kdbench.trainers.engine import LoadedModel
    from kdbench.trainers.models import Vocabulary

    torch.set_num_threads(threads)
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype)).eval()
    words = Vocabulary(model.config.vocab_size, (tokenizer.eos_token_id,), tokenizer.pad_token_id)
    return tokenizer, LoadedModel(model=model, vocabulary=words, batch_size=batch_size, chunk=chunk)


def qwen_config() -> Any:
    """Qwen2.5-1.5B."""
    from transformers import Qwen2Config

    return Qwen2Config(
        vocab_size=151936,
        hidden_size=1536,
        intermediate_size=8960,
        num_hidden_layers=28,
        num_attention_heads=12,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )


# -- trainings ------------------------------------------------------------------------------------


@contextmanager
def training(**parts: Any) -> Iterator[Any]:
    """A training of ours, as ``kdbench train`` runs it, in a folder that goes with it.

    ``parts`` are those of `kdbench.trainers.assemble.Parts` that are not the same for all benchmarks.
    """
    from kdbench.trainers.assemble import Parts, assemble

    batch = parts["recipe"].batch_size
    with tempfile.TemporaryDirectory() as out:
        place = Path(out)
        fixed = {"text": (), "answers": place / "unused.jsonl", "out": place}
        loop = assemble(Parts(**fixed, decode_rows=batch, decode_chunk=batch, **parts))
        parts.clear()  # the models live as long as the training wants them
        yield loop


def own_settings(steps: int, precision: str, **more: Any) -> Any:
    """The recipe that `peer_settings` are the peer's words for, and what a benchmark adds."""
    from kdbench.trainers.optim import Recipe

    return Recipe(
        steps=steps,
        batch_size=BATCH,
        lr=LR,
        schedule="constant",
        weight_decay=0.0,
        clip=1.0,
        dropout=False,
        save_every=10**9,
        select="last",
        precision=precision,
        **more,
    )


def peer_settings(steps: int, folder: str, precision: str) -> dict[str, Any]:
    """What TRL's trainers are told but for what one method needs; they have no gradient checkpointing."""
    return {
        "output_dir": folder,
        "max_steps": steps,
        "per_device_train_batch_size": BATCH,
        "learning_rate": LR,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "bf16": precision == "bf16",
        "use_cpu": True,
        "gradient_checkpointing": False,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
    }


def clocked(trainer: Any, recorder: Any) -> Any:
    """A class of TRL's trainers that tells a `turns.Recorder` of each of its steps."""
    from transformers import TrainerCallback

    class Clocked(trainer):  # type: ignore[misc]
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.add_callback(Clock(self))

        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            self.loss_of_step = super().training_step(*args, **kwargs)
            return self.loss_of_step

    class Clock(TrainerCallback):  # type: ignore[misc]
        def __init__(self, clocks: Clocked) -> None:
            self.clocks = clocks

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            recorder.step(float(self.clocks.loss_of_step))

    return Clocked
