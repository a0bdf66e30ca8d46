"""Well-known parts as their papers write them, in plain torch: for the oracle of a system whose code is not published.

    weights: names on disk -> tensors      linear(weights, "lm_head", x), clip(weights, config, pixels), llama(...)

They read published names and the words of a published config.json, one row of a batch at a time, without cache, mask or
padding, and use nothing of this project; what a system adds to them is written beside them, in its evidence.
`*_shapes` list the names and shapes of the same parts.  tests/check/test_plain.py compares them with `transformers`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = Mapping[str, Tensor]
Shapes = dict[str, tuple[int, ...]]
Linear = Callable[[Weights, str, Tensor], Tensor]


def below(weights: Weights, prefix: str) -> dict[str, Tensor]:
    """The weights under a prefix, without it."""
    return {name.removeprefix(prefix): x for name, x in weights.items() if name.startswith(prefix)}


def linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    """[..., in] -> [..., out], with a bias where there is one."""
    return F.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))


def layer_norm(weights: Weights, name: str, x: Tensor, eps: float = 1e-5) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], eps)


def rms_norm(weights: Weights, name: str, x: Tensor, eps: float = 1e-6) -> Tensor:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weights[f"{name}.weight"]


def heads_of(x: Tensor, heads: int) -> Tensor:
    """[..., T, D] -> [..., H, T, E]"""
    return x.unflatten(-1, (heads, -1)).transpose(-3, -2)


def attention(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None = None) -> Tensor:
    """q [..., H, T, E], k and v [..., K, S, E] -> [..., T, H * E]; a query head reads key head h // (H / K).

    allowed: bool [T, S], which keys a query sees; one that sees none gets zeros.
    """
    k, v = (x.repeat_interleave(q.shape[-3] // x.shape[-3], -3) for x in (k, v))
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -torch.inf)
    return (scores.softmax(-1).nan_to_num() @ v).transpose(-3, -2).flatten(-2)


def rotated(x: Tensor, theta: float = 10000.0) -> Tensor:
    """Rotary positions 0, 1, ... of [..., T, E]; dimension i turns with i + E / 2."""
    half = x.shape[-1] // 2
    angles = torch.arange(x.shape[-2])[:, None] * theta ** (-torch.arange(half) / half)
    first, second = x[..., :half], x[..., half:]
    return torch.cat((first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()), -1)


def llama(
    weights: Weights,
    config: Mapping[str, Any],
    x: Tensor,
    *,
    inner: Linear = linear,
    before: Callable[[int, Tensor], Tensor] = lambda layer, x: x,
) -> Tensor:
    """Embeddings [T, D] of a row -> logits [T, V]: LLaMA (arXiv 2302.13971).

    inner: what stands for the linears of the blocks.  before(layer, x): what is done to x in front of a block.
    """
    heads, keys = config["num_attention_heads"], config["num_key_value_heads"]
    past = torch.ones(len(x), len(x), dtype=torch.bool).tril()
    for layer in range(config["num_hidden_layers"]):
        name = f"model.layers.{layer}"
        x = before(layer, x)
        seen = rms_norm(weights, f"{name}.input_layernorm", x)
        q, k, v = (inner(weights, f"{name}.self_attn.{part}_proj", seen) for part in "qkv")
        mixed = attention(rotated(heads_of(q, heads)), rotated(heads_of(k, keys)), heads_of(v, keys), past)
        x = x + inner(weights, f"{name}.self_attn.o_proj", mixed)
        seen = rms_norm(weights, f"{name}.post_attention_layernorm", x)
        gate, up = (inner(weights, f"{name}.mlp.{part}_proj", seen) for part in ("gate", "up"))
        x = x + inner(weights, f"{name}.mlp.down_proj", F.silu(gate) * up)
    return linear(weights, "lm_head", rms_norm(weights, "model.norm", x))


def llama_shapes(config: Mapping[str, Any]) -> Shapes:
    width, ffn, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    keys = width // config["num_attention_heads"] * config["num_key_value_heads"]
    made: Shapes = {f"{name}.weight": (vocabulary, width) for name in ("model.embed_tokens", "lm_head")}
    made["model.norm.weight"] = (width,)
    block = {"self_attn.q_proj": (width, width), "self_attn.k_proj": (keys, width), "self_attn.v_proj": (keys, width),
             "self_attn.o_proj": (width, width), "mlp.gate_proj": (ffn, width), "mlp.up_proj": (ffn, width),
             "mlp.down_proj": (width, ffn),
             "input_layernorm": (width,), "post_attention_layernorm": (width,)}  # fmt: skip
    for layer in range(config["num_hidden_layers"]):
        made |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in block.items()}
    return made


def clip(weights: Weights, config: Mapping[str, Any], pixels: Tensor, blocks: int) -> Tensor:
    """Pixels [N, 3, side, side] -> patches [N, S, D] behind its first `blocks` blocks: CLIP (arXiv 2103.00020)."""
    heads, start = config["num_attention_heads"], "vision_model.embeddings"
    patches = F.conv2d(pixels, weights[f"{start}.patch_embedding.weight"], stride=config["patch_size"])
    first = weights[f"{start}.class_embedding"].expand(len(pixels), 1, -1)
    x = torch.cat((first, patches.flatten(2).transpose(1, 2)), 1) + weights[f"{start}.position_embedding.weight"]
    x = layer_norm(weights, "vision_model.pre_layrnorm", x)
    for layer in range(blocks):
        name = f"vision_model.encoder.layers.{layer}"
        seen = layer_norm(weights, f"{name}.layer_norm1", x)
        q, k, v = (heads_of(linear(weights, f"{name}.self_attn.{part}_proj", seen), heads) for part in "qkv")
        x = x + linear(weights, f"{name}.self_attn.out_proj", attention(q, k, v))
        seen = linear(weights, f"{name}.mlp.fc1", layer_norm(weights, f"{name}.layer_norm2", x))
        x = x + linear(weights, f"{name}.mlp.fc2", seen * torch.sigmoid(1.702 * seen))
    return x[:, 1:]


def clip_shapes(config: Mapping[str, Any]) -> Shapes:
    width, ffn, patch = config["hidden_size"], config["intermediate_size"], config["patch_size"]
    made: Shapes = {
        "vision_model.embeddings.class_embedding": (width,),
        "vision_model.embeddings.patch_embedding.weight": (width, 3, patch, patch),
        "vision_model.embeddings.position_embedding.weight": ((config["image_size"] // patch) ** 2 + 1, width),
    }
    wide = {"self_attn.q_proj": (width, width), "self_attn.k_proj": (width, width), "self_attn.v_proj": (width, width),
            "self_attn.out_proj": (width, width), "mlp.fc1": (ffn, width), "mlp.fc2": (width, ffn),
            "layer_norm1": (width,), "layer_norm2": (width,)}  # fmt: skip
    for layer in range(config["num_hidden_layers"]):
        for name, shape in wide.items():
            made |= weight_and_bias(f"vision_model.encoder.layers.{layer}.{name}", shape)
    for name in ("vision_model.pre_layrnorm", "vision_model.post_layernorm"):
        made |= weight_and_bias(name, (width,))
    return made


def weight_and_bias(name: str, shape: Sequence[int]) -> Shapes:
    """The names of a layer; the bias is as long as the first dimension."""
    return {f"{name}.weight": tuple(shape), f"{name}.bias": (shape[0],)}


def connector(weights: Weights, x: Tensor) -> Tensor:
    """Two linears with GELU between them (arXiv 2310.03744)."""
    return linear(weights, "linear_2", F.gelu(linear(weights, "linear_1", x)))


def connector_shapes(width: int, out_width: int) -> Shapes:
    return weight_and_bias("linear_1", (out_width, width)) | weight_and_bias("linear_2", (out_width, out_width))
