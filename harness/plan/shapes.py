"""The sizes of a language model, from its config.json, and how many parameters follow from them."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from kdbench.harness.errors import InputError
from kdbench.harness.plan.experts import Experts, experts_of
from kdbench.trainers.lora.settings import ALL, Lora

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
        qk_norm: parameters of the norms of a layer's queries and keys; 0: there are none.
        bias_qkv, bias_out, bias_ffn: whether those products have a bias.
        last_norm: there is a norm behind the layers.
        dropout, attention_dropout: rates of the configuration, used where training has dropout on.
        experts: of a mixture; ``ffn`` is then the width of the layers that have none.
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
    qk_norm: int = 0
    bias_qkv: bool = False
    bias_out: bool = False
    bias_ffn: bool = False
    last_norm: bool = True
    dropout: float = 0.0
    attention_dropout: float = 0.0
    experts: Experts | None = None
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
    def attention(self) -> dict[str, tuple[int, int]]:
        """(in, out) of the products of a layer's attention, by the names that LoRA targets have."""
        d = self.hidden
        if self.fused:
            return {"c_attn": (d, self.queries + 2 * self.keys), "c_proj": (self.queries, d)}
        out = "out_proj" if self.family == "opt" else "o_proj"
        found = {"q_proj": (d, self.queries), "k_proj": (d, self.keys)}
        return found | {"v_proj": (d, self.keys), out: (self.queries, d)}

    def feed_forward(self, width: int) -> dict[str, tuple[int, int]]:
        """The same of a feed-forward part of this width."""
        d, f = self.hidden, width
        if self.fused:
            return {"c_fc": (d, f), "c_proj_ffn": (f, d)}
        if self.gated:
            return {"gate_proj": (d, f), "up_proj": (d, f), "down_proj": (f, d)}
        return {"fc1": (d, f), "fc2": (f, d)}

    @property
    def mixed_layers(self) -> int:
        """Layers that have experts."""
        return self.layers - self.experts.dense if self.experts else 0

    def _layers(self, count: int) -> tuple[int, int]:
        """Elements of the products of a layer without experts, and of one with so many of them."""
        attention = _elements(self.attention)
        plain = attention + _elements(self.feed_forward(self.ffn))
        if (found := self.experts) is None:
            return plain, plain
        router = found.count + found.weighed
        parts = count * _elements(self.feed_forward(found.width))
        parts += _elements(self.feed_forward(found.shared))
        return plain, attention + parts + router * self.hidden

    def _in_layers(self, count: int) -> int:
        plain, mixed = self._layers(count)
        return (self.layers - self.mixed_layers) * plain + self.mixed_layers * mixed

    @property
    def matrices(self) -> int:
        """Parameters of all layers' products, biases left out."""
        return self._in_layers(self.experts.count if self.experts else 0)

    @property
    def active(self) -> int:
        """Those of them that a token goes through."""
        return self._in_layers(self.experts.active if self.experts else 0)

    def read(self, tokens: float) -> float:
        """Parameters that a step of so many tokens reads: of experts those that a token is sent to."""
        if self.experts is None:
            return self.parameters
        share = min(1.0, tokens * self.experts.active / self.experts.count)
        return self.parameters - (1 - share) * (self.matrices - self._in_layers(0))

    @property
    def layer_matrices(self) -> int:
        """Parameters of the products of the largest layer."""
        if (found := self.experts) is None:
            return self._layers(0)[0]
        plain, mixed = self._layers(found.count)
        return max(mixed, plain if found.dense else 0)

    @property
    def width(self) -> int:
        """Feed-forward units that a token goes through in a layer, at most."""
        if (found := self.experts) is None:
            return self.ffn
        return max(found.active * found.width + found.shared, self.ffn if found.dense else 0)

    @property
    def _beside_matrices(self) -> int:
        """Parameters of a layer's norms and biases."""
        norms = 2 * self.hidden * (1 if self.rms else 2) + self.qk_norm
        biases = (self.queries + 2 * self.keys) * self.bias_qkv
        biases += self.hidden * self.bias_out
        biases += (self.ffn * (2 if self.gated else 1) + self.hidden) * self.bias_ffn
        return norms + biases

    @property
    def layer(self) -> int:
        """Parameters of the largest layer."""
        return self.layer_matrices + self._beside_matrices

    @property
    def body(self) -> int:
        """Parameters of all layers."""
        return self.matrices + self.layers * self._beside_matrices

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
        return self.root + self.body

    @property
    def largest(self) -> int:
        """Elements of the largest tensor."""
        products = [a * b for a, b in self.attention.values()]
        products += [self.largest_product]
        if self.experts is not None:  # gates and up projections of a layer's experts are one tensor
            products.append(2 * self.experts.count * self.hidden * self.experts.width)
        return max(self.head, self.positions * self.hidden, *products)

    @property
    def largest_product(self) -> int:
        """Elements of the largest matrix that a layer multiplies with."""
        widths = [self.ffn] if self.mixed_layers < self.layers else []
        widths += [self.experts.width, self.experts.shared] if self.experts else []
        return self.hidden * max(*widths, self.queries, self.queries + 2 * self.keys * self.fused)

    def cut(self, name: str, layers: int) -> "Shape":
        """A model of so many of its layers, of every kind its share."""
        experts = self.experts
        if experts is not None:
            experts = replace(experts, dense=round(experts.dense * layers / self.layers))
        return replace(self, name=name, layers=layers, experts=experts)

    def layers_shared(self, count: int) -> int:
        """Parameters that one of so many processes has, which share the layers and nothing else."""
        return self.root + self.body // count

    def adapters(self, rank: int, targets: Collection[str]) -> int:
        """Parameters of LoRA adapters of this rank on the named products."""
        return sum(rank * (a + b) * times for a, b, times in self._targets(targets))

    def trained(self, lora: Lora | None) -> int:
        """Parameters with a gradient: all, or those of adapters."""
        return self.parameters if lora is None else self.adapters(lora.r, lora.targets)

    def adapted(self, targets: Collection[str]) -> int:
        """Parameters of the products that get adapters."""
        return sum(a * b * times for a, b, times in self._targets(targets))

    def _targets(self, targets: Collection[str]) -> Iterator[tuple[int, int, int]]:
        """(in, out) of what `kdbench.trainers.lora` puts adapters on, and how often the model has it."""
        if "lm_head" in targets:
            yield self.embed, self.vocab, 1
        blocks = {"c_proj": "attn.c_proj", "c_proj_ffn": "mlp.c_proj"} if self.fused else {}
        plain = self.layers - self.mixed_layers
        products = [(name, size, self.layers) for name, size in self.attention.items()]
        products += [(name, size, plain) for name, size in self.feed_forward(self.ffn).items()]
        if found := self.experts:  # experts are one tensor, and get none
            shared = self.feed_forward(found.shared) if found.shared else {}
            shared |= {"shared_expert_gate": (self.hidden, 1)} if found.weighed else {}
            products += [(name, size, self.mixed_layers) for name, size in shared.items()]
        for name, (a, b), times in products:
            path = f".{blocks.get(name, name)}"
            if any(t == ALL or path.endswith(f".{t}") or t.endswith(path) for t in targets):
                yield a, b, times


def _elements(products: Mapping[str, tuple[int, int]]) -> int:
    return sum(a * b for a, b in products.values())


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
MIXTURES = {"mixtral", "olmoe", "qwen2_moe", "qwen3_moe"}
"""Of experts, whose other parts are a Llama's."""


def _llama(config: Config, name: str, family: str) -> Shape:
    known, qwen2 = family in LLAMAS | MIXTURES, family in ("qwen2", "qwen2_moe")
    biased = bool(config.get("qkv_bias", True) if qwen2 else config.get("attention_bias", False))
    sizes = _sizes(config, name, family)
    normed = {"qwen3": 2, "qwen3_moe": 2, "olmoe": sizes["heads"] + sizes["kv_heads"]}
    return Shape(
        **sizes,
        ffn=int(config["intermediate_size"]),
        tied=bool(config.get("tie_word_embeddings", not known)),
        qk_norm=normed.get(family, 0) * sizes["head_dim"],
        bias_qkv=biased,
        bias_out=biased and not qwen2,
        bias_ffn=bool(config.get("mlp_bias", False)),
        attention_dropout=float(config.get("attention_dropout") or 0.0),
        experts=experts_of(config, sizes["layers"], int(config["intermediate_size"])),
        exact=known,
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
