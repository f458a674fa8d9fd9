"""Planned against measured peak memory of trainings on a CPU.

    python benchmarks/plan.py [--only NAME,…] [--json]

Made-up models of 17 to 105 million parameters, random weights and rows, the real loop: the highest
resident memory is read after two steps; then a checkpoint is written, a third step taken, the student
exported, and the highest of all is read. What is resident before the models are made is the baseline and is
subtracted, for a plan does not know of it. Each process is a fork of one that has loaded torch and
transformers. Of two the first is measured; they read their models from folders, as a run does. With
``MALLOC_MMAP_THRESHOLD_=262144`` in the environment glibc returns large tensors at once; without, it keeps
some.
"""

import argparse
import gc
import json
import multiprocessing
import os
import socket
import sys
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, OPTConfig, Qwen2Config
from transformers.utils import logging

from kdbench.harness.config import TrainConfig
from kdbench.harness.plan.hardware import CPU, scaling_of
from kdbench.harness.plan.job import Job, Lengths, total
from kdbench.harness.plan.memory import everything
from kdbench.harness.plan.shapes import shape_of
from kdbench.harness.plan.work import work_of
from kdbench.harness.registry import find_method
from kdbench.harness.runner.planned import planned_mb
from kdbench.trainers.models import Vocabulary, load_model
from kdbench.trainers.parallel.loading import Unread, find_unread
from kdbench.trainers.parallel.settings import Parallel

sys.path.insert(0, str(Path(__file__).parent))
from made import random_rows, training
from turns import status_mb

FORK = multiprocessing.get_context("fork")
LOW, HIGH = 0.8, 1.25
FILES = ("loading", "writing", "writing beside training")
"""Moments that are none of a step."""
LENGTH, ROWS, BATCH = 64, 32, 16
MODELS: dict[str, Any] = {
    "llama": LlamaConfig(
        vocab_size=32000, hidden_size=512, intermediate_size=1536, num_hidden_layers=8,
        num_attention_heads=8, num_key_value_heads=4, max_position_embeddings=512,
    ),
    "llama-large": LlamaConfig(
        vocab_size=32000, hidden_size=768, intermediate_size=2048, num_hidden_layers=8,
        num_attention_heads=12, max_position_embeddings=512,
    ),
    "llama-small": LlamaConfig(
        vocab_size=8000, hidden_size=384, intermediate_size=1024, num_hidden_layers=6,
        num_attention_heads=6, max_position_embeddings=512,
    ),
    "llama-middle": LlamaConfig(
        vocab_size=8000, hidden_size=512, intermediate_size=1408, num_hidden_layers=8,
        num_attention_heads=8, max_position_embeddings=512,
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
    batch: int = BATCH
    length: int = LENGTH
    processes: int = 1
    parallel: Parallel = field(default_factory=Parallel)

    @property
    def name(self) -> str:
        """Method, student, tokens of a micro-batch, and what is unusual."""
        asked, unusual = self.parallel, [f"{self.method}-{self.student}-{self.micro}"]
        unusual += [self.precision] * (self.precision != "fp32")
        unusual += ["dropout"] * self.dropout
        unusual += [f"{self.processes}×{asked.shard}"] * (self.processes > 1)
        unusual += [f"teacher {asked.teacher}"] * (self.processes > 1 and bool(self.teacher))
        unusual += ["again"] * asked.checkpoint_activations
        return ", ".join(unusual) if self.processes > 1 else "-".join(unusual)


PPO = {"lm_coef": 0.0, "ppo": {"rollouts": 16}}
TWO: dict[str, Any] = {"batch": 4, "length": 16, "processes": 2}
FEW = {"lm_coef": 0.0, "ppo": {"rollouts": 4}}
STUDENT = Parallel(shard="fsdp2")
TEACHER = Parallel(teacher="sharded")
BOTH = Parallel(shard="fsdp2", teacher="sharded")
AGAIN = BOTH.model_copy(update={"checkpoint_activations": True})
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
    Cell("minillm", "qwen2", 1024, "qwen2", PPO),
    Cell("fkd", "llama-small", 64, "llama-middle", **TWO, parallel=AGAIN),
    Cell("sft", "llama-small", 32, **TWO, parallel=STUDENT),
    Cell("minillm", "llama-small", 64, "llama-middle", FEW, **TWO, parallel=AGAIN),
    Cell("fkd", "llama-small", 64, "llama-middle", **TWO, parallel=STUDENT),
    Cell("fkd", "llama-small", 32, "llama-middle", **TWO, parallel=BOTH),
    Cell("fkd", "llama-small", 64, "llama-middle", **TWO, parallel=TEACHER),
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


def recipe_of(cell: Cell) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "steps": 3,
            "batch_size": cell.batch,
            "lr": 1e-4,
            "max_length": 2 * cell.length,
            "max_prompt": cell.length,
            "micro_tokens": cell.micro,
            "dropout": cell.dropout,
            "precision": cell.precision,
            "sample_precision": cell.precision,
            "select": "last",
            "eval_every": 0,
            "save_every": 2,
        }
    )


def of_teacher(cell: Cell) -> torch.dtype:
    """The precision that a teacher is loaded in."""
    return torch.bfloat16 if cell.precision == "bf16" else torch.float32


def made_models(cell: Cell) -> tuple[list[Any], list[Unread]]:
    """Student and teacher with random weights."""
    models = []
    for name, dtype in ((cell.student, torch.float32), (cell.teacher, of_teacher(cell))):
        model = name and AutoModelForCausalLM.from_config(MODELS[name], dtype=dtype).eval()
        models.append(model or None)
    return models, []


def read_models(cell: Cell, folder: Path) -> tuple[list[Any], list[Unread]]:
    """Both from folders, as `kdbench.harness.runner.training` reads them: what is shared by shares."""
    models, unread = [], []
    for name, dtype, shared in (
        (cell.student, torch.float32, cell.parallel.shard == "fsdp2"),
        (cell.teacher, of_teacher(cell), cell.parallel.teacher == "sharded"),
    ):
        found = find_unread(str(folder / name), dtype=dtype) if name and shared else None
        unread += [found] if found else []
        whole = load_model(str(folder / name), dtype=dtype) if name and not found else None
        models.append(found.model if found else whole)
    return models, unread


def write_models(names: set[str], folder: Path) -> None:
    torch.manual_seed(0)
    for name in names:
        AutoModelForCausalLM.from_config(MODELS[name]).save_pretrained(folder / name)


def measure(cell: Cell, folder: Path) -> dict[str, float]:
    """Highest memory of the steps, and of all of the training, above the baseline; MiB.

    Also what a manifest would say: planned and highest memory of the process, the baseline included.
    """
    torch.manual_seed(0)
    wake()
    half = "bf16" if cell.precision == "bf16" else "no"
    accelerator = Accelerator(cpu=True, mixed_precision=half)
    gc.collect()
    base = status_mb("VmRSS")
    forget_peak()
    models, unread = read_models(cell, folder) if cell.processes > 1 else made_models(cell)
    student, teacher = models
    if teacher is not None:
        teacher.requires_grad_(False)
    vocab = student.config.vocab_size
    method = find_method(cell.method).method
    with training(
        recipe=recipe_of(cell),
        method=method(method.Config.model_validate(cell.options)),
        student=student,
        teacher=teacher,
        unread=unread,
        vocabulary=Vocabulary(vocab, (2,), 2),
        train=random_rows(ROWS, cell.length, cell.length, vocab),
        accelerator=accelerator,
        parallel=cell.parallel,
    ) as loop:
        del models, unread, student, teacher
        said = planned_mb(loop, recipe_of(cell), cell.batch, base)
        steps: list[float] = []
        loop.show = lambda state, row: steps.append(status_mb("VmHWM") - base)
        loop.run()
        highest = status_mb("VmHWM")
        accelerator.wait_for_everyone()
    return {
        "base": base,
        "steps": steps[1] if steps else 0.0,  # the first had no moments of the optimiser yet
        "whole": highest - base,
        "manifest": said,
        "peak": highest,
    }


def planned(cell: Cell) -> dict[str, Any]:
    """The same by arithmetic, MiB."""
    shapes = {
        name: shape_of(MODELS[name].to_dict(), name)
        for name in (cell.student, cell.teacher)
        if name
    }
    recipe = recipe_of(cell)
    amx = torch.cpu._is_amx_tile_supported()
    job = Job(
        student=shapes[cell.student],
        teacher=shapes.get(cell.teacher),
        recipe=recipe,
        work=work_of(cell.method, cell.options),
        lengths=Lengths(prompt=cell.length, response=cell.length, text=0),
        decode_rows=cell.batch,
        machine=replace(CPU, count=cell.processes, amx=amx),
        scaling=scaling_of(cell.parallel),
    )
    parts = everything(job)
    found = {name: total(each) / 2**20 for name, each in parts.items()}
    steps = {k: v for k, v in found.items() if k not in FILES}
    moment = max(steps, key=lambda k: steps[k])
    return {
        "steps": steps[moment],
        "moment": moment,
        "parts": {name: round(size / 2**20) for name, size in parts[moment].items() if size},
        "whole": max(v for k, v in found.items() if k != "loading"),
    }


def child(cell: Cell, folder: Path, place: dict[str, str], pipe: Any) -> None:
    """One process of a cell; the first says what it measured."""
    os.environ |= place
    got = measure(cell, folder)
    if place.get("RANK", "0") == "0":
        pipe.send(got)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def places(count: int) -> list[dict[str, str]]:
    """What a launcher tells each process of where it stands; one alone is told nothing."""
    if count == 1:
        return [{}]
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    alike = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    alike |= {"ACCELERATE_USE_CPU": "true"}
    return [{**alike, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]


def measured(cell: Cell, folder: Path) -> dict[str, float]:
    """`measure` in forks of this process."""
    ours, theirs = FORK.Pipe(duplex=False)
    each = [
        FORK.Process(target=child, args=(cell, folder, place, theirs))
        for place in places(cell.processes)
    ]
    for process in each:
        process.start()
    theirs.close()
    try:
        got: dict[str, float] = ours.recv()
    except EOFError:
        raise SystemExit(f"{cell.name} failed") from None
    for process in each:
        process.join()
    return got


def main() -> None:
    """Measures every cell and prints planned over measured."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="beginnings of cells' names, semicolons between")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    wanted = tuple(filter(None, options.only.split(";")))
    cells = [cell for cell in CELLS if not wanted or cell.name.startswith(wanted)]
    found = []
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        names = {n for c in cells if c.processes > 1 for n in (c.student, c.teacher) if n}
        # not here: what it leaves would be the children's
        writer = FORK.Process(target=write_models, args=(names, folder))
        writer.start()
        writer.join()
        for cell in cells:
            found.append(compared(cell, measured(cell, folder)))
    inside = sum(all(LOW <= r <= HIGH for r in each["ratio"].values()) for each in found)
    print(f"{inside} of {len(found)} within {LOW} to {HIGH}")
    if options.json:
        print(json.dumps(found))


def compared(cell: Cell, got: dict[str, float]) -> dict[str, Any]:
    """A cell's numbers, which are printed, too."""
    plan = planned(cell)
    ratio = {key: plan[key] / got[key] for key in ("steps", "whole")}
    print(
        f"{cell.name:46s} steps {plan['steps']:6.0f} / {got['steps']:6.0f} MiB = {ratio['steps']:.2f}"
        f"   with checkpoint {plan['whole']:6.0f} / {got['whole']:6.0f} = {ratio['whole']:.2f}"
        f"   manifest {got['manifest']:6.0f} / {got['peak']:6.0f} = {got['manifest'] / got['peak']:.2f}"
        f"   (baseline {got['base']:.0f}; {plan['moment']})",
        flush=True,
    )
    return {"cell": cell.name, "planned": plan, "measured": got, "ratio": ratio}


if __name__ == "__main__":
    main()
