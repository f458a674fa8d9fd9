"""Everything that wants a GPU, on one card, most often within ten minutes: one JSON file and one table.

    python benchmarks/gpu.py --out gpu.json            # on a machine with a GPU
    python benchmarks/gpu.py --tiny --out gpu.json     # rehearsed on a CPU: sizes that say nothing

Models have random weights of real sizes, so nothing is downloaded. Each part runs in a process of its own
and may fail by itself; the table then says why. Liger and vLLM are compared with where they are installed.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
)

from kdbench.harness.plan.hardware import CPU, of_memory
from kdbench.harness.plan.job import Job, Lengths, total
from kdbench.harness.plan.memory import moments
from kdbench.harness.plan.shapes import shape_of
from kdbench.harness.plan.work import work_of
from kdbench.harness.registry import find_method
from kdbench.trainers.batching import is_packable
from kdbench.trainers.devices import peak_memory_mb
from kdbench.trainers.head.head import Head
from kdbench.trainers.head.tiles import tiled_sum
from kdbench.trainers.models import Vocabulary
from kdbench.trainers.objectives import divergences
from kdbench.trainers.optim import Recipe
from kdbench.trainers.sampler import draw
from kdbench.trainers.sampler.choice import decoder_for
from kdbench.trainers.sampler.sampler import generate
from kdbench.trainers.types import Decoding, Prompt

sys.path.insert(0, str(Path(__file__).parent))
from made import qwen_config, random_rows, training

LIMIT = 120  # seconds of a part
LIMITS = {"vllm": 240}  # it compiles kernels and records graphs before its first answer
HALF = torch.bfloat16
Found = dict[str, Any]


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def sync() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(function: Callable[[], Any], *, times: int = 5) -> float:
    """The median of several calls after one that warms up."""
    function()
    taken = []
    for _ in range(times):
        sync()
        began = time.perf_counter()
        function()
        sync()
        taken.append(time.perf_counter() - began)
    return sorted(taken)[len(taken) // 2]


def made(config: PretrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """A model with random weights."""
    with device():
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def qwen(tiny: bool) -> PretrainedConfig:
    if tiny:
        return Qwen2Config(
            vocab_size=512,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
        )
    return qwen_config()


# -- parts ----------------------------------------------------------------------------------------


def agreement(tiny: bool) -> Found:
    """Fused noise, recorded steps and attention by sequence against what they stand for."""
    rows, vocab, on = 32, 512 if tiny else 151936, device()
    keys = draw.position_keys([draw.stream_key(1, key, 0) for key in range(rows)], 1, on)[:, 0]
    scores = torch.randn(rows, vocab, device=on)
    bits = draw.hash31(keys, draw.token_table(vocab, on))
    expected = (draw.gumbel(bits, torch.float32) + scores).argmax(-1)
    drawn = draw.GumbelArgmax(vocab, on)(scores, keys)
    config = LlamaConfig(
        vocab_size=512, hidden_size=128, num_hidden_layers=2, num_attention_heads=4
    )
    model = made(config, torch.float32)
    found: Found = {"tokens drawn that differ": int((drawn != expected).sum())}
    if draw.in_one_kernel(on):
        from kdbench.trainers.cuda.noise import noise_bits

        found["bits that differ"] = int((noise_bits(keys, vocab) != bits).sum())
    for precision in (torch.float32, HALF):
        one = decoder_for(model.to(precision), dtype=None, vocab=512, pad_id=0, longest=64)
        found[f"steps recorded, {precision}"] = one.graphs is not None
        model = made(config, precision)
    found["rows packed"] = is_packable(model, 512)
    return found


def noise(tiny: bool) -> Found:
    """One draw."""
    rows, vocab, on = 32, 512 if tiny else 151936, device()
    keys = draw.position_keys([draw.stream_key(1, key, 0) for key in range(rows)], 1, on)[:, 0]
    scores = torch.randn(rows, vocab, device=on)
    one = draw.GumbelArgmax(vocab, on)
    table = draw.token_table(vocab, on)

    def plainly() -> Tensor:
        return (draw.gumbel(draw.hash31(keys, table), torch.float32) + scores).argmax(-1)

    return {
        "microseconds": 1e6 * seconds(lambda: one(scores, keys), times=20),
        "microseconds by torch in one tile": 1e6 * seconds(plainly, times=20),
    }


def head(tiny: bool) -> Found:
    """Loss and gradients of the heads, ours beside Liger's."""
    n, width, vocab = (64, 32, 500) if tiny else (8192, 4096, 128_000)
    on = device()
    student, teacher = (torch.randn(n, width, device=on, dtype=HALF) for _ in range(2))
    weights = [torch.randn(vocab, width, device=on, dtype=HALF) / width**0.5 for _ in range(2)]
    student.requires_grad_()
    weights[0].requires_grad_()
    target = torch.randint(vocab, (n,), device=on)
    sides = [Head(weight, None, 1.0, None, vocab) for weight in weights]
    found: Found = {}
    objectives = {
        "forward_kl": divergences.forward_kl,
        "reverse_kl": divergences.reverse_kl,
        "generalised_jsd": partial(divergences.generalised_jsd, beta=0.5),
    }
    for name, each in objectives.items():

        def ours(objective: Any = each) -> None:
            loss, _ = tiled_sum(
                objective,
                student,
                sides[0],
                target,
                teacher_hidden_ND=teacher,
                teacher_head=sides[1],
            )
            loss.backward()

        _forget_peak()
        found[f"ms {name}"] = 1e3 * seconds(ours)
        found[f"MiB {name}"] = peak_memory_mb(on)
    if importlib.util.find_spec("liger_kernel") is None:
        return found | {"liger": "not installed (pip install liger-kernel)"}
    from liger_kernel.transformers import LigerFusedLinearJSD

    for beta, name in ((0.0, "forward_kl"), (1.0, "reverse_kl"), (0.5, "generalised_jsd")):
        other = LigerFusedLinearJSD(jsd_beta=beta, temperature=1.0)

        def peer(one: Any = other) -> None:
            one(student, weights[0], teacher, weights[1]).backward()

        _forget_peak()
        found[f"ms {name}, liger"] = 1e3 * seconds(peer)
        found[f"MiB {name}, liger"] = peak_memory_mb(on)
    return found


def step(tiny: bool) -> Found:
    """GPT-2 XL teaches GPT-2: forward-KD steps by our loop, and the memory planned for them."""
    small = {"n_embd": 64, "n_layer": 2, "n_head": 2, "vocab_size": 512}
    configs = [
        GPT2Config(**small) if tiny else GPT2Config(),
        GPT2Config(**small) if tiny else GPT2Config(n_embd=1600, n_layer=48, n_head=25),
    ]
    prompt, response, batch, steps = (8, 8, 4, 3) if tiny else (128, 128, 32, 8)
    on, gpu = device(), torch.cuda.is_available()
    recipe = Recipe(
        steps=steps,
        batch_size=batch,
        dropout=False,
        precision="bf16",
        sample_precision="bf16",
        max_prompt=prompt,
        max_length=prompt + response,
        select="last",
        teacher_memory_gb=0.0,
        save_every=10**9,
    )
    student, teacher = made(configs[0], torch.float32), made(configs[1], HALF)
    vocab = student.config.vocab_size
    rows = random_rows(batch * steps, prompt, response, vocab)
    method = find_method("fkd").method
    with training(
        recipe=recipe,
        method=method(method.Config()),
        student=student,
        teacher=teacher,
        vocabulary=Vocabulary(vocab, (2,), 2),
        train=rows,
        accelerator=Accelerator(cpu=not gpu, mixed_precision="bf16"),
    ) as loop:
        _forget_peak()
        taken = seconds(loop._step, times=steps - 2)
    used = peak_memory_mb(on)
    shapes = [shape_of(c.to_dict(), "gpt2") for c in configs]
    memory = torch.cuda.get_device_properties(on).total_memory / 2**30 if gpu else 0
    job = Job(
        student=shapes[0],
        teacher=shapes[1],
        recipe=recipe,
        work=work_of("fkd", {}),
        lengths=Lengths(prompt=prompt, response=response, text=0),
        decode_rows=batch,
        machine=of_memory(memory, 1) if gpu else CPU,
    )
    planned = max(total(parts) for parts in moments(job).values()) / 2**20
    tokens = batch * (prompt + response)
    bodies = [s.parameters - s.head for s in shapes]
    flops = tokens * (6 * bodies[0] + 2 * bodies[1])
    flops += batch * response * (6 * shapes[0].head + 2 * shapes[1].head)
    peak = matmul_peak(tiny)
    return {
        "tokens/s": tokens / taken,
        "seconds a step": taken,
        "TFLOP/s": flops / taken / 1e12,
        "share of the matmul peak": flops / taken / peak,
        "matmul peak, TFLOP/s": peak / 1e12,
        "MiB planned": planned,
        "MiB used": used if gpu else "of the process, libraries included: not compared",
        "planned over used": planned / used if gpu else "not measured",
    }


def matmul_peak(tiny: bool) -> float:
    """FLOP a second of a large product in half precision."""
    n = 256 if tiny else 8192
    a, b = (torch.randn(n, n, device=device(), dtype=HALF) for _ in range(2))
    return 2 * n**3 / seconds(lambda: a @ b, times=10)


class _Asked(NamedTuple):
    """A 1.5B model, what it is asked, and how many tokens each answer has."""

    model: PreTrainedModel
    prompts: list[Prompt]
    new: int

    @property
    def tokens(self) -> int:
        return len(self.prompts) * self.new


def _asked(tiny: bool) -> _Asked:
    config, new, rows = qwen(tiny), 16 if tiny else 256, 4 if tiny else 64
    model = made(config, torch.float32 if tiny else HALF)
    drawn = torch.randint(5, config.vocab_size, (rows, 8 if tiny else 128)).tolist()
    return _Asked(model, [Prompt(tuple(ids), key) for key, ids in enumerate(drawn)], new)


def sampler(tiny: bool) -> Found:
    """Answers of a 1.5B model: ours, with and without recorded steps."""
    asked = _asked(tiny)
    rows = len(asked.prompts)

    def ours() -> None:
        for _ in generate(
            asked.model, asked.prompts, Decoding(max_new_tokens=asked.new), eos_ids=frozenset(), pad_id=0,
            vocab=asked.model.config.vocab_size, batch_size=rows, chunk=rows,
        ):  # fmt: skip
            pass

    found: Found = {"tokens/s": asked.tokens / seconds(ours, times=2)}
    from kdbench.trainers.sampler import choice

    usual, choice._recording = choice._recording, lambda make, model, dtype, *_: make(dtype)
    found["tokens/s without graphs"] = asked.tokens / seconds(ours, times=1)
    choice._recording = usual
    return found


def vllm(tiny: bool) -> Found:
    """The same answers by vLLM, whose start may take longer than all others."""
    if importlib.util.find_spec("vllm") is None or not torch.cuda.is_available():
        return {"vllm": "not installed, or no GPU"}
    asked = _asked(tiny)
    with tempfile.TemporaryDirectory() as folder:
        asked.model.save_pretrained(folder)
        from vllm import LLM, SamplingParams

        engine = LLM(model=folder, skip_tokenizer_init=True, gpu_memory_utilization=0.5)
        rows = [{"prompt_token_ids": list(p.ids)} for p in asked.prompts]
        wanted = SamplingParams(max_tokens=asked.new, ignore_eos=True, detokenize=False)
        taken = seconds(lambda: engine.generate(rows, wanted, use_tqdm=False), times=2)
    return {"tokens/s": asked.tokens / taken}


def _forget_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


PARTS = {
    "agreement": agreement,
    "noise": noise,
    "head": head,
    "step": step,
    "sampler": sampler,
    "vllm": vllm,
}


# -- all of them ----------------------------------------------------------------------------------


def one_part(name: str, tiny: bool) -> Found:
    """A part in its own process; what it found, or why it found nothing."""
    command = [sys.executable, __file__, "--part", name, *["--tiny"] * tiny]
    limit = LIMITS.get(name, LIMIT)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"failed": f"took longer than {limit} s"}
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["no word"])[-1][:300]}
    found: Found = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="JSON file to write")
    parser.add_argument("--tiny", action="store_true", help="sizes for a rehearsal without a GPU")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, by comma")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        torch.manual_seed(0)
        print(json.dumps(PARTS[args.part](args.tiny)))
        return
    if not (torch.cuda.is_available() or args.tiny):
        raise SystemExit("there is no GPU here; --tiny rehearses the parts on a CPU")
    on = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU (a rehearsal)"
    found: Found = {"device": on, "torch": torch.__version__, "tiny": args.tiny}
    print(f"{on}, torch {torch.__version__}\n\n| part | what | value |\n|---|---|---|")
    for name in args.only.split(","):
        found[name] = one_part(name, args.tiny)
        for what, value in found[name].items():
            shown = f"{value:,.2f}" if isinstance(value, float) else value
            print(f"| {name} | {what} | {shown} |", flush=True)
        args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
