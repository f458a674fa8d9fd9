"""The sizes of a language model, from its config.json, and how many parameters follow from them."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from kdbench.harness.errors import InputError
from kdbench.trainers.lora.settings import ALL

Config = Mapping[str, Any]
STORED_OTHERWISE = frozenset(
    [
        *("deepseek_v2", "deepseek_v3", "dots1", "ernie4_5_moe", "flex_olmo", "gemma3", "glm4_moe"),
        *("gpt_neox", "granitemoe", "granitemoehybrid", "hunyuan_v1_moe", "jamba", "minimax"),
        *("mixtral", "nemotron_h", "olmoe", "phimoe", "qwen2_moe", "qwen3_moe", "qwen3_next"),
    ]
)
"""``model_type`` of those in docs/architectures.md whose files hold other tensors than transformers computes
with (fused experts, other names); `kdbench.trainers.parallel.loading` sees it from the files.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A decoder-only language model.

    Attributes:
        name: as it was asked for.
        family: ``model_type`` of its configuration.
        hidden, layers, heads, kv_heads, head_dim, ffn, vocab: the usual sizes.
        embed: width of the embedding and of what the head reads (OPT-350M's is half its own).
        positions: rows of a learned position embedding; 0: rotary.
        context: tokens it can read.
        tied: head and embedding are one matrix.
        rms: RMSNorm as transformers writes it, else LayerNorm.
        fused: query, key and value are one product.
        gated: the feed-forward part has a gate.
        kept: what its activation keeps for backward, in feed-forward widths.
        qk_norm: queries and keys are normalised.
        bias_qkv, bias_out, bias_ffn: whether those products have a bias.
        last_norm: there is a norm behind the layers.
        dropout, attention_dropout: rates of the configuration, used where training has dropout on.
        exact: False for an architecture that is counted as a Llama.
        by_shares: several processes can each read and write their part of it; see `STORED_OTHERWISE`.
    """

    name: str
    family: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    embed: int
    positions: int = 0
    context: int = 0
    tied: bool = True
    rms: bool = True
    fused: bool = False
    gated: bool = True
    kept: int = 4
    qk_norm: bool = False
    bias_qkv: bool = False
    bias_out: bool = False
    bias_ffn: bool = False
    last_norm: bool = True
    dropout: float = 0.0
    attention_dropout: float = 0.0
    exact: bool = True
    by_shares: bool = True

    @property
    def queries(self) -> int:
        """Width of all heads' queries."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """Width of all heads' keys (and of their values)."""
        return self.kv_heads * self.head_dim

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """(in, out) of a layer's products, by the names that LoRA targets have."""
        d, f = self.hidden, self.ffn
        if self.fused:
            attention = {"c_attn": (d, self.queries + 2 * self.keys), "c_proj": (self.queries, d)}
            return {**attention, "c_fc": (d, f), "c_proj_ffn": (f, d)}
        out = "out_proj" if self.family == "opt" else "o_proj"
        attention = {"q_proj": (d, self.queries), "k_proj": (d, self.keys)}
        attention |= {"v_proj": (d, self.keys), out: (self.queries, d)}
        if self.gated:
            return {**attention, "gate_proj": (d, f), "up_proj": (d, f), "down_proj": (f, d)}
        return {**attention, "fc1": (d, f), "fc2": (f, d)}

    @property
    def layer_matrices(self) -> int:
        """Parameters of a layer's products, biases left out."""
        return sum(a * b for a, b in self.linears.values())

    @property
    def layer(self) -> int:
        """Parameters of a layer."""
        norms = 2 * self.hidden * (1 if self.rms else 2)
        norms += 2 * self.head_dim if self.qk_norm else 0
        biases = (self.queries + 2 * self.keys) * self.bias_qkv
        biases += self.hidden * self.bias_out
        biases += (self.ffn * (2 if self.gated else 1) + self.hidden) * self.bias_ffn
        return self.layer_matrices + norms + biases

    @property
    def head(self) -> int:
        """Elements of the head's matrix."""
        return self.vocab * self.embed

    @property
    def root(self) -> int:
        """Parameters outside the layers: embeddings, head, last norm, projections between widths."""
        norm = self.hidden * (1 if self.rms else 2) * self.last_norm
        between = 0 if self.embed == self.hidden else 2 * self.hidden * self.embed
        return (1 if self.tied else 2) * self.head + self.positions * self.hidden + norm + between

    @property
    def parameters(self) -> int:
        """All of them; tied ones once."""
        return self.root + self.layers * self.layer

    @property
    def largest(self) -> int:
        """Elements of the largest tensor."""
        linears = (a * b for a, b in self.linears.values())
        return max(self.head, self.positions * self.hidden, *linears)

    def layers_shared(self, count: int) -> int:
        """Parameters that one of so many processes has, which share the layers and nothing else."""
        return self.root + self.layers * self.layer // count

    def adapters(self, rank: int, targets: Collection[str]) -> int:
        """Parameters of LoRA adapters of this rank on the named products."""
        return sum(rank * (a + b) * times for a, b, times in self._targets(targets))

    def adapted(self, targets: Collection[str]) -> int:
        """Parameters of the products that get adapters."""
        return sum(a * b * times for a, b, times in self._targets(targets))

    def _targets(self, targets: Collection[str]) -> Iterator[tuple[int, int, int]]:
        """(in, out) of what `kdbench.trainers.lora` puts adapters on, and how often the model has it."""
        if "lm_head" in targets:
            yield self.embed, self.vocab, 1
        blocks = {"c_proj": "attn.c_proj", "c_proj_ffn": "mlp.c_proj"} if self.fused else {}
        for name, (a, b) in self.linears.items():
            path = f".{blocks.get(name, name)}"
            if any(t == ALL or path.endswith(f".{t}") or t.endswith(path) for t in targets):
                yield a, b, self.layers


def shape_of(config: Config, name: str) -> Shape:
    """The sizes that a configuration states.

    Args:
        config: a config.json; of a model of several parts its ``text_config`` is read.
        name: for people.

    Raises:
        InputError: it lacks a size.
    """
    by_shares = config.get("model_type") not in STORED_OTHERWISE
    text = config.get("text_config")
    if isinstance(text, Mapping):
        config = {**text, "tie_word_embeddings": config.get("tie_word_embeddings", True)}
    family = str(config.get("model_type", ""))
    try:
        shape = _READERS.get(family, _llama)(config, name, family)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"the configuration of {name!r} (model_type {family or 'missing'}) lacks {error}, so its memory "
            "cannot be planned; give the config.json of a decoder-only language model"
        ) from error
    return replace(shape, by_shares=by_shares)


def _sizes(config: Config, name: str, family: str) -> dict[str, Any]:
    hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
    vocab = int(config["vocab_size"])
    sizes = {"hidden": hidden, "heads": heads, "vocab": vocab, "embed": hidden}
    sizes["layers"] = int(config["num_hidden_layers"])
    sizes["kv_heads"] = int(config.get("num_key_value_heads") or heads)
    sizes["head_dim"] = int(config.get("head_dim") or hidden // heads)
    sizes["context"] = int(config.get("max_position_embeddings") or 0)
    return {"name": name, "family": family, **sizes}


LLAMAS = {"llama", "mistral", "qwen2", "qwen3", "smollm3"}


def _llama(config: Config, name: str, family: str) -> Shape:
    biased = family == "qwen2" or bool(config.get("attention_bias", False))
    return Shape(
        **_sizes(config, name, family),
        ffn=int(config["intermediate_size"]),
        tied=bool(config.get("tie_word_embeddings", family not in LLAMAS)),
        qk_norm=family == "qwen3",
        bias_qkv=biased,
        bias_out=biased and family != "qwen2",
        bias_ffn=bool(config.get("mlp_bias", False)),
        attention_dropout=float(config.get("attention_dropout") or 0.0),
        exact=family in LLAMAS,
    )


def _gpt2(config: Config, name: str, family: str) -> Shape:
    hidden, heads = int(config.get("n_embd", 768)), int(config.get("n_head", 12))
    positions = int(config.get("n_positions", 1024))
    return Shape(
        name=name,
        family=family,
        hidden=hidden,
        layers=int(config.get("n_layer", 12)),
        heads=heads,
        kv_heads=heads,
        head_dim=hidden // heads,
        ffn=int(config.get("n_inner") or 4 * hidden),
        vocab=int(config.get("vocab_size", 50257)),
        embed=hidden,
        positions=positions,
        context=positions,
        tied=bool(config.get("tie_word_embeddings", True)),
        rms=False,
        fused=True,
        gated=False,
        kept=2 if config.get("activation_function", "gelu_new") == "gelu" else 5,
        bias_qkv=True,
        bias_out=True,
        bias_ffn=True,
        dropout=float(config.get("resid_pdrop", 0.1)),
        attention_dropout=float(config.get("attn_pdrop", 0.1)),
    )


def _opt(config: Config, name: str, family: str) -> Shape:
    sizes = _sizes(config, name, family)
    biased = bool(config.get("enable_bias", True))
    sizes["embed"] = int(config.get("word_embed_proj_dim") or sizes["hidden"])
    return Shape(
        **sizes,
        ffn=int(config["ffn_dim"]),
        positions=sizes["context"] + 2,  # its embedding has two rows that no token reads
        tied=bool(config.get("tie_word_embeddings", True)),
        rms=False,
        gated=False,
        kept=1 if config.get("activation_function", "relu") == "relu" else 2,
        bias_qkv=biased,
        bias_out=biased,
        bias_ffn=biased,
        last_norm=bool(config.get("do_layer_norm_before", True)),
        dropout=float(config.get("dropout", 0.1)),
        attention_dropout=float(config.get("attention_dropout") or 0.0),
    )


_READERS: dict[str, Callable[[Config, str, str], Shape]] = {"gpt2": _gpt2, "opt": _opt}

Role = Literal["teacher", "student"]
