"""Bytes that a forward pass keeps for its backward pass, by formula.

The terms were read off what autograd saves under ``FakeTensorMode`` for transformers' Llama, Qwen2, Qwen3,
GPT-2 and OPT with scaled dot product attention; `tests/test_plan.py` counts them again. D is the hidden size,
F the feed-forward width, A and K those of queries and keys, e bytes of an element.

* A norm keeps its input in float32, an RMSNorm also what it scales.
* A product keeps its input. Under autocast every product makes a half-precision copy of its own.
* Attention keeps queries, keys, values, its output and a logarithm a head. With a mask (on a GPU in float32,
  with dropout in attention, and of rows of one sequence) grouped keys and values are repeated for every head
  and a mask in e bytes is kept; where it goes by sequence, neither.
* GELU as GPT-2 writes it keeps five feed-forward widths, a gated SiLU four, ReLU one.
* An expert keeps what a gated part keeps, and of each token that is sent to it its input and output; a router
  its logits, shares and choice. (By hand: these were not compared with autograd.)
* Dropout keeps a mask: of bytes on a GPU, of elements on a CPU. Attention with dropout has no fused kernel on
  a CPU, and keeps three heads-by-tokens matrices in float32.
"""

from dataclasses import dataclass

from kdbench.harness.plan.shapes import Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """How a forward pass runs.

    Attributes:
        tokens: laid out, padding included.
        row: tokens of a row; of a sequence on a CPU, whose attention goes by sequence.
        apart: it does so on a GPU, too.
        half: under autocast to bfloat16.
        wide: float64 weights.
        cpu: rows are cut into sequences.
        amx: half-precision products are fast there, so that attention stays in them.
        dropout: the model's own is on.
        checkpoint: layers are computed again in backward.
    """

    tokens: int
    row: int
    half: bool
    apart: bool = False
    cpu: bool = False
    amx: bool = False
    wide: bool = False
    dropout: bool = False
    checkpoint: bool = False

    @property
    def full(self) -> int:
        """Bytes of a master weight's element."""
        return 8 if self.wide else 4

    @property
    def size(self) -> int:
        """Bytes of an element of what products give."""
        return 2 if self.half else self.full


def a_token(shape: Shape, run: Pass) -> float:
    """Bytes that one layer keeps a token."""
    d, e, full = shape.hidden, run.size, run.full
    norms = 2 * d * full * (2 if shape.rms else 1)
    consumers = (1 if shape.fused else 3) + (2 if shape.gated else 1)
    inputs = d * e * (consumers if run.half else 2)
    small = full * (2 if shape.rms else 4)
    found = norms + inputs + small + _attention(shape, run) + shape.kept * shape.width * e
    if (experts := shape.experts) is not None:
        found += experts.active * 2 * d * e + 3 * experts.count * full
    return found


def _attention(shape: Shape, run: Pass) -> float:
    a, e, full = shape.queries, run.size, run.full
    inner = full if run.cpu and not run.amx else e  # such a CPU attends in float32
    apart = run.apart or run.cpu
    k = shape.keys if apart else a
    dropped = 2 * shape.hidden * (e if run.cpu else 1) if run.dropout and shape.dropout else 0
    norms = full * (shape.heads + shape.kv_heads) if shape.qk_norm else 0
    norms += (a + shape.keys) * (full + e) if shape.qk_norm else 0
    if run.cpu and run.dropout and shape.attention_dropout:
        matrices = 3 * shape.heads * run.row * full
        return 3 * a * full + matrices + a * e + dropped + norms
    read = (a + 2 * k) * inner
    mask = 0 if apart else run.row * e
    # what the sequences' outputs are joined to is another tensor than what the kernel keeps
    out = a * inner + a * e if run.cpu else a * e
    return read + out + 4 * shape.heads + mask + dropped + norms


def kept(shape: Shape, run: Pass) -> int:
    """Bytes kept by the whole model between forward and backward, the head left out."""
    outside = shape.hidden * run.full * (4 if shape.rms else 3)
    each = a_token(shape, run)
    layers = shape.layers * each
    if run.checkpoint:  # the inputs of all layers, and all of the one that is computed again
        layers = shape.layers * shape.hidden * run.full + each
    return round(run.tokens * (layers + outside))


def cast_weights(shape: Shape, run: Pass) -> int:
    """Bytes of the half-precision copies of the layers' matrices that autocast keeps for backward.

    A CPU without fast half-precision products makes none: it rounds a matrix where it is used.
    """
    if not run.half or (run.cpu and not run.amx):
        return 0
    return 2 * (shape.layer_matrices if run.checkpoint else shape.matrices)


def transient(shape: Shape, run: Pass) -> int:
    """Bytes in use inside a layer of a forward pass that keeps nothing."""
    widths = 3 * shape.width if shape.gated else 4 * shape.width
    passing = run.tokens * (widths * run.size + 4 * shape.hidden * run.full)
    rounded = 0
    if run.half and run.cpu and not run.amx:
        rounded = 6 * shape.largest_product
    return passing + rounded
