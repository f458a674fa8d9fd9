"""Llama and Qwen2 decoding without the framework around it: the same arithmetic in few operations.

The general forward pays for modules, decorators and, on CPUs, for oneDNN's reordering of the
weights in every call. Here query, key and value are one product, rotation is one fused
expression, caches are written in place, and on a CPU the weights are laid out once
(a bfloat16 step of SmolLM2-135M at batch 8 took about two thirds of the general forward's time).
Prompts of many tokens are read in float32 where a CPU multiplies that faster.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional
from transformers import LlamaForCausalLM, PreTrainedModel, Qwen2ForCausalLM

from kdbench.trainers import cpu
from kdbench.trainers.lora.merging import is_adapted, layer_of, weight_of
from kdbench.trainers.sampler.decoders import KeyValues, SlotDecoder, Step

# Rotary variants whose angles depend on the position alone, so that one table serves all steps.
_STATIC_ROPE = {"default", "linear", "llama3", "yarn"}
# From so many prompt tokens on, float32 products pay for widening the weights first (45 tokens: no
# difference; 360: 9.5 against 15.6 ms for SmolLM2-135M's gate and up projections, one thread).
_WIDEN_FROM = 128


def is_plain_llama(model: PreTrainedModel) -> bool:
    """Whether ``LlamaDecoder`` computes exactly what ``model.forward`` does.

    By exact type, with ordinary linear layers only: a subclass or a quantised layer may compute
    something else. A LoRA adapter on one is read as part of its weight.
    """
    if type(model) not in (LlamaForCausalLM, Qwen2ForCausalLM):
        return False
    config = model.config
    named = model.named_modules()
    linear = {type(layer_of(m)) for name, m in named if name.endswith(("_proj", "lm_head"))}
    return (
        linear == {nn.Linear}
        and config.hidden_act == "silu"
        and config.rope_parameters["rope_type"] in _STATIC_ROPE
    )


class Product:
    """``x @ weight.T + bias``; weight (out, in)."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._weight = weight
        self._bias = bias

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The product, (rows, out)."""
        return functional.linear(x, self._weight, self._bias)

    def onto(self, residual: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """``residual`` + the product; neither is changed."""
        if self._bias is None:
            return torch.addmm(residual, x, self._weight.t())
        return functional.linear(x, self._weight, self._bias).add_(residual)


class Apart:
    """Products of the same rows by several weights, side by side: nothing is copied to stack them."""

    def __init__(self, products: list[Product]) -> None:
        self._products = products

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """The products, (rows, sum of outs)."""
        return torch.cat([product(x) for product in self._products], dim=-1)

    def onto(self, residual: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """``residual`` + the products; neither is changed."""
        return residual + self(x)


AnyProduct = Product | Apart | cpu.LaidOutProduct


class _Layer(NamedTuple):
    norm_in_D: torch.Tensor
    query_key_value: AnyProduct
    out: AnyProduct
    norm_mid_D: torch.Tensor
    gate_up: AnyProduct
    down: AnyProduct


class LlamaDecoder(SlotDecoder):
    """See the module's docstring.

    Args:
        model: for which ``is_plain_llama`` holds.
        dtype: to compute in; weights are cast once, here.
        pad_id: any valid token id.
        vocab: number of real tokens: logits have that many columns.
        longest: positions to make rotary tables for.
    """

    def __init__(
        self, model: PreTrainedModel, dtype: torch.dtype, pad_id: int, vocab: int, longest: int
    ) -> None:
        super().__init__(model.device, dtype, pad_id)
        config, body = model.config, model.model
        self._eps = config.rms_norm_eps
        attention = body.layers[0].self_attn
        self._size = attention.head_dim
        self._queries = config.num_attention_heads
        self._heads = config.num_key_value_heads
        self._embedding_VD = body.embed_tokens.weight.detach()  # cast where it is read: a few rows
        self._norm_D = body.norm.weight.detach().to(dtype)
        self._head = self._product("head", [model.lm_head], vocab)
        self._modules = list(body.layers[: config.num_hidden_layers])
        self._layers = [self._layer(module, self._product) for module in self._modules]
        self._widen = self.device.type == "cpu" and cpu.slow_in_half(dtype)
        self._wide_weights: dict[str, torch.Tensor] = {}
        positions = torch.arange(longest, device=self.device)[None]
        cos_1TD, sin_1TD = body.rotary_emb(self._norm_D, positions)
        # Rotation swaps the halves and negates the first: the sign goes into the table.
        half = self._size // 2
        sin_TD = torch.cat((-sin_1TD[0, :, :half], sin_1TD[0, :, half:]), dim=-1)
        self._cos_T1D, self._sin_T1D = cos_1TD[0, :, None], sin_TD[:, None]

    def _product(self, role: str, linears: list[nn.Linear], rows: int | None = None) -> AnyProduct:
        """The (first ``rows`` rows of) layers stacked, in the decoder's precision."""
        weights = [weight_of(linear).detach()[:rows].to(self.dtype) for linear in linears]
        if self.device.type != "cpu" and self._as_they_lie(linears):
            biases = [self._bias([linear], rows) for linear in linears]
            apart = [Product(w, b) for w, b in zip(weights, biases, strict=True)]
            return Apart(apart) if len(apart) > 1 else apart[0]
        weight = torch.cat(weights) if len(weights) > 1 else weights[0]
        bias = self._bias(linears, rows)
        laid_out = self.device.type == "cpu" and cpu.worth_laying_out(weight)
        return cpu.LaidOutProduct(weight, bias) if laid_out else Product(weight, bias)

    def _as_they_lie(self, linears: list[nn.Linear]) -> bool:
        """Whether the model's own weights can be read: in the decoder's precision, no adapter on them."""
        return all(
            not is_adapted(linear) and linear.weight.dtype == self.dtype for linear in linears
        )

    def _wide_product(self, role: str, linears: list[nn.Linear]) -> Product:
        """The same numbers in float32, valid until the next call with this ``role``.

        All layers share one buffer a role: fresh memory would cost more than the widening.
        """
        sizes = [linear.out_features for linear in linears]
        if role not in self._wide_weights:
            shape = (sum(sizes), linears[0].in_features)
            self._wide_weights[role] = torch.empty(shape, device=self.device)
        weight = self._wide_weights[role]
        for part, linear in zip(weight.split(sizes), linears, strict=True):
            part.copy_(weight_of(linear).detach().to(self.dtype))
        bias = self._bias(linears, None)
        return Product(weight, None if bias is None else bias.float())

    def _bias(self, linears: list[nn.Linear], rows: int | None) -> torch.Tensor | None:
        given = [linear.bias.detach() for linear in linears if linear.bias is not None]
        return torch.cat([bias[:rows].to(self.dtype) for bias in given]) if given else None

    def _layer(self, module: Any, product: Callable[[str, list[nn.Linear]], AnyProduct]) -> _Layer:
        attention, mlp = module.self_attn, module.mlp
        return _Layer(
            module.input_layernorm.weight.detach().to(self.dtype),
            product("query_key_value", [attention.q_proj, attention.k_proj, attention.v_proj]),
            product("out", [attention.o_proj]),
            module.post_attention_layernorm.weight.detach().to(self.dtype),
            product("gate_up", [mlp.gate_proj, mlp.up_proj]),
            product("down", [mlp.down_proj]),
        )

    def _allocate(self) -> None:
        shape = torch.Size((self._heads, self._size))
        self._stores = [KeyValues(self.slots, shape, shape, self._norm_D) for _ in self._layers]

    def _read(self, ids_rT: torch.Tensor, slots_r: torch.Tensor) -> None:
        rows, width = ids_rT.shape
        wide = self._widen and ids_rT.numel() >= _WIDEN_FROM
        x_ND = self._embedding_VD[ids_rT.flatten()].to(self.dtype)
        cos_N1D, sin_N1D = (
            table[:width].repeat(rows, 1, 1) for table in (self._cos_T1D, self._sin_T1D)
        )
        if wide:
            x_ND, cos_N1D, sin_N1D = x_ND.float(), cos_N1D.float(), sin_N1D.float()
        last = self._layers[-1]
        for layer, module, store in zip(self._layers, self._modules, self._stores, strict=True):
            used = self._layer(module, self._wide_product) if wide else layer
            q_NHD, k_NHD, v_NX = self._attention_inputs(x_ND, used, cos_N1D, sin_N1D)
            q, k, v = (tensor.view(rows, width, -1, self._size) for tensor in (q_NHD, k_NHD, v_NX))
            store.write_prompts(slots_r, k.to(self.dtype), v.to(self.dtype))
            if layer is last:  # nothing reads what comes out of the last layer of a prompt
                return
            mixed_rHTD = functional.scaled_dot_product_attention(
                q.transpose(1, 2),
                k.transpose(1, 2).repeat_interleave(self._queries // self._heads, dim=1),
                v.transpose(1, 2).repeat_interleave(self._queries // self._heads, dim=1),
                is_causal=True,
            )
            x_ND = self._outputs(x_ND, mixed_rHTD.transpose(1, 2).reshape(rows * width, -1), used)

    def _advance(self, tokens_n: torch.Tensor, step: Step) -> torch.Tensor:
        n = len(tokens_n)
        x_nD = self._embedding_VD[tokens_n].to(self.dtype)
        cos_n1D, sin_n1D = self._cos_T1D[step.positions_n], self._sin_T1D[step.positions_n]
        for layer, store in zip(self._layers, self._stores, strict=True):
            q_nHD, k_nHD, v_nX = self._attention_inputs(x_nD, layer, cos_n1D, sin_n1D)
            store.write_step(step, k_nHD.reshape(n, -1), v_nX)
            keys, values = store.read(step)
            # Queries that share a key-value head stand in for a time axis: no copies of the heads.
            mixed = functional.scaled_dot_product_attention(
                q_nHD.reshape(n, self._heads, -1, self._size),
                keys,
                values,
                attn_mask=step.mask_n11W,
            )
            x_nD = self._outputs(x_nD, mixed.reshape(n, -1), layer)
        return self._head(self._normed(x_nD, self._norm_D))

    def _normed(self, x_ND: torch.Tensor, weight_D: torch.Tensor) -> torch.Tensor:
        return torch.rms_norm(x_ND, weight_D.shape, weight_D.to(x_ND.dtype), self._eps)

    def _attention_inputs(
        self, x_ND: torch.Tensor, layer: _Layer, cos_N1D: torch.Tensor, sin_N1D: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Rotated queries (N, H, D), rotated keys (N, h, D), values (N, h*D)."""
        stacked_NX = layer.query_key_value(self._normed(x_ND, layer.norm_in_D))
        rotary = (self._queries + self._heads) * self._size
        plain_NHD = stacked_NX[:, :rotary].unflatten(1, (-1, self._size))
        swapped_NHD = plain_NHD.roll(self._size // 2, dims=-1)
        turned_NHD = torch.addcmul(plain_NHD * cos_N1D, swapped_NHD, sin_N1D)
        queries_NHD, keys_NHD = turned_NHD.tensor_split([self._queries], dim=1)
        return queries_NHD, keys_NHD, stacked_NX[:, rotary:]

    def _outputs(self, x_ND: torch.Tensor, mixed_NX: torch.Tensor, layer: _Layer) -> torch.Tensor:
        """Attention's output projection and the feed-forward part, with their residuals."""
        x_ND = layer.out.onto(x_ND, mixed_NX)
        gate_NI, up_NI = layer.gate_up(self._normed(x_ND, layer.norm_mid_D)).chunk(2, dim=-1)
        return layer.down.onto(x_ND, functional.silu(gate_NI).mul_(up_NI))
