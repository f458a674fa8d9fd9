"""The only optimisation loop: every method trains here.

What it owns: micro-batches, ranks, the division by global counts, mixed precision, clipping, the
schedule, evaluation and model selection, ``metrics.jsonl``, checkpoints and exact resume.

On disk, in the folder it is given::

    metrics.jsonl               TrainRow, one a logged step
    checkpoints/step-<n>/       newest resumable state
    checkpoints/best-<n>/       weights of the best evaluation so far
    student/                    the selected student, an ordinary Hugging Face folder; written last
"""

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, broadcast_object_list
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kdbench.harness.errors import CellFailed, InputError
from kdbench.harness.files.records import TrainRow
from kdbench.harness.files.store import append_rows, keep_rows, read_records
from kdbench.trainers.batching import Piece, learning_rate, pieces
from kdbench.trainers.method import Context, Method
from kdbench.trainers.micro_batch import StudentModule, TeacherSide, extra_modules, frozen_copy
from kdbench.trainers.packing import Layout
from kdbench.trainers.snapshots import Snapshots

SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)
Evaluator = Callable[[PreTrainedModel, int], dict[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopSettings:
    """What the loop needs of the run's configuration.

    Args:
        steps: budget of optimiser steps, or None.
        response_tokens: budget of trained response tokens, or None. Training stops after the step
            that first reaches one of the budgets.
        lr, warmup_steps, schedule, lr_floor: see :func:`kdbench.trainers.batching.learning_rate`.
        betas, weight_decay: AdamW; norms and biases do not decay.
        clip: gradient norm limit (0: none).
        micro_tokens: tokens of a micro-batch.
        dropout: whether the student trains with dropout.
        eval_every, save_every: in optimiser steps; evaluation also first and last.
        select: metric that picks the student, "max:dev_rouge_l", "min:dev_loss" or "last".
        seed: seeds dropout.
    """

    steps: int | None
    response_tokens: int | None = None
    lr: float
    warmup_steps: int = 0
    schedule: str = "cosine"
    lr_floor: float = 1e-7
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    clip: float = 1.0
    micro_tokens: int = 4096
    dropout: bool = False
    eval_every: int = 0
    save_every: int = 50
    select: str = "max:dev_rouge_l"
    seed: int = 0


@dataclass(slots=True)
class State:
    """Where training stands; everything here is checkpointed."""

    step: int = 0
    response_tokens: int = 0
    tokens: dict[str, int] = field(default_factory=dict)
    wall_s: float = 0.0
    best: float | None = None
    best_step: int = 0
    evaluations: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Trained:
    """What training gave: evaluations by step, the selected step, tokens by kind, seconds."""

    student: Path
    evaluations: dict[int, dict[str, float]]
    best_step: int
    steps: int
    tokens: dict[str, int]
    wall_s: float


class Loop:
    """One training; call :meth:`run`.

    Args:
        method: what to train on and what to minimise.
        ctx: data and services for the method.
        student: model to train, float32 weights.
        teacher: frozen teacher with its head, or None.
        layout: how sequences become rows.
        evaluator: development-set metrics of a model; None evaluates nothing.
        out: folder described in the module docstring.
        accelerator: device, mixed precision and ranks.
        progress: called as ``progress(state, row)`` after each step.

    Raises:
        InputError: the accelerator may shard models.
    """

    def __init__(
        self,
        settings: LoopSettings,
        *,
        method: Method,
        ctx: Context,
        student: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None,
        teacher: TeacherSide | None,
        layout: Layout,
        evaluator: Evaluator | None,
        out: Path,
        accelerator: Accelerator,
        progress: Callable[[State, TrainRow], None] | None = None,
    ) -> None:
        if accelerator.distributed_type in SHARDED:
            raise InputError(
                f"training cannot run under {accelerator.distributed_type.value}: evaluation and "
                "sampling need the whole student in one process; use plain data parallelism "
                "(accelerate launch --multi_gpu) or one GPU"
            )
        self.settings = settings
        self.method = method
        self.ctx = ctx
        self.student = student
        self.tokenizer = tokenizer
        self.layout = layout
        self.evaluator = evaluator
        self.out = out
        self.accelerator = accelerator
        self.progress = progress
        self.state = State()
        extra = extra_modules(method, student, teacher, settings.seed)
        ctx.copy_student = partial(frozen_copy, student, ctx.vocab)
        module = StudentModule(student, ctx.vocab, teacher, extra, layout.tile)
        optimizer = torch.optim.AdamW(
            parameter_groups(module, settings.weight_decay),
            lr=settings.lr,
            betas=settings.betas,
            fused=True,
        )
        self.module, self.optimizer = accelerator.prepare(module, optimizer)
        self.snapshots = Snapshots(accelerator, self.module, self.optimizer, out)

    def run(self) -> Trained:
        """Trains from the newest checkpoint to the end of the budget and writes ``student/``."""
        self._resume()
        if self.state.step == 0 and "0" not in self.state.evaluations:
            self._evaluate(None)
        while not self._finished():
            self._step()
        return Trained(
            self._write_student(),
            {int(k): v for k, v in self.state.evaluations.items()},
            self.state.best_step,
            self.state.step,
            dict(self.state.tokens),
            self.state.wall_s,
        )

    # -- one step ------------------------------------------------------------------------------

    def _step(self) -> None:
        began = time.perf_counter()
        state, settings, ctx = self.state, self.settings, self.ctx
        step = state.step
        ctx.progress = self._progress()
        seed_dropout(settings.seed, step, self.accelerator.process_index)
        self.module.eval()
        window = self.method.window(ctx, step)
        self.module.train(settings.dropout)
        rate = learning_rate(
            step,
            ctx.progress,
            peak=settings.lr,
            warmup_steps=settings.warmup_steps,
            schedule=settings.schedule,
            floor=settings.lr_floor,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        terms = self._gradients(
            pieces(
                window,
                micro_tokens=settings.micro_tokens,
                rank=self.accelerator.process_index,
                world=self.accelerator.num_processes,
            )
        )
        clipped = self.accelerator.clip_grad_norm_(
            self.module.parameters(), settings.clip if settings.clip > 0 else float("inf")
        )
        norm = {} if clipped is None else {"gradient norm": float(clipped)}
        refuse_divergence(step + 1, {"loss": terms["total"], **norm}, settings.lr)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        state.step += 1
        self._count(window)
        self.method.after_step(ctx, step, terms)
        state.wall_s += time.perf_counter() - began
        row = TrainRow(
            step=state.step,
            loss=terms.pop("total"),
            terms=terms,
            grad_norm=norm.get("gradient norm"),
            lr=rate,
            tokens=dict(state.tokens),
            wall_s=state.wall_s,
        )
        self._after(row)

    def _gradients(self, mine: list[Piece]) -> dict[str, float]:
        """Backward of every micro-batch; returns the logged means of the global window."""
        sums: dict[str, torch.Tensor] = {}
        taught = 0
        for i, piece in enumerate(mine):
            last = i == len(mine) - 1
            sync = nullcontext() if last else self.accelerator.no_sync(self.module)
            with sync:
                with self.accelerator.autocast():
                    loss, logged, asked = self.module(
                        self.layout(piece.sequences),
                        partial(self.method.loss, self.ctx, piece.stream),
                    )
                scaled = loss * piece.scale
                self.accelerator.backward(scaled)
            if not piece.scale:
                continue
            taught += asked
            for name, value in logged.items():
                key = piece.stream.name + ("" if name == "loss" else f"/{name}")
                value = value * (piece.scale / piece.stream.weight)
                sums[key] = sums[key] + value if key in sums else value
            total = scaled.detach().to(torch.float64)
            sums["total"] = sums["total"] + total if "total" in sums else total
        return self._reduced(sums, taught)

    def _reduced(self, sums: dict[str, torch.Tensor], taught: int) -> dict[str, float]:
        """Means over ranks; the teacher's tokens are added up and booked."""
        world = self.accelerator.num_processes
        gathered: list[Any] = [({k: float(v) for k, v in sums.items()}, taught)]
        if world > 1:
            gathered *= world
            torch.distributed.all_gather_object(gathered, gathered[0])
        if total := sum(count for _, count in gathered):
            self.ctx.meter["teacher"] += total
        parts = [part for part, _ in gathered]
        names = dict.fromkeys(name for part in parts for name in part)
        return {n: sum(part.get(n, 0.0) for part in parts) / world for n in names}

    def _count(self, window: tuple[Any, ...]) -> None:
        tokens = self.state.tokens
        for stream in window:
            kind = "text" if stream.name == "text" else "response"
            targets = sum(s.targets for g in stream.groups for s in g)
            tokens[kind] = tokens.get(kind, 0) + targets
            self.ctx.meter["student"] += sum(len(s) for g in stream.groups for s in g)
        self.state.response_tokens = tokens.get("response", 0)
        tokens.update(self.ctx.meter)

    def _progress(self) -> float:
        """Fraction used of the budget that will end the training, as far as can be told now."""
        state, settings = self.state, self.settings
        pairs = (state.step, settings.steps), (state.response_tokens, settings.response_tokens)
        return max(used / budget for used, budget in pairs if budget)

    def _finished(self) -> bool:
        return self._progress() >= 1.0

    # -- after a step --------------------------------------------------------------------------

    def _after(self, row: TrainRow) -> None:
        settings, state = self.settings, self.state
        done = self._finished()
        if done or (settings.eval_every and state.step % settings.eval_every == 0):
            row = row.model_copy(update={"evaluation": self._evaluate(row)})
        if self.accelerator.is_main_process:
            append_rows(self.out / "metrics.jsonl", [row])
            if self.progress:
                self.progress(state, row)
        if done or state.step % settings.save_every == 0:
            self._save()

    def _evaluate(self, row: TrainRow | None) -> dict[str, float]:
        if self.evaluator is None:
            return {}
        self.module.eval()
        found: list[Any] = [None]
        if self.accelerator.is_main_process:
            found = [self.evaluator(self.student, self.state.step)]
        broadcast_object_list(found)
        metrics: dict[str, float] = found[0]
        refuse_divergence(self.state.step, metrics, self.settings.lr)
        self.state.evaluations[str(self.state.step)] = metrics
        self._select(metrics)
        self.method.on_evaluation(self.ctx, metrics)
        if row is None and self.accelerator.is_main_process:
            append_rows(
                self.out / "metrics.jsonl",
                [TrainRow(step=0, loss=metrics.get("dev_loss", 0.0), evaluation=metrics)],
            )
        return metrics

    def _select(self, metrics: dict[str, float]) -> None:
        """Keeps the weights if they are the best so far; step 0 does not compete."""
        if self.settings.select == "last" or not self.state.step:
            return
        sense, _, name = self.settings.select.partition(":")
        value = metrics[name] if sense == "max" else -metrics[name]
        if self.state.best is not None and value <= self.state.best:
            return
        self.state.best, self.state.best_step = value, self.state.step
        self.snapshots.save_best(self.state.step)

    # -- checkpoints ---------------------------------------------------------------------------

    def _save(self) -> None:
        state = {
            "loop": {name: getattr(self.state, name) for name in State.__slots__},
            "method": self.method.state_dict(),
            "meter": dict(self.ctx.meter),
        }
        self.snapshots.save(self.state.step, state)
        self.snapshots.drop_best(but=self.state.best_step)

    def _resume(self) -> None:
        found = self.snapshots.resume()
        step = 0
        if found is not None:
            step, state = found
            for name, value in state["loop"].items():
                setattr(self.state, name, value)
            self.ctx.meter.clear()
            self.ctx.meter.update(state["meter"])
            self.method.load_state_dict(state["method"])
        metrics = self.out / "metrics.jsonl"
        if self.accelerator.is_main_process and metrics.exists():
            rows = read_records(metrics, TrainRow)
            keep_rows(metrics, sum(row.step <= step for row in rows) if found else 0)
        self.accelerator.wait_for_everyone()

    def _write_student(self) -> Path:
        if self.state.best is None:  # "last", or nothing was evaluated
            self.state.best_step = self.state.step
        else:
            self.snapshots.load_best(self.state.best_step)
        return self.snapshots.export(self.student, self.tokenizer)


def refuse_divergence(step: int, found: dict[str, float], lr: float) -> None:
    """Ends a training whose numbers have left the finite ones, before they reach weights or files.

    Raises:
        CellFailed: one of the numbers found at this step is infinite or not a number.
    """
    if not all(map(math.isfinite, found.values())):
        values = ", ".join(f"{name} {value:.4g}" for name, value in found.items())
        raise CellFailed(f"training diverged at step {step}: {values}; lower train.lr (now {lr:g})")


def parameter_groups(module: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """AdamW groups: matrices decay, vectors (norms, biases) do not."""
    decayed = [p for p in module.parameters() if p.requires_grad and p.ndim > 1]
    plain = [p for p in module.parameters() if p.requires_grad and p.ndim <= 1]
    groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": weight_decay}]
    if plain:
        groups.append({"params": plain, "weight_decay": 0.0})
    return groups


def seed_dropout(seed: int, step: int, rank: int) -> None:
    """Makes dropout a function of (seed, step, rank), so that no generator state needs saving."""
    torch.manual_seed((seed * 1_000_003 + step) * 1_009 + rank)
