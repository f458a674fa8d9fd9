"""The fused kernel of the noise, interpreted on a CPU, against the operations of torch."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="Triton is not here; pip install triton")

SCRIPT = """
import torch
from kdbench.trainers.cuda import noise
from kdbench.trainers.sampler import draw

cpu = torch.device("cpu")
keys = draw.position_keys([draw.stream_key(3, key, 1) for key in range(4)], 2, cpu)[:, 1]
for vocab in (1, 7, 2048, 5001):
    bits = draw.hash31(keys, draw.token_table(vocab, cpu))
    assert torch.equal(noise.noise_bits(keys, vocab), bits), vocab
    for dtype in (torch.float32, torch.float64):
        scores = torch.randn(4, vocab + 3, generator=torch.Generator().manual_seed(vocab)).to(dtype)
        scores = scores[:, :vocab]  # rows at a wider stride, as behind a padded head
        scores[0, : vocab - 1] = -torch.inf
        expected = (draw.gumbel(bits, dtype) + scores).argmax(-1)
        assert torch.equal(noise.draw(scores, keys), expected), (vocab, dtype)
print("equal")
"""


@pytest.mark.filterwarnings("ignore")
def test_the_fused_kernel_draws_what_torch_draws() -> None:
    """Bits are equal, and so is every token drawn; in a process of its own, since the switch is global."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "equal", done.stderr
