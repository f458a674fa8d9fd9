"""On-policy steps, ours against TRL's DistillationTrainer, on the same prompts and as many tokens.

    KDBENCH_DATA=... python benchmarks/on_policy_step.py --teacher FOLDER [--json]

A step: the student writes 64 tokens after each of 8 prompts at temperature 1, the teacher reads them, and
the student learns by the reverse KL over the whole vocabulary (``opd``; TRL's defaults). Teacher: the model
given (SmolLM2-135M), bfloat16. Student: ``prune:8`` of it, float32 master weights. Prompts: Dolly's training
file in order. bfloat16 autocast, AdamW, no gradient checkpointing on either side. Nothing ends an answer, so
that both sides write 512 tokens a step. Sides take turns, each turn in its own process; the first step of a
process is not timed. Tokens are those of prompts and answers.
"""

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from made import (
    BATCH,
    MIXED,
    clocked,
    dolly,
    first,
    ids_of,
    own_settings,
    pair_of,
    peer_settings,
    training,
)
from turns import Recorder, begin, in_turns, step_options

MAX_PROMPT = 448
NEW = 64


def prompts_of(tokenizer: Any) -> Iterator[str]:
    """Prompts that are short enough."""
    for row in dolly("train"):
        if len(ids_of(tokenizer, row["prompt"])) <= MAX_PROMPT:
            yield row["prompt"]


def ours(
    teacher_path: str, texts: list[str], steps: int, precision: str
) -> tuple[Recorder, list[int]]:
    """Our loop, as ``kdbench train`` runs it, and the tokens written a step."""
    from accelerate import Accelerator

    from kdbench.trainers.method import Context, Stream
    from kdbench.trainers.methods.opd import OPD
    from kdbench.trainers.models import Vocabulary
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

    student, teacher, tokenizer = pair_of(teacher_path, precision)
    recorder = Recorder()
    lengths = {"max_prompt": MAX_PROMPT, "max_length": MAX_PROMPT + NEW}
    with training(
        recipe=own_settings(steps, precision, sample_precision=precision, **lengths),
        method=InOrder(InOrder.Config()),
        student=student,
        teacher=teacher,
        vocabulary=Vocabulary(teacher.config.vocab_size, (), tokenizer.eos_token_id),
        tokenizer=tokenizer,
        train=[Sequence(tuple(ids_of(tokenizer, t)), (), key) for key, t in enumerate(texts)],
        accelerator=Accelerator(cpu=True, mixed_precision=MIXED[precision]),
    ) as loop:
        loop.show = lambda state, row: recorder.step(row.loss)
        loop.run()
    return recorder, written


def peer(
    teacher_path: str, texts: list[str], steps: int, precision: str
) -> tuple[Recorder, list[int]]:
    """TRL's DistillationTrainer with its defaults, but for what the task fixes.

    Its teacher, too, is loaded in that precision, and gradient checkpointing is off: both make it faster.
    """
    from datasets import Dataset
    from trl import DistillationConfig, DistillationTrainer

    student, teacher, tokenizer = pair_of(teacher_path, precision)
    tokenizer.padding_side = "left"
    recorder, written = Recorder(), []

    class Counted(clocked(DistillationTrainer, recorder)):  # type: ignore[misc]
        def _generate_single_turn(self, *args: Any, **kwargs: Any) -> Any:
            found = super()._generate_single_turn(*args, **kwargs)
            written.append(sum(map(len, found)))
            return found

    with tempfile.TemporaryDirectory() as out:
        arguments = DistillationConfig(
            **peer_settings(steps, out, precision),
            max_completion_length=NEW,
            generation_kwargs={"eos_token_id": None},  # nothing ends an answer
            shuffle_dataset=False,
        )
        trainer = Counted(
            model=student,
            teacher_model=teacher,
            args=arguments,
            processing_class=tokenizer,
            train_dataset=Dataset.from_list([{"prompt": t} for t in texts]),
        )
        trainer.train()
    return recorder, written


def child(side: str, teacher: str, steps: int, precision: str) -> None:
    """One turn of one side; prints its numbers as the last line."""
    from kdbench.trainers.models import load_tokenizer

    tokenizer = load_tokenizer(teacher)
    texts = first(steps * BATCH, prompts_of(tokenizer))
    recorder, written = {"ours": ours, "peer": peer}[side](teacher, texts, steps, precision)
    asked = [len(ids_of(tokenizer, t)) for t in texts]
    tokens = [sum(asked[i * BATCH : (i + 1) * BATCH]) + n for i, n in enumerate(written)]
    print(json.dumps(recorder.report(tokens) | {"written": written}))


def main() -> None:
    parser = step_options(__doc__, steps=5)
    parser.add_argument("--no-peer", action="store_true", help="our side only")
    args = parser.parse_args()
    if args.child:
        begin(args.threads)
        child(args.child, args.teacher, args.steps, args.precision)
        return
    found = in_turns(__file__, "on_policy", args, peer=not args.no_peer)
    if args.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
