"""Signal to noise of DPKD's gradient: the chosen branch, the rejected one, and what settings change.

    python benchmarks/gradient_noise.py [--suite mini] [--steps 0,100] [--windows 32] [--json]

For each setting a training is put together as ``kdbench train`` would, taken some steps forward, and then
held still: gradients of so many further windows (a batch each) are collected at the same weights. With mean
gradient m and covariance S over windows, signal is |m|² (less tr S / windows, which noise alone gives a mean)
and noise tr S, and the ratio printed is the root of signal over noise: of one step's gradient, 0 where it is
all noise. A branch is the part of the gradient that goes through the chosen, or the rejected, answers'
log-probabilities under the student.

Needs the suite's teacher and init; both are made where the cache lacks them.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from kdbench.harness.config import Request
from kdbench.harness.files.folders import cache_folder
from kdbench.harness.progress import Progress
from kdbench.harness.resolve import resolve
from kdbench.harness.runner.data import prepare_data
from kdbench.harness.runner.jobs import method_job
from kdbench.harness.runner.prepare import init_student, prepare, tuned_teacher
from kdbench.harness.runner.training import assembled
from kdbench.harness.session import open_session
from kdbench.trainers.loop import Loop
from kdbench.trainers.method import MicroBatch

PLAIN = ("method.ce_coef=0", "method.chosen=sample", "method.lm_coef=0")
SETTINGS = {
    "plain equation": PLAIN,
    "rejected answers of the init": (*PLAIN, "method.refresh=0"),
    "greedy chosen answers": ("method.ce_coef=0", "method.chosen=greedy", "method.lm_coef=0"),
    "gold chosen answers": ("method.ce_coef=0", "method.chosen=gold", "method.lm_coef=0"),
    "with CE 1": ("method.ce_coef=1", "method.chosen=sample", "method.lm_coef=0"),
    "with CE 1, greedy": ("method.ce_coef=1", "method.chosen=greedy", "method.lm_coef=0"),
}
BRANCHES = {"whole": None, "chosen": 0, "rejected": 1}


class Noise(NamedTuple):
    """Of one setting, step and branch.

    Attributes:
        ratio: root of signal over noise.
        mean: |m|.
        spread: root of tr S.
    """

    ratio: float
    mean: float
    spread: float


def through(branch: int) -> Callable[[MicroBatch], torch.Tensor]:
    """Log-probabilities of answers, of which one of each pair carries a gradient."""

    def answers(micro: MicroBatch) -> torch.Tensor:
        q = micro.sum_by_sequence(micro.logprobs())
        kept = torch.arange(len(q), device=q.device) % 2 == branch
        return torch.where(kept, q, q.detach())

    return answers


def noise(loop: Loop, first: int, windows: int) -> dict[str, Noise]:
    """What gradients of so many windows from a step on are, at the weights as they are."""
    module = loop.accelerator.unwrap_model(loop.module)
    weights = [p for p in module.student.parameters() if p.requires_grad]
    size = sum(p.numel() for p in weights)
    sums = {name: torch.zeros(size, dtype=torch.float64) for name in BRANCHES}
    squares = dict.fromkeys(BRANCHES, 0.0)
    method = loop.method
    whole = method.answers_logprobs  # type: ignore[attr-defined]
    for step in range(first, first + windows):
        window = method.window(loop.ctx, step)
        for name, branch in BRANCHES.items():
            chosen = whole if branch is None else through(branch)
            method.answers_logprobs = chosen  # type: ignore[attr-defined]
            loop.optimizer.zero_grad(set_to_none=False)
            loop._gradients(window, loop.recipe.micro_tokens)
            gradient = torch.cat([p.grad.flatten().double() for p in weights if p.grad is not None])
            sums[name] += gradient
            squares[name] += float(gradient @ gradient)
        method.answers_logprobs = whole  # type: ignore[attr-defined]
    return {name: _noise(sums[name] / windows, squares[name], windows) for name in BRANCHES}


def _noise(mean: torch.Tensor, squares: float, windows: int) -> Noise:
    length = float(mean @ mean)
    trace = (squares - windows * length) / (windows - 1)
    signal = max(0.0, length - trace / windows)
    return Noise((signal / trace) ** 0.5, length**0.5, trace**0.5)


def prepared_loop(suite: str, settings: tuple[str, ...], folder: Path) -> Loop:
    """The training of ``dpkd`` with some settings, not begun."""
    config = resolve(suite=suite, method="dpkd", assignments=list(settings))
    request = Request(config=config, runs_dir=folder, cache_dir=cache_folder(), quiet=True)
    session = open_session(request, Progress(quiet=True))
    ready = prepare(session)
    teacher, init = tuned_teacher(session, ready), init_student(session, ready)
    data = ready.data or prepare_data(ready.rows, config, config.train, ready.tokenizer)
    loop = assembled(session, method_job(session, ready, teacher, init, data))
    loop.module.train(loop.recipe.dropout)
    return loop


def main() -> None:
    """Measures every setting at every step and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--suite", default="mini")
    parser.add_argument("--steps", default="0,100")
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("--settings", default=";".join(SETTINGS))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    steps = [int(step) for step in options.steps.split(",")]
    found = {}
    print(f"{'':30s}{'step':>5s}" + "".join(f"{name:>12s}" for name in BRANCHES), flush=True)
    for label in options.settings.split(";"):
        with tempfile.TemporaryDirectory() as folder:
            loop = prepared_loop(options.suite, SETTINGS[label], Path(folder))
            for step in steps:
                while loop.state.step < step:
                    loop._step()
                measured = noise(loop, loop.state.step, options.windows)
                found[f"{label}, step {step}"] = measured
                ratios = "".join(f"{each.ratio:12.3f}" for each in measured.values())
                print(f"{label:30s}{step:5d}{ratios}", flush=True)
    if options.json:
        print(json.dumps({k: {n: e._asdict() for n, e in v.items()} for k, v in found.items()}))


if __name__ == "__main__":
    main()
