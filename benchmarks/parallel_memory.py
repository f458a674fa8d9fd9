"""Memory of a process when students and teachers are shared among 1, 2 and 4 of them.

    python benchmarks/parallel_memory.py [--width 512] [--layers 8] [--vocab 16000]

Trains a random Llama by forward KD from one twice as wide, some steps on random rows, and prints for each
number of processes what the first one holds: bytes of weights and of optimiser state (counted), and its
resident memory after the last step and at its highest, less what it had before a model was made (measured).
"""

import argparse
import ctypes
import gc
import os
import subprocess
import sys
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
    parser.add_argument("--worker", action="store_true")
    asked = parser.parse_args()
    if asked.worker:
        work(asked)
        return
    print(
        "processes | weights MiB | Adam MiB | teacher MiB | resident MiB | highest MiB", flush=True
    )
    options = [f"--{name}={getattr(asked, name)}" for name in ("width", "layers", "vocab", "steps")]
    for count in (1, 2, 4):
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
        command = [sys.executable, *launcher, __file__, "--worker", *options]
        environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        subprocess.run(command, check=True, env=environment)


def work(asked: argparse.Namespace) -> None:
    import torch
    from accelerate import Accelerator
    from transformers import AutoModelForCausalLM, LlamaConfig

    from kdbench.trainers.methods.fkd import ForwardKD
    from kdbench.trainers.models import Vocabulary
    from kdbench.trainers.optim import Recipe
    from kdbench.trainers.parallel.settings import Parallel
    from kdbench.trainers.types import Sequence

    def model(width: int) -> torch.nn.Module:
        torch.manual_seed(width)
        heads = {"num_attention_heads": 8, "num_key_value_heads": 8}
        config = LlamaConfig(
            vocab_size=asked.vocab,
            hidden_size=width,
            intermediate_size=3 * width,
            num_hidden_layers=asked.layers,
            **heads,
        )
        return AutoModelForCausalLM.from_config(config).eval()

    draw = torch.Generator().manual_seed(0)
    ids = [torch.randint(2, asked.vocab, (96,), generator=draw).tolist() for _ in range(16)]
    rows = [Sequence(tuple(each[:32]), (*each[32:], 1), i) for i, each in enumerate(ids)]
    accelerator = Accelerator(cpu=True)
    shared = {"shard": "fsdp2", "teacher": "sharded", "checkpoint_activations": True}
    before = status_mb("VmRSS")
    with training(
        recipe=Recipe(
            steps=asked.steps, batch_size=8, micro_tokens=256, eval_every=0, select="last",
            precision="fp32", sample_precision="fp32", teacher_memory_gb=0.0,
        ),
        method=ForwardKD(ForwardKD.Config()),
        student=model(asked.width),
        teacher=model(2 * asked.width),
        vocabulary=Vocabulary(asked.vocab, (1,), 0),
        train=rows,
        accelerator=accelerator,
        parallel=Parallel.model_validate(shared),
    ) as loop:  # fmt: skip
        for _ in range(asked.steps - 1):  # the last would write a checkpoint
            loop._step()
        moments = [v for state in loop.optimizer.optimizer.state.values() for v in state.values()]
        held = [
            sum(map(local, each))
            for each in (loop.module.parameters(), moments, loop.teacher.parameters())
        ]
        loop.optimizer.zero_grad(set_to_none=True)
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        numbers = [each / MIB for each in held]
        numbers += [status_mb("VmRSS") - before, peak_mb() - before]
        if accelerator.is_main_process:
            cells = " | ".join(f"{number:.0f}" for number in numbers)
            print(f"{accelerator.num_processes} | {cells}", flush=True)
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
