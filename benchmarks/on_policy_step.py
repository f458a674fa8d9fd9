"""On-policy steps, ours against TRL's DistillationTrainer, on the same prompts and as many tokens.

    KDBENCH_DATA=... python benchmarks/on_policy_step.py --teacher FOLDER [--json]

A step: the student writes 64 tokens after each of 8 prompts at temperature 1, the teacher reads them, and
the student learns by the reverse KL over the whole vocabulary (``opd``; TRL's defaults). Teacher: the model
given (SmolLM2-135M), bfloat16. Student: ``prune:8`` of it, float32 master weights. Prompts: Dolly's training
file in order. bfloat16 autocast, AdamW, no gradient checkpointing on either side. Nothing ends an answer, so
that both sides write 512 tokens a step. Sides take turns, each turn in its own process; the first step of a
process is not timed. Tokens are those of prompts and answers.
"""

import argparse
import json
import os
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from turns import BATCH, LR, Recorder, in_turns, pruned

MAX_PROMPT = 448
NEW = 64


def prompts_of(count: int, tokenizer: Any) -> list[str]:
    """The first ``count`` prompts that are short enough."""
    path = Path(os.environ["KDBENCH_DATA"]) / "dolly" / "train.jsonl"
    found: list[str] = []
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            prompt: str = json.loads(line)["prompt"]
            if len(tokenizer(prompt, add_special_tokens=False)["input_ids"]) <= MAX_PROMPT:
                found.append(prompt)
            if len(found) == count:
                return found
    raise SystemExit(f"{path} has only {len(found)} prompts; use fewer --steps")


def ours(teacher_path: str, texts: list[str], steps: int) -> tuple[Recorder, list[int]]:
    """Our loop, as ``kdbench train`` runs it, and the tokens written a step."""
    import torch
    from accelerate import Accelerator

    from kdbench.trainers.assemble import Parts, assemble
    from kdbench.trainers.method import Context, Stream
    from kdbench.trainers.methods.opd import OPD
    from kdbench.trainers.models import Vocabulary, load_model, load_tokenizer
    from kdbench.trainers.optim import Recipe
    from kdbench.trainers.sources import student_responses
    from kdbench.trainers.types import Sequence

    written: list[int] = []

    class InOrder(OPD):
        """OPD without shuffling, so that both sides are asked the same."""

        card = OPD.card

        def window(self, ctx: Context, step: int) -> Any:
            asked = list(ctx.prompts[step * BATCH : (step + 1) * BATCH])
            answers = student_responses(ctx, step, asked)
            written.append(sum(len(a.response) for a in answers))
            return (Stream.of("response", answers),)

    student = pruned(teacher_path)
    tokenizer = load_tokenizer(teacher_path)
    teacher = load_model(teacher_path, dtype=torch.bfloat16)
    recorder = Recorder()
    recipe = Recipe(
        steps=steps,
        batch_size=BATCH,
        lr=LR,
        schedule="constant",
        weight_decay=0.0,
        clip=1.0,
        dropout=False,
        save_every=10**9,
        select="last",
        max_prompt=MAX_PROMPT,
        max_length=MAX_PROMPT + NEW,
        precision="bf16",
        sample_precision="bf16",
    )
    rows = [
        Sequence(tuple(tokenizer(t, add_special_tokens=False)["input_ids"]), (), key)
        for key, t in enumerate(texts)
    ]
    with tempfile.TemporaryDirectory() as out:
        loop = assemble(
            Parts(
                recipe=recipe,
                method=InOrder(InOrder.Config()),
                student=student,
                teacher=teacher,
                vocabulary=Vocabulary(teacher.config.vocab_size, (), tokenizer.eos_token_id),
                tokenizer=tokenizer,
                train=rows,
                text=(),
                answers=Path(out) / "unused.jsonl",
                decode_rows=BATCH,
                decode_chunk=BATCH,
                out=Path(out),
                accelerator=Accelerator(cpu=True, mixed_precision="bf16"),
            )
        )
        loop.show = lambda state, row: recorder.step(row.loss)
        loop.run()
    return recorder, written


def peer(teacher_path: str, texts: list[str], steps: int) -> tuple[Recorder, list[int]]:
    """TRL's DistillationTrainer with its defaults, but for what the task fixes.

    Its teacher, too, is loaded in bfloat16, and gradient checkpointing is off: both make it faster.
    """
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import DistillationConfig, DistillationTrainer

    from kdbench.trainers.models import load_model, load_tokenizer

    student = pruned(teacher_path)
    teacher = load_model(teacher_path, dtype=torch.bfloat16)
    tokenizer = load_tokenizer(teacher_path)
    tokenizer.padding_side = "left"
    recorder, written = Recorder(), []

    class Counted(DistillationTrainer):  # type: ignore[misc]
        def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            self.loss_of_step = super().training_step(*args, **kwargs)
            return self.loss_of_step

        def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
            found = super()._generate_single_turn(*args, **kwargs)
            written.append(sum(map(len, found)))
            return found

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            recorder.step(float(trainer.loss_of_step))

    with tempfile.TemporaryDirectory() as out:
        arguments = DistillationConfig(
            output_dir=out,
            max_steps=steps,
            per_device_train_batch_size=BATCH,
            max_completion_length=NEW,
            generation_kwargs={"eos_token_id": None},  # nothing ends an answer
            shuffle_dataset=False,
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
        trainer = Counted(
            model=student,
            teacher_model=teacher,
            args=arguments,
            processing_class=tokenizer,
            train_dataset=Dataset.from_list([{"prompt": t} for t in texts]),
            callbacks=[Clock()],
        )
        trainer.train()
    return recorder, written


def child(side: str, teacher: str, steps: int, threads: int) -> None:
    """One turn of one side; prints its numbers as the last line."""
    import torch
    from transformers.utils import logging

    from kdbench.trainers.models import load_tokenizer

    logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    tokenizer = load_tokenizer(teacher)
    texts = prompts_of(steps * BATCH, tokenizer)
    recorder, written = {"ours": ours, "peer": peer}[side](teacher, texts, steps)
    asked = [len(tokenizer(t, add_special_tokens=False)["input_ids"]) for t in texts]
    tokens = [sum(asked[i * BATCH : (i + 1) * BATCH]) + n for i, n in enumerate(written)]
    print(json.dumps(recorder.report(tokens) | {"written": written}))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--teacher", required=True, help="folder or hub id of the teacher")
    parser.add_argument("--turns", type=int, default=3, help="turns of each side")
    parser.add_argument("--steps", type=int, default=5, help="steps a turn; the first is not timed")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--no-peer", action="store_true", help="our side only")
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--child", choices=("ours", "peer"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if "KDBENCH_DATA" not in os.environ:
        raise SystemExit("set KDBENCH_DATA to the folder that holds dolly/train.jsonl")
    if args.child:
        child(args.child, args.teacher, args.steps, args.threads)
        return
    passed = ["--teacher", args.teacher, "--steps", str(args.steps), "--threads", str(args.threads)]
    found = in_turns(
        __file__,
        "on_policy",
        passed,
        turns=args.turns,
        threads=args.threads,
        peer=not args.no_peer,
    )
    if args.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
