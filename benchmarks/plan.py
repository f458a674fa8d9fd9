"""Planned against measured peak memory of trainings on a CPU.

    python benchmarks/plan.py [--only NAME,…] [--json]

Made-up models of 25 to 90 million parameters, random weights and rows, the real loop: two steps are taken
and their highest resident memory is read; then a checkpoint and the student are written, and the highest of
all is read. Each cell is a fork of a process that has loaded torch and transformers: its resident memory
before the models are made is the baseline and is subtracted, for a plan does not know of it. With
``MALLOC_MMAP_THRESHOLD_=262144`` in the environment glibc returns large tensors at once; without, it keeps
some.
"""

import argparse
import gc
import json
import multiprocessing
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, OPTConfig, Qwen2Config
from transformers.utils import logging

from kdbench.harness.plan.hardware import Machine
from kdbench.harness.plan.memory import Job, Lengths, moments, resident, sampling, total
from kdbench.harness.plan.shapes import shape_of
from kdbench.harness.plan.work import work_of
from kdbench.harness.registry import find_method
from kdbench.trainers.models import Vocabulary
from kdbench.trainers.optim import Recipe

sys.path.insert(0, str(Path(__file__).parent))
from made import random_rows, training
from turns import status_mb

LOW, HIGH = 0.8, 1.25
PROMPT, RESPONSE, ROWS, BATCH = 64, 64, 32, 16
MODELS: dict[str, Any] = {
    "llama": LlamaConfig(
        vocab_size=32000, hidden_size=512, intermediate_size=1536, num_hidden_layers=8,
        num_attention_heads=8, num_key_value_heads=4, max_position_embeddings=512,
    ),
    "llama-large": LlamaConfig(
        vocab_size=32000, hidden_size=768, intermediate_size=2048, num_hidden_layers=8,
        num_attention_heads=12, max_position_embeddings=512,
    ),
    "gpt2": GPT2Config(n_embd=384, n_layer=8, n_head=6, n_positions=512),
    "gpt2-deep": GPT2Config(n_embd=384, n_layer=16, n_head=6, n_positions=512),
    "qwen2": Qwen2Config(
        vocab_size=60000, hidden_size=384, intermediate_size=1536, num_hidden_layers=8,
        num_attention_heads=6, num_key_value_heads=2, max_position_embeddings=512,
        tie_word_embeddings=True,
    ),
    "opt": OPTConfig(
        hidden_size=512, ffn_dim=2048, num_hidden_layers=8, num_attention_heads=8,
        word_embed_proj_dim=512, max_position_embeddings=512,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One training."""

    method: str
    student: str
    micro: int
    teacher: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    precision: str = "fp32"
    dropout: bool = False

    @property
    def name(self) -> str:
        """Method, student, tokens of a micro-batch, and what is unusual."""
        extra = "" if self.precision == "fp32" else f"-{self.precision}"
        return f"{self.method}-{self.student}-{self.micro}{extra}{'-dropout' * self.dropout}"


CELLS = (
    Cell("sft", "llama", 512),
    Cell("sft", "llama", 2048),
    Cell("fkd", "llama", 1024, "llama-large"),
    Cell("jsd", "gpt2", 512, "gpt2-deep"),
    Cell("sft", "gpt2", 2048, dropout=True),
    Cell("rkd", "qwen2", 2048, "qwen2"),
    Cell("sft", "opt", 2048),
    Cell("fkd", "opt", 1024, "opt", precision="bf16"),
    Cell("dpkd", "llama", 1024, "llama-large", {"lm_coef": 0.0}),
    Cell("minillm", "qwen2", 1024, "qwen2", {"lm_coef": 0.0, "ppo": {"rollouts": 16}}),
)


def forget_peak() -> None:
    """Lets the kernel's high-water mark start again."""
    Path("/proc/self/clear_refs").write_text("5")


def wake() -> None:
    """Touches what libraries set up at their first product and first step: the baseline has it, too."""
    layer = torch.nn.Linear(256, 256)
    optimizer = torch.optim.AdamW(layer.parameters(), fused=True)
    layer(torch.randn(512, 256)).square().sum().backward()
    optimizer.step()


def recipe_of(cell: Cell) -> Recipe:
    return Recipe.model_validate(
        {
            "steps": 3,
            "batch_size": BATCH,
            "lr": 1e-4,
            "max_length": PROMPT + RESPONSE,
            "max_prompt": PROMPT,
            "micro_tokens": cell.micro,
            "dropout": cell.dropout,
            "precision": cell.precision,
            "sample_precision": cell.precision,
            "select": "last",
            "eval_every": 0,
            "save_every": 1_000,
        }
    )


def measure(cell: Cell) -> dict[str, float]:
    """Highest memory of the steps, and of all of the training, above the baseline; MiB."""
    torch.manual_seed(0)
    wake()
    gc.collect()
    base = status_mb("VmRSS")
    forget_peak()
    kinds = {"bf16": torch.bfloat16, "fp32": torch.float32}
    student = AutoModelForCausalLM.from_config(MODELS[cell.student], dtype=torch.float32).eval()
    teacher = None
    if cell.teacher:
        dtype = kinds[cell.precision]
        teacher = AutoModelForCausalLM.from_config(MODELS[cell.teacher], dtype=dtype).eval()
        teacher.requires_grad_(False)
    vocab = student.config.vocab_size
    method = find_method(cell.method).method
    with training(
        recipe=recipe_of(cell),
        method=method(method.Config.model_validate(cell.options)),
        student=student,
        teacher=teacher,
        vocabulary=Vocabulary(vocab, (2,), 2),
        train=random_rows(ROWS, PROMPT, RESPONSE, vocab),
        accelerator=Accelerator(
            cpu=True, mixed_precision="bf16" if cell.precision == "bf16" else "no"
        ),
    ) as loop:
        del student, teacher
        loop._step()
        loop._step()  # the first had no moments of the optimiser yet
        steps = status_mb("VmHWM") - base
        loop.checkpoints.save(2, {"loop": {}}, best=0)
        loop.checkpoints.export(loop.student, None)
    return {"base": base, "steps": steps, "whole": status_mb("VmHWM") - base}


def planned(cell: Cell) -> dict[str, Any]:
    """The same by arithmetic, MiB."""
    shapes = {
        name: shape_of(MODELS[name].to_dict(), name)
        for name in (cell.student, cell.teacher)
        if name
    }
    recipe = recipe_of(cell)
    job = Job(
        student=shapes[cell.student],
        teacher=shapes.get(cell.teacher),
        recipe=recipe,
        work=work_of(cell.method, cell.options),
        lengths=Lengths(prompt=PROMPT, response=RESPONSE, text=0),
        decode_rows=BATCH,
        machine=Machine(name="cpu", memory_gb=0, cpu=True, amx=torch.cpu._is_amx_tile_supported()),
    )
    found = {name: total(parts) for name, parts in moments(job).items()}
    if job.work.sampled or job.work.taught:
        drawn = sampling(job, longest=recipe.max_length, teacher=job.work.mixed)
        found["sampling"] = total({**resident(job), **drawn})
    steps = {k: v for k, v in found.items() if k not in ("checkpoint", "loading")}
    return {
        "steps": max(steps.values()) / 2**20,
        "moment": max(steps, key=lambda k: steps[k]),
        "whole": max(v for k, v in found.items() if k != "loading") / 2**20,
    }


def child(cell: Cell, pipe: Any) -> None:
    pipe.send(measure(cell))


def main() -> None:
    """Measures every cell and prints planned over measured."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="names of cells, comma-separated")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    wanted = set(filter(None, options.only.split(",")))
    fork = multiprocessing.get_context("fork")
    found = []
    for cell in CELLS:
        if wanted and cell.name not in wanted:
            continue
        ours, theirs = fork.Pipe(duplex=False)
        process = fork.Process(target=child, args=(cell, theirs))
        process.start()
        theirs.close()
        try:
            got = ours.recv()
        except EOFError:
            raise SystemExit(f"{cell.name} failed") from None
        process.join()
        plan = planned(cell)
        ratio = {key: plan[key] / got[key] for key in ("steps", "whole")}
        found.append({"cell": cell.name, "planned": plan, "measured": got, "ratio": ratio})
        print(
            f"{cell.name:26s} steps {plan['steps']:6.0f} / {got['steps']:6.0f} MiB = {ratio['steps']:.2f}"
            f"   with checkpoint {plan['whole']:6.0f} / {got['whole']:6.0f} = {ratio['whole']:.2f}"
            f"   (baseline {got['base']:.0f}; {plan['moment']})",
            flush=True,
        )
    inside = sum(all(LOW <= r <= HIGH for r in each["ratio"].values()) for each in found)
    print(f"{inside} of {len(found)} within {LOW} to {HIGH}")
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
