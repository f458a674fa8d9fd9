"""The only optimisation loop: every method trains here.

What it owns: micro-batches, ranks, the division by global counts, mixed precision, clipping, the
schedule, evaluation and model selection, ``metrics.jsonl``, checkpoints and exact resume.

On disk, in the folder it is given::

    metrics.jsonl               TrainRow, one a logged step
    checkpoints/step-<n>/       newest resumable state
    checkpoints/best-<n>/       weights of the best evaluation so far
    adapter/                    of a training by LoRA: the selected adapters, a PEFT folder
    student/                    the selected student, an ordinary Hugging Face folder; written last

Who marks the training as done then drops ``checkpoints/`` (`kdbench.trainers.checkpoint`).
"""

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, broadcast_object_list, gather_object
from transformers import PreTrainedTokenizerBase

from kdbench.harness.errors import DIVERGED, CellFailed, InputError
from kdbench.harness.files.records import TrainRow
from kdbench.harness.files.store import append_rows, keep_rows, read_records
from kdbench.trainers.batching import Layout, Piece, Stream, pieces
from kdbench.trainers.checkpoint import Checkpoints
from kdbench.trainers.lora.merging import Adapted
from kdbench.trainers.method import Context, Method, checked_sums
from kdbench.trainers.micro_batch import StudentModule
from kdbench.trainers.optim import Recipe, adamw
from kdbench.trainers.parallel.settings import Parallel
from kdbench.trainers.parallel.tensors import is_shared, whole

SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)
Evaluator = Callable[[int], dict[str, float]]


@dataclass(slots=True)
class State:
    """Where training stands; everything here is checkpointed.

    Attributes:
        step: optimiser steps done.
        warmed: fraction of the budget used when warm-up ended; 0 before that.
        tokens: by kind; ``response`` counts against the budget.
        wall_s: seconds in steps.
        best: the selection metric of the best evaluation (lower is worse), at step ``best_step``.
        evaluations: development metrics by step.
        processes: on how many it ran, and what they shared, from which step on.
    """

    step: int = 0
    warmed: float = 0.0
    tokens: dict[str, int] = field(default_factory=dict)
    wall_s: float = 0.0
    best: float | None = None
    best_step: int = 0
    evaluations: dict[str, dict[str, float]] = field(default_factory=dict)
    processes: list[dict[str, Any]] = field(default_factory=list)


@dataclass(kw_only=True, eq=False)
class Loop:
    """One training; call :meth:`run`. `kdbench.trainers.assemble` makes one of its parts.

    Args:
        recipe: budget, rates, limits; the loop adds no defaults of its own.
        method: what to train on and what to minimise.
        ctx: data and services for the method.
        module: the student (float32 or wider weights), its teacher and the method's own modules.
        tokenizer: saved with the student.
        layout: how sequences become rows.
        evaluator: the student's development-set metrics at a step, asked on every rank; None evaluates
            nothing.
        out: folder described in the module docstring.
        accelerator: device, mixed precision and ranks.
        adapted: the student with its adapters, if only they are trained.
        parallel: what each of several processes holds.
        show: called after each step with its row.
        resumed: called once, before the first step, with where the training goes on.

    Raises:
        InputError: the accelerator may shard models.
    """

    recipe: Recipe
    method: Method
    ctx: Context
    module: StudentModule
    tokenizer: PreTrainedTokenizerBase | None
    layout: Layout
    evaluator: Evaluator | None
    out: Path
    accelerator: Accelerator
    adapted: Adapted | None = None
    parallel: Parallel = field(default_factory=Parallel)
    show: Callable[[State, TrainRow], None] = lambda state, row: None
    resumed: Callable[[State], None] = lambda state: None
    state: State = field(default_factory=State)

    def __post_init__(self) -> None:
        if self.accelerator.distributed_type in SHARDED:
            raise InputError(
                f"training cannot run under {self.accelerator.distributed_type.value} of accelerate; use "
                "parallel.shard=fsdp2, or plain data parallelism"
            )
        self.student = self.module.student
        self.teacher = self.module.teacher
        self.steps = self.recipe.steps_of(len(self.ctx.train))
        optimizer = adamw(self.module, self.recipe)
        if is_shared(self.module):
            self.optimizer = self.accelerator.prepare_optimizer(optimizer)
        else:
            self.module, self.optimizer = self.accelerator.prepare(self.module, optimizer)
        self.checkpoints = Checkpoints(
            self.accelerator, self.module, self.optimizer, self.out, self.adapted
        )

    def run(self) -> State:
        """Trains from the newest checkpoint to the end of the budget and writes ``student/``."""
        try:
            return self._run()
        except BaseException:
            self.checkpoints.close()  # who comes next must not meet what this one still writes
            raise

    def _run(self) -> State:
        self._resume()
        self._note_processes()
        self.resumed(self.state)
        if self.evaluator and self.state.step == 0:
            metrics = self._evaluate()
            self._log(TrainRow(step=0, loss=metrics.get("dev_loss", 0.0), evaluation=metrics))
        while self._progress() < 1.0:
            self._step()
        if self.state.best is None:  # "last", or nothing was evaluated
            self.state.best_step = self.state.step
        else:
            self.checkpoints.load_best(self.state.best_step)
        self.checkpoints.settle()
        self.checkpoints.export(self.student, self.tokenizer)
        return self.state

    # -- one step ------------------------------------------------------------------------------

    def _step(self) -> None:
        began = time.perf_counter()
        state, recipe, ctx = self.state, self.recipe, self.ctx
        step = state.step
        ctx.progress = self._progress()
        if step == recipe.warmup:
            state.warmed = ctx.progress
        # dropout is a function of (seed, step, rank), so that no generator state needs saving
        rank = self.accelerator.process_index
        torch.manual_seed(((recipe.seed * 1_000_003 + step) * 1_009 + rank) % (1 << 64))
        self.module.eval()
        window = self.method.window(ctx, step)
        self.module.train(recipe.dropout)
        rate = recipe.rate(step, ctx.progress, state.warmed)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        terms = self._gradients(window, recipe.micro_tokens)
        # answers that were cut before their first token leave nothing to learn
        norm = self._update(step, terms["total"]) if terms else None
        state.step += 1
        self._count(window)
        self.method.after_step(ctx, step, terms)
        state.wall_s += time.perf_counter() - began
        row = TrainRow(
            step=state.step,
            loss=terms.pop("total", 0.0),
            terms=terms,
            grad_norm=norm,
            lr=rate,
            tokens=dict(state.tokens),
            wall_s=state.wall_s,
        )
        self._after(row)

    def _update(self, step: int, loss: float) -> float | None:
        """Moves the weights by the gradients that are there; the norm these had, where it is known."""
        clipped = self.accelerator.clip_grad_norm_(
            self.module.parameters(), self.recipe.clip or float("inf")
        )
        norm = {} if clipped is None else {"gradient norm": float(whole(clipped))}
        refuse_divergence(step + 1, {"loss": loss, **norm}, self.recipe.lr)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm.get("gradient norm")

    def _gradients(self, window: tuple[Stream, ...], micro_tokens: int) -> dict[str, float]:
        """Backward of every micro-batch of this rank.

        Returns what was minimised, as means of the global window: each stream's loss under its name,
        its other terms as ``<stream>/<term>``, and as ``total`` the weighted sum of the losses; nothing of a
        window without targets.
        """
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        mine = pieces(window, micro_tokens=micro_tokens, rank=rank, world=world)
        logged: dict[str, torch.Tensor] = {}
        taught = 0
        for i, piece in enumerate(mine):
            last = i == len(mine) - 1
            with nullcontext() if last else self.accelerator.no_sync(self.module):
                sums, asked = self._backward(piece)
            if not piece.share:
                continue
            taught += asked
            stream = piece.stream.name
            means = {n: value * piece.share for n, value in sums.items()}
            named = {stream if n == "loss" else f"{stream}/{n}": v for n, v in means.items()}
            for name, value in (named | {"total": sums["loss"] * piece.scale}).items():
                logged[name] = logged[name] + value if name in logged else value
        return self._reduced(logged, taught)

    def _backward(self, piece: Piece) -> tuple[dict[str, torch.Tensor], int]:
        """Gradients of one micro-batch; its sums as float64, and tokens the teacher was asked for."""
        loss = partial(self.method.loss, self.ctx, piece.stream)
        with self.accelerator.autocast():
            found, asked = self.module(self.layout(piece.sequences), loss)
            sums = checked_sums(self.method, found)
        self.accelerator.backward(sums["loss"] * piece.scale)
        return {name: value.detach().to(torch.float64) for name, value in sums.items()}, asked

    def _reduced(self, sums: dict[str, torch.Tensor], taught: int) -> dict[str, float]:
        """Means over ranks; the teacher's tokens are added up and booked."""
        gathered = gather_object([({k: float(v) for k, v in sums.items()}, taught)])
        if total := sum(count for _, count in gathered):
            self.ctx.meter["teacher"] += total
        parts = [part for part, _ in gathered]
        names = dict.fromkeys(name for part in parts for name in part)
        return {n: sum(part.get(n, 0.0) for part in parts) / len(parts) for n in names}

    def _count(self, window: tuple[Stream, ...]) -> None:
        tokens = self.state.tokens
        for stream in window:
            kind = "text" if stream.name == "text" else "response"
            tokens[kind] = tokens.get(kind, 0) + stream.targets
            self.ctx.meter["student"] += sum(map(len, stream.sequences))
        tokens.update(self.ctx.meter)

    def _progress(self) -> float:
        """Fraction used of the budget that will end the training, as far as can be told now."""
        trained = self.state.tokens.get("response", 0)
        pairs = (self.state.step, self.steps), (trained, self.recipe.response_tokens)
        return max(used / budget for used, budget in pairs if budget)

    # -- after a step --------------------------------------------------------------------------

    def _after(self, row: TrainRow) -> None:
        step, done = self.state.step, self._progress() >= 1.0
        every = self.recipe.evaluation_every(len(self.ctx.train))
        due = done or (every and step % every == 0)
        row = row.model_copy(update={"evaluation": self._evaluate() if due else {}})
        self._log(row)
        if self.accelerator.is_main_process:
            self.show(self.state, row)
        if done or step % self.recipe.save_every == 0:
            state = {
                "loop": asdict(self.state),
                "method": self.method.state_dict(),
                "meter": dict(self.ctx.meter),
                "taught": sorted(self.ctx.taught),
            }
            self.checkpoints.save(step, state, best=self.state.best_step)

    def _log(self, row: TrainRow) -> None:
        if self.accelerator.is_main_process:
            append_rows(self.out / "metrics.jsonl", [row])

    def _evaluate(self) -> dict[str, float]:
        if self.evaluator is None:
            return {}
        self.module.eval()
        found = [self.evaluator(self.state.step)]
        broadcast_object_list(found)  # what is selected must not hang on a rank's rounding
        metrics = found[0]
        refuse_divergence(self.state.step, metrics, self.recipe.lr)
        self.state.evaluations[str(self.state.step)] = metrics
        self._select(metrics)
        self.method.on_evaluation(self.ctx, metrics)
        return metrics

    def _select(self, metrics: dict[str, float]) -> None:
        """Keeps the weights if they are the best so far; step 0 does not compete."""
        if self.recipe.select == "last" or not self.state.step:
            return
        sense, _, name = self.recipe.select.partition(":")
        value = metrics[name] if sense == "max" else -metrics[name]
        if self.state.best is not None and value <= self.state.best:
            return
        self.state.best, self.state.best_step = value, self.state.step
        self.checkpoints.save_best(self.state.step)

    def _resume(self) -> None:
        found = self.checkpoints.resume()
        if found is not None:
            self.state = State(**found["loop"])
            self.ctx.meter.clear()
            self.ctx.meter.update(found["meter"])
            self.ctx.taught.update(found.get("taught", ()))
            self.method.load_state_dict(found["method"])
        metrics = self.out / "metrics.jsonl"
        if self.accelerator.is_main_process and metrics.exists():
            rows = read_records(metrics, TrainRow)
            # steps after the checkpoint are done again; the time that they took was spent all the same
            self.state.wall_s = max([self.state.wall_s, *(row.wall_s for row in rows)])
            keep_rows(metrics, sum(row.step <= self.state.step for row in rows) if found else 0)
        self.accelerator.wait_for_everyone()

    def _note_processes(self) -> None:
        """Keeps on how many processes the training goes on, if that is another number than before."""
        now = {"count": self.accelerator.num_processes, "shard": self.parallel.shard}
        known = self.state.processes
        if not known or {**known[-1], **now} != known[-1]:
            self.state.processes = [*known, {"from_step": self.state.step, **now}]


def refuse_divergence(step: int, found: dict[str, float], lr: float) -> None:
    """Ends a training whose numbers have left the finite ones, before they reach weights or files.

    Raises:
        CellFailed: one of the numbers found at this step is infinite or not a number.
    """
    if not all(map(math.isfinite, found.values())):
        values = ", ".join(f"{name} {value:.4g}" for name, value in found.items())
        raise CellFailed(f"{DIVERGED} at step {step}: {values}; lower train.lr (now {lr:g})")
