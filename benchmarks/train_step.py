"""Forward-KD training steps, ours against TRL's experimental GKD trainer, on the same batches.

    KDBENCH_DATA=... python benchmarks/train_step.py --teacher FOLDER [--json]

Teacher: the model given (SmolLM2-135M). Student: ``prune:8`` of it, float32 master weights. Data:
the first rows of Dolly's training file in order, prompt and answer and end token, at most 512
tokens; and a second mix of its short rows. Forward KL on answer tokens only (GKD with beta 0,
lambda 0), batch 8, bfloat16 autocast, AdamW. Sides take turns, each turn in its own process; the
first step of a process is not timed. Tokens are non-padding ones; memory is the peak of the process
while training.
"""

import argparse
import json
import os
import sys
import tempfile
import warnings
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from turns import BATCH, LR, Recorder, in_turns, pruned

MAX_TOKENS = 512
SHORT = 96
MIXES = ("in_order", "short")

Row = tuple[list[int], list[int]]


def rows_of(mix: str, count: int, tokenizer: Any) -> list[Row]:
    """(prompt ids, answer ids with end token) of the first ``count`` rows of the mix."""
    path = Path(os.environ["KDBENCH_DATA"]) / "dolly" / "train.jsonl"
    rows: list[Row] = []
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            example = json.loads(line)
            prompt = tokenizer(example["prompt"], add_special_tokens=False)["input_ids"]
            answer = tokenizer(example["output"], add_special_tokens=False)["input_ids"]
            answer = [*answer, tokenizer.eos_token_id][: MAX_TOKENS - len(prompt)]
            if not answer or (mix == "short" and len(prompt) + len(answer) > SHORT):
                continue
            rows.append((prompt, answer))
            if len(rows) == count:
                return rows
    raise SystemExit(f"{path} has only {len(rows)} rows for the mix {mix!r}; use fewer --steps")


def ours(teacher_path: str, rows: list[Row], steps: int) -> Recorder:
    """Our loop, as ``kdbench train`` runs it."""
    import torch
    from accelerate import Accelerator

    from kdbench.trainers.assemble import Parts, assemble
    from kdbench.trainers.method import Context, Stream
    from kdbench.trainers.methods.fkd import ForwardKD
    from kdbench.trainers.models import Vocabulary, load_model, load_tokenizer
    from kdbench.trainers.optim import Recipe
    from kdbench.trainers.types import Sequence

    class InOrder(ForwardKD):
        """Forward KD without shuffling, so that both sides see the same batches."""

        card = ForwardKD.card

        def window(self, ctx: Context, step: int) -> Any:
            return (Stream.of("response", ctx.train[step * BATCH : (step + 1) * BATCH]),)

    student = pruned(teacher_path)  # first: where weights lie is worth 3% of a step
    tokenizer = load_tokenizer(teacher_path)
    teacher = load_model(teacher_path, dtype=torch.bfloat16)
    vocab = teacher.config.vocab_size  # TRL compares all columns
    recorder = Recorder()
    recipe = Recipe(
        steps=steps,
        batch_size=BATCH,
        lr=LR,
        schedule="constant",
        weight_decay=0.0,
        clip=1.0,
        dropout=False,
        teacher_memory_gb=0.0,  # every row is read once
        save_every=10**9,
        select="last",
        micro_tokens=BATCH * MAX_TOKENS,
        precision="bf16",
    )
    with tempfile.TemporaryDirectory() as out:
        loop = assemble(
            Parts(
                recipe=recipe,
                method=InOrder(InOrder.Config(kd_ratio=1.0)),
                student=student,
                teacher=teacher,
                vocabulary=Vocabulary(vocab, (tokenizer.eos_token_id,), tokenizer.eos_token_id),
                tokenizer=tokenizer,
                train=[Sequence(tuple(p), tuple(a)) for p, a in rows],
                text=(),
                answers=Path(out) / "unused.jsonl",
                decode_rows=1,
                decode_chunk=1,
                out=Path(out),
                accelerator=Accelerator(cpu=True, mixed_precision="bf16"),
            )
        )
        loop.show = lambda state, row: recorder.step(row.loss)
        loop.run()
    return recorder


def collate(batch: list[Row], pad_id: int) -> dict[str, Any]:
    """The peer's batch: padded on the right, labels on answer tokens (end token included)."""
    import torch

    width = max(len(p) + len(a) for p, a in batch)
    shape = (len(batch), width)
    ids = torch.full(shape, pad_id)
    mask, labels = torch.zeros(shape, dtype=torch.long), torch.full(shape, -100)
    for i, (prompt, answer) in enumerate(batch):
        length = len(prompt) + len(answer)
        ids[i, :length] = torch.tensor(prompt + answer)
        mask[i, :length] = 1
        labels[i, len(prompt) : length] = torch.tensor(answer)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def peer(teacher_path: str, rows: list[Row], steps: int) -> Recorder:
    """TRL's GKD trainer with its defaults, but for what the task fixes.

    Its teacher, too, is loaded in bfloat16, and gradient checkpointing is off: both make it faster.
    """
    import torch
    from torch.utils.data import DataLoader
    from transformers import TrainerCallback
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    from kdbench.trainers.models import load_model, load_tokenizer

    student = pruned(teacher_path)
    teacher = load_model(teacher_path, dtype=torch.bfloat16)
    tokenizer = load_tokenizer(teacher_path)
    tokenizer.pad_token = tokenizer.eos_token
    recorder = Recorder()
    collator = partial(collate, pad_id=tokenizer.pad_token_id)

    class InOrder(GKDTrainer):  # type: ignore[misc]
        def get_train_dataloader(self) -> Any:
            return DataLoader(rows, batch_size=BATCH, shuffle=False, collate_fn=collator)

        def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            self.loss_of_step = super().training_step(*args, **kwargs)
            return self.loss_of_step

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            recorder.step(float(trainer.loss_of_step))

    with tempfile.TemporaryDirectory() as out:
        arguments = GKDConfig(
            output_dir=out,
            max_steps=steps,
            per_device_train_batch_size=BATCH,
            lmbda=0.0,
            beta=0.0,
            learning_rate=LR,
            lr_scheduler_type="constant",
            weight_decay=0.0,
            max_grad_norm=1.0,
            bf16=True,
            use_cpu=True,
            gradient_checkpointing=False,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        trainer = InOrder(
            model=student,
            teacher_model=teacher,
            args=arguments,
            processing_class=tokenizer,
            train_dataset=_as_dataset(rows),
            data_collator=collator,
            callbacks=[Clock()],
        )
        trainer.train()
    return recorder


def _as_dataset(rows: list[Row]) -> Any:
    from datasets import Dataset

    return Dataset.from_list([{"input_ids": [*p, *a]} for p, a in rows])


def child(side: str, mix: str, teacher: str, steps: int, threads: int) -> None:
    """One turn of one side; prints its numbers as the last line."""
    import torch
    from transformers.utils import logging

    from kdbench.trainers.models import load_tokenizer

    logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    rows = rows_of(mix, steps * BATCH, load_tokenizer(teacher))
    recorder = {"ours": ours, "peer": peer}[side](teacher, rows, steps)
    tokens = [
        sum(len(p) + len(a) for p, a in rows[i : i + BATCH]) for i in range(0, len(rows), BATCH)
    ]
    print(json.dumps(recorder.report(tokens)))


def compare(mix: str, args: argparse.Namespace) -> dict[str, Any]:
    """Both sides in turns on one mix."""
    passed = ["--teacher", args.teacher, "--steps", str(args.steps), "--mix", mix]
    passed += ["--threads", str(args.threads)]
    return in_turns(__file__, mix, passed, turns=args.turns, threads=args.threads)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--teacher", required=True, help="folder or hub id of the teacher")
    parser.add_argument("--turns", type=int, default=3, help="turns of each side a mix")
    parser.add_argument("--steps", type=int, default=6, help="steps a turn; the first is not timed")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--mix", choices=MIXES, help="only this mix of rows")
    parser.add_argument("--child", choices=("ours", "peer"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if "KDBENCH_DATA" not in os.environ:
        raise SystemExit("set KDBENCH_DATA to the folder that holds dolly/train.jsonl")
    if args.child:
        child(args.child, args.mix, args.teacher, args.steps, args.threads)
        return
    mixes = [args.mix] if args.mix else list(MIXES)
    found = {mix: compare(mix, args) for mix in mixes}
    if args.json:
        first = found[mixes[0]]
        print(
            json.dumps(
                {k: first[k] for k in ("ours", "peer", "ratio", "loss_gap")} | {"mixes": found}
            )
        )


if __name__ == "__main__":
    main()
