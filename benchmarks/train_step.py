"""Forward-KD training steps, ours against TRL's experimental GKD trainer, on the same batches.

    KDBENCH_DATA=... python benchmarks/train_step.py --teacher FOLDER [--json]

Teacher: the model given (SmolLM2-135M). Student: ``prune:8`` of it, float32 master weights. Data:
the first rows of Dolly's training file in order, prompt and answer and end token, at most 512
tokens; and a second mix of its short rows. Forward KL on answer tokens only (GKD with beta 0,
lambda 0), batch 8, bfloat16 autocast, AdamW. Sides take turns, each turn in its own process; the
first step of a process is not timed. Tokens are non-padding ones; memory is the peak of the process
while training.
"""

import json
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
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

MAX_TOKENS = 512
SHORT = 96
MIXES = ("in_order", "short")

Row = tuple[list[int], list[int]]


def rows_of(mix: str, tokenizer: Any) -> Iterator[Row]:
    """(prompt ids, answer ids with end token) of the rows of a mix."""
    for example in dolly("train"):
        prompt, answer = (ids_of(tokenizer, example[name]) for name in ("prompt", "output"))
        answer = [*answer, tokenizer.eos_token_id][: MAX_TOKENS - len(prompt)]
        if answer and (mix != "short" or len(prompt) + len(answer) <= SHORT):
            yield prompt, answer


def ours(teacher_path: str, rows: list[Row], steps: int, precision: str) -> Recorder:
    """Our loop, as ``kdbench train`` runs it."""
    from accelerate import Accelerator

    from kdbench.trainers.method import Context, Stream
    from kdbench.trainers.methods.fkd import ForwardKD
    from kdbench.trainers.models import Vocabulary
    from kdbench.trainers.types import Sequence

    class InOrder(ForwardKD):
        """Forward KD without shuffling, so that both sides see the same batches."""

        card = ForwardKD.card

        def window(self, ctx: Context, step: int) -> Any:
            return (Stream.of("response", ctx.train[step * BATCH : (step + 1) * BATCH]),)

    student, teacher, tokenizer = pair_of(teacher_path, precision)
    vocab = teacher.config.vocab_size  # TRL compares all columns
    recorder = Recorder()
    with training(
        # every row is read once, so nothing of the teacher is remembered
        recipe=own_settings(
            steps, precision, teacher_memory_gb=0.0, micro_tokens=BATCH * MAX_TOKENS
        ),
        method=InOrder(InOrder.Config(kd_ratio=1.0)),
        student=student,
        teacher=teacher,
        vocabulary=Vocabulary(vocab, (tokenizer.eos_token_id,), tokenizer.eos_token_id),
        tokenizer=tokenizer,
        train=[Sequence(tuple(p), tuple(a)) for p, a in rows],
        accelerator=Accelerator(cpu=True, mixed_precision=MIXED[precision]),
    ) as loop:
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


def peer(teacher_path: str, rows: list[Row], steps: int, precision: str) -> Recorder:
    """TRL's GKD trainer with its defaults, but for what the task fixes.

    Its teacher, too, is loaded in that precision, and gradient checkpointing is off: both make it faster.
    """
    from datasets import Dataset
    from torch.utils.data import DataLoader
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    student, teacher, tokenizer = pair_of(teacher_path, precision)
    tokenizer.pad_token = tokenizer.eos_token
    recorder = Recorder()
    collator = partial(collate, pad_id=tokenizer.pad_token_id)

    class InOrder(clocked(GKDTrainer, recorder)):  # type: ignore[misc]
        def get_train_dataloader(self) -> Any:
            return DataLoader(rows, batch_size=BATCH, shuffle=False, collate_fn=collator)

    with tempfile.TemporaryDirectory() as out:
        arguments = GKDConfig(**peer_settings(steps, out, precision), lmbda=0.0, beta=0.0)
        trainer = InOrder(
            model=student,
            teacher_model=teacher,
            args=arguments,
            processing_class=tokenizer,
            train_dataset=Dataset.from_list([{"input_ids": [*p, *a]} for p, a in rows]),
            data_collator=collator,
        )
        trainer.train()
    return recorder


def child(side: str, mix: str, teacher: str, steps: int, precision: str) -> None:
    """One turn of one side; prints its numbers as the last line."""
    from kdbench.trainers.models import load_tokenizer

    rows = first(steps * BATCH, rows_of(mix, load_tokenizer(teacher)))
    recorder = {"ours": ours, "peer": peer}[side](teacher, rows, steps, precision)
    tokens = [
        sum(len(p) + len(a) for p, a in rows[i : i + BATCH]) for i in range(0, len(rows), BATCH)
    ]
    print(json.dumps(recorder.report(tokens)))


def main() -> None:
    parser = step_options(__doc__, steps=6)
    parser.add_argument("--mix", choices=MIXES, help="only this mix of rows")
    args = parser.parse_args()
    if args.child:
        begin(args.threads)
        child(args.child, args.mix, args.teacher, args.steps, args.precision)
        return
    mixes = [args.mix] if args.mix else list(MIXES)
    found = {mix: in_turns(__file__, mix, args, "--mix", mix) for mix in mixes}
    if args.json:
        first = found[mixes[0]]
        print(
            json.dumps(
                {k: first[k] for k in ("ours", "peer", "ratio", "loss_gap")} | {"mixes": found}
            )
        )


if __name__ == "__main__":
    main()
