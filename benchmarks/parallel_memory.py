"""Memory of a process when students and teachers are shared among 1, 2 and 4 of them.

    python benchmarks/parallel_memory.py [--width 512] [--layers 8] [--vocab 16000] [--whole]

Trains a random Llama by forward KD from one twice as wide, both read from folders, some steps on random
rows, exports it, and prints for each number of processes what the first one holds: bytes of weights and of
optimiser state (counted), its resident memory after the last step, and the highest until models were read
and shared, tried in first passes, after the steps, after the export and after a checkpoint, less what it
had before models were read (measured); and for how many of the seconds that a checkpoint takes training
waits. With --whole every process reads models whole, as before they were read by shares.
"""

import argparse
import ctypes
import gc
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from made import training
from turns import peak_mb, status_mb

MIB = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--vocab", type=int, default=16000)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker:
        work(asked)
        return
    print(
        "processes | weights MiB | Adam MiB | teacher MiB | resident MiB | highest MiB: read | "
        "tried | training | export | checkpoint | training waits for it, s",
        flush=True,
    )
    options = [f"--{name}={getattr(asked, name)}" for name in ("width", "layers", "vocab", "steps")]
    with tempfile.TemporaryDirectory() as folder:
        make_models(asked, Path(folder))
        for count in asked.processes:
            launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
            command = [sys.executable, *launcher, __file__, f"--worker={folder}", *options]
            environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
            whole = ["--whole"] * asked.whole
            subprocess.run([*command, *whole], check=True, env=environment)


def make_models(asked: argparse.Namespace, folder: Path) -> None:
    """Student and teacher as folders."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    for name, width in (("student", asked.width), ("teacher", 2 * asked.width)):
        torch.manual_seed(width)
        config = LlamaConfig(
            vocab_size=asked.vocab,
            hidden_size=width,
            intermediate_size=3 * width,
            num_hidden_layers=asked.layers,
            num_attention_heads=8,
            num_key_value_heads=8,
        )
        AutoModelForCausalLM.from_config(config).save_pretrained(folder / name)


def work(asked: argparse.Namespace) -> None:
    import torch
    from accelerate import Accelerator

    from kdbench.trainers.methods.fkd import ForwardKD
    from kdbench.trainers.models import Vocabulary, load_model
    from kdbench.trainers.optim import Recipe
    from kdbench.trainers.parallel import sharding
    from kdbench.trainers.parallel.loading import Unread, find_unread
    from kdbench.trainers.parallel.settings import Parallel
    from kdbench.trainers.types import Sequence

    draw = torch.Generator().manual_seed(0)
    ids = [torch.randint(2, asked.vocab, (96,), generator=draw).tolist() for _ in range(16)]
    rows = [Sequence(tuple(each[:32]), (*each[32:], 1), i) for i, each in enumerate(ids)]
    accelerator = Accelerator(cpu=True)
    shared = {"shard": "fsdp2", "teacher": "sharded", "checkpoint_activations": True}
    by_shares = accelerator.num_processes > 1 and not asked.whole
    peaks = [float("nan")]  # one process shares nothing
    read_shares = sharding.read_shares

    def measured(models: list[Unread]) -> None:
        read_shares(models)
        peaks[0] = peak_mb()

    sharding.read_shares = measured
    before = status_mb("VmRSS")
    places = [f"{asked.worker}/{name}" for name in ("student", "teacher")]
    empty = [find_unread(place, dtype=torch.float32) for place in places] if by_shares else []
    student, teacher = [each.model for each in empty] if by_shares else map(load_model, places)
    with training(
        recipe=Recipe(
            steps=asked.steps, batch_size=8, micro_tokens=256, eval_every=0, select="last",
            precision="fp32", sample_precision="fp32", teacher_memory_gb=0.0,
        ),
        method=ForwardKD(ForwardKD.Config()),
        student=student,
        teacher=teacher,
        unread=empty,
        vocabulary=Vocabulary(asked.vocab, (1,), 0),
        train=rows,
        accelerator=accelerator,
        parallel=Parallel.model_validate(shared),
    ) as loop:  # fmt: skip
        peaks.append(peak_mb())
        for _ in range(asked.steps - 1):  # the last would write a checkpoint
            loop._step()
        peaks.append(peak_mb())
        moments = [v for state in loop.optimizer.optimizer.state.values() for v in state.values()]
        held = [
            sum(map(local, each)) / MIB
            for each in (loop.module.parameters(), moments, loop.teacher.parameters())
        ]
        loop.optimizer.zero_grad(set_to_none=True)
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        now = status_mb("VmRSS")
        loop.checkpoints.export(loop.student, None)
        peaks.append(peak_mb())
        saving = [began := time.perf_counter()]
        loop.checkpoints.save(0, {}, best=0)
        saving.append(time.perf_counter())
        loop.checkpoints.settle()
        saving.append(time.perf_counter())
        numbers = [*held, *(each - before for each in (now, *peaks, peak_mb()))]
        if accelerator.is_main_process:
            cells = " | ".join(f"{number:.0f}" for number in numbers)
            waited, stood = (each - began for each in saving[1:])
            print(
                f"{accelerator.num_processes} | {cells} | {waited:.2f} of {stood:.2f}", flush=True
            )
        accelerator.wait_for_everyone()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def local(tensor: object) -> int:
    """Bytes of a tensor that lie in this process."""
    from torch.distributed.tensor import DTensor

    mine = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return mine.numel() * mine.element_size()


if __name__ == "__main__":
    main()
