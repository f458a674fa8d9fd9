"""How far gradients are off where a teacher is known by its k likeliest tokens and one bin of all others.

    KDBENCH_DATA=... python benchmarks/teacher_top_k.py --teacher FOLDER [--rows 40] [--student prune:27]

Gold answers of Dolly's first training rows; the student is ``prune:N`` of the teacher as it is, or a folder.
For each objective the gradient in the student's last hidden states at all answer tokens, as kdbench computes
it: the norm of the difference over that of the exact one, and the cosine between the two.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from kdbench.trainers.batching import Layout, micro_batches
from kdbench.trainers.head.head import Head, backbone_hidden, head_of
from kdbench.trainers.head.partial import known_part
from kdbench.trainers.head.tiles import tiled_sum
from kdbench.trainers.models import PRUNE, load_model, load_tokenizer, prune
from kdbench.trainers.objectives import divergences as d
from kdbench.trainers.types import Sequence

sys.path.insert(0, str(Path(__file__).parent))
from made import dolly, ids_of

OBJECTIVES: dict[str, Callable[..., Any]] = {
    "forward KL": d.forward_kl,
    "half cross-entropy, half forward KL": partial(d.word_kd, kd_ratio=0.5),
    "skewed forward KL, 0.1": d.skew_forward_kl,
    "TAID, t = 0.5": partial(d.taid, t=0.5),
    "JSD, β = 0.5": partial(d.generalised_jsd, beta=0.5),
    "total variation": d.total_variation,
    "adaptive KL": d.adaptive_kl,
    "symmetric KL, 0.5": partial(d.symmetric_kl, forward_weight=0.5),
    "skewed reverse KL, 0.1": d.skew_reverse_kl,
    "reverse KL": d.reverse_kl,
}
KEPT = (8, 64, 512)


def rows_of(tokenizer: Any) -> Iterator[Sequence]:
    """Prompts and answers with their end token."""
    for example in dolly("train"):
        prompt, answer = (ids_of(tokenizer, example[name]) for name in ("prompt", "output"))
        if len(prompt) + len(answer) < 400:
            yield Sequence(tuple(prompt), (*answer, tokenizer.eos_token_id))


def gradient(
    objective: Callable[..., Any],
    hidden: torch.Tensor,
    head: Head,
    target: torch.Tensor,
    **teacher: Any,
) -> torch.Tensor:
    """In the student's hidden states."""
    leaf = hidden.clone().requires_grad_()
    loss, _ = tiled_sum(objective, leaf, head, target, **teacher)
    loss.backward()
    assert leaf.grad is not None
    return leaf.grad


@torch.no_grad()
def states(model: Any, rows: list[Sequence]) -> tuple[torch.Tensor, torch.Tensor]:
    """Hidden states and targets of all answers."""
    layout = Layout(row=512, pad_id=0, packed=True, device=torch.device("cpu"))
    packs = [layout(batch) for batch in micro_batches(rows, 2048)]
    return torch.cat([backbone_hidden(model, p) for p in packs]), torch.cat(
        [p.target_N for p in packs]
    )


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--student", default="prune:27")
    parser.add_argument("--rows", type=int, default=40)
    asked = parser.parse_args()
    teacher = load_model(asked.teacher)
    found = PRUNE.match(asked.student)
    student = prune(teacher, int(found.group(1))) if found else load_model(asked.student)
    tokenizer = load_tokenizer(asked.teacher)
    vocab = max(tokenizer.get_vocab().values()) + 1
    rows = list(islice(rows_of(tokenizer), asked.rows))
    hidden, target = states(student, rows)
    other, _ = states(teacher, rows)
    own, its = head_of(student.requires_grad_(False), vocab), head_of(teacher, vocab)
    parts = {
        k: torch.cat([known_part(its.logits(tile), k) for tile in other.split(512)]) for k in KEPT
    }
    print(f"{len(rows)} rows, {len(target):,} answer tokens, {asked.student}")
    left = [float(p[:, -1].double().exp().mean()) for p in parts.values()]
    print("in the bin: " + ", ".join(f"k = {k}: {x:.1%}" for k, x in zip(KEPT, left, strict=True)))
    print(f"| objective | {' | '.join(f'k = {k}' for k in KEPT)} |\n|---|{'---:|' * len(KEPT)}")
    for name, objective in OBJECTIVES.items():
        exact = gradient(objective, hidden, own, target, teacher_hidden_ND=other, teacher_head=its)
        cells = []
        for k, part in parts.items():
            stand_in = Head(None, None, 1.0, None, vocab, known=k)
            found_g = gradient(
                objective, hidden, own, target, teacher_hidden_ND=part, teacher_head=stand_in
            )
            off = float((found_g - exact).norm() / exact.norm())
            cosine = float(
                torch.nn.functional.cosine_similarity(found_g.flatten(), exact.flatten(), 0)
            )
            cells.append(f"{off:.1%} ({cosine:.3f})")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
