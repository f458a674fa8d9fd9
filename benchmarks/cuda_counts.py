"""What the CUDA paths launch, move and keep, counted on tensors without numbers; nothing is timed.

    python benchmarks/cuda_counts.py

Every operation that is no view and no allocation counts as one kernel (some are more); bytes are those of its
operands and results, caches of the hardware not considered. "Before" is what the same functions did with the
settings that a CPU has, which a GPU had, too.
"""

import argparse
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from kdbench.trainers.batching import pack
from kdbench.trainers.head import generic, tiles
from kdbench.trainers.head.head import Head
from kdbench.trainers.objectives import divergences
from kdbench.trainers.sampler import draw, sampler
from kdbench.trainers.sampler.llama import LlamaDecoder
from kdbench.trainers.types import Sequence

sys.path.insert(0, str(Path(__file__).parent))
from made import qwen_config

META = torch.device("meta")
CONFIGS = {
    "llama-13b": LlamaConfig(
        hidden_size=5120,
        intermediate_size=13824,
        num_hidden_layers=40,
        num_attention_heads=40,
        num_key_value_heads=40,
    ),
    "qwen2.5-1.5b": qwen_config(),
}
NO_KERNEL = ("empty", "detach", "lift", "alias", "new_empty", "_reshape_alias", "_unsafe_view")


class Counter(TorchDispatchMode):
    """Counts kernels and their bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels = self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        returned = func._schema.returns
        view = bool(returned) and all(
            r.alias_info is not None and not r.alias_info.is_write for r in returned
        )
        if not view and not func._schema.name.split("::")[1].startswith(NO_KERNEL):
            self.kernels += 1
            leaves = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, Tensor)]
            self.bytes += sum(t.numel() * t.element_size() for t in leaves)
        return out


def counted(function: Callable[[], Any]) -> Counter:
    """Kernels and bytes of a call."""
    with Counter() as counter, torch.no_grad():
        function()
    return counter


@contextmanager
def setting(place: Any, **values: Any) -> Iterator[None]:
    """Other values of a module's names for a while."""
    usual = {name: getattr(place, name) for name in values}
    for name, value in values.items():
        setattr(place, name, value)
    try:
        yield
    finally:
        for name, value in usual.items():
            setattr(place, name, value)


def row(what: str, before: str, after: str) -> None:
    print(f"| {what} | {before} | {after} |", flush=True)


def gib(size: float) -> str:
    return f"{size / 1e9:.1f} GB"


def noise(rows: int, vocab: int) -> None:
    """A draw of one token a row."""
    scores = torch.empty(rows, vocab, device=META)
    keys = torch.empty(rows, 2, dtype=torch.int32, device=META)
    found = []
    for tile in (draw._TILE, draw._GPU_TILE):
        with setting(draw, _GPU_TILE=tile):
            one = draw.GumbelArgmax(vocab, META)
        found.append(counted(partial(one, scores, keys)))
    cells = [f"{c.kernels} kernels, {gib(c.bytes)}" for c in found]
    fused = fused_draw(scores, keys)
    row(
        f"a draw, {rows} rows × {vocab:,} tokens",
        cells[0],
        f"{fused}; without Triton {cells[1]}",
    )


def fused_draw(scores: Tensor, keys: Tensor) -> str:
    """Kernels and bytes of the fused draw; its own kernel reads the scores once."""
    try:
        from kdbench.trainers.cuda import noise as fused
    except ImportError:
        return "(Triton is not here: not counted)"

    class Launch:
        launched = 0

        def __getitem__(self, grid: Any) -> Callable[..., None]:
            def launch(*args: Any, **options: Any) -> None:
                Launch.launched += 1

            return launch

    with setting(fused, _draw_kernel=Launch()):
        rest = counted(lambda: fused.draw(scores, keys))
    size = rest.bytes + scores.numel() * scores.element_size()
    return f"{rest.kernels + Launch.launched} kernels, {gib(size)}"


def head(targets: int, width: int, vocab: int, objective: str) -> None:
    """Loss and gradients of both heads' tiles, half precision."""
    hidden = torch.empty(targets, width, dtype=torch.bfloat16, device=META)
    weight = torch.empty(vocab, width, dtype=torch.bfloat16, device=META)
    target = torch.empty(targets, dtype=torch.long, device=META)
    side = Head(weight, None, 1.0, None, vocab)
    wanted = tiles.Wanted(True, True, False)
    cells = []
    old = tiles.default_rows(vocab, torch.device("cpu"))
    new = tiles.default_rows(vocab, torch.device("cuda"), 80 << 30)
    for height, block in ((old, 1 << 60), (new, generic._GPU_BLOCK_ELEMENTS)):
        job = tiles.Job(
            getattr(divergences, objective),
            side,
            target,
            height,
            teacher=side,
            teacher_hidden_ND=hidden,
        )
        with setting(generic, _GPU_BLOCK_ELEMENTS=block):
            found = counted(partial(tiles.run, job, hidden, wanted))
        cells.append(f"{height} rows: {found.kernels} kernels, {gib(found.bytes)}")
    row(f"{objective} of {targets} × {width} × {vocab:,}", *cells)


def model_of(name: str) -> PreTrainedModel:
    with META:
        return AutoModelForCausalLM.from_config(CONFIGS[name], dtype=torch.bfloat16)


def decoding(name: str, rows: int, width: int) -> None:
    """Steps and copies of a decoder."""
    model = model_of(name)
    lies = {p.untyped_storage()._cdata for p in model.parameters()}
    steps, copies = [], []
    for apart in (False, True):
        usual = LlamaDecoder._as_they_lie
        with setting(LlamaDecoder, _as_they_lie=usual if apart else lambda *_: False):
            decoder = LlamaDecoder(model, model.dtype, 0, model.config.vocab_size, 4 * width)
        decoder.reset(rows, 2 * width)
        decoder.slots._lengths = [width] * rows
        steps.append(
            counted(lambda one=decoder: one.step(torch.zeros(rows, dtype=torch.long, device=META)))
        )
        copies.append(
            sum(_size(t) for t in _weights(decoder) if t.untyped_storage()._cdata not in lies)
        )
    row(f"{name}: copies of weights beside the model's", gib(copies[0]), gib(copies[1]))
    row(
        f"{name}: a step of {rows} rows at {width} columns",
        f"{steps[0].kernels} launches; the host waits at every token",
        f"1 launch of a graph of {steps[1].kernels} kernels; the host waits once in {sampler._AHEAD}",
    )


def _weights(decoder: LlamaDecoder) -> list[Tensor]:
    products: list[Any] = [decoder._head]
    for layer in decoder._layers:
        products += [layer.query_key_value, layer.out, layer.gate_up, layer.down]
    return [p._weight for one in products for p in getattr(one, "_products", [one])]


def _size(t: Tensor) -> int:
    return t.numel() * t.element_size()


def packed(tokens: int, row_length: int) -> None:
    """Pairs of positions that attention computes, and the mask that it reads in each layer."""
    drawn, lengths = random.Random(0), []
    while sum(lengths) < tokens:
        lengths.append(min(row_length, max(8, round(drawn.lognormvariate(4.6, 0.8)))))
    rows = pack([Sequence((1,), (1,) * n) for n in lengths], max_tokens=row_length, pad_id=0)
    r, t = rows.input_ids_RT.shape
    pairs = sum(n * (n + 1) // 2 for n in rows.lengths)
    row(
        f"attention of {len(lengths)} sequences, {r} rows of {t}",
        f"{r * t * t / 1e6:.1f} M pairs, a mask of {r * t * t / 1e6:.1f} MB a layer",
        f"{pairs / 1e6:.1f} M pairs, no mask",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.parse_args()
    # the meta device knows no autocast
    off = SimpleNamespace(
        is_autocast_enabled=lambda device: False, autocast=lambda *_, **__: nullcontext()
    )
    print("| | before | now |\n|---|---|---|")
    with setting(torch, **vars(off)):
        noise(32, 151_936)
        for objective in ("forward_kl", "reverse_kl"):
            head(8192, 4096, 128_000, objective)
        decoding("qwen2.5-1.5b", 32, 512)
        decoding("llama-13b", 32, 512)
    packed(32_768, 512)


if __name__ == "__main__":
    main()
