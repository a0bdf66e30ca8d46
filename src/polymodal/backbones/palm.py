"""PaLM decoders, the language models of PaLM-E; no weights were ever released.

Paper: PaLM (arXiv 2204.02311).

    n = norm(x);  x + attn(n) + mlp(n)      one key head for all queries (arXiv 1911.02150), rope, SwiGLU, no biases
    embedding and head are one matrix; logits are divided by sqrt(width)

Traps: heads have 256 dims whatever the width, so those of 540B are narrower than the model together.  The paper does
not say which dims rope turns together nor the norms' eps: neighbours, as in the paper of rope, and T5X' 1e-6.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from polymodal.backbones.decoder import Decoder, DecoderBlockConfig, DecoderConfig, head_row
from polymodal.errors import ConfigError
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.linear import Linear
from polymodal.nn.mlp import GatedMLPConfig
from polymodal.nn.norm import LayerNorm
from polymodal.nn.rope import RopeConfig
from polymodal.weights.keytable import KeyTable

DEFAULTS: dict[str, Any] = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 16, "head_dim": 256,
                            "intermediate_size": None, "vocab_size": 256_000, "layer_norm_eps": 1e-6,
                            "rope_theta": 10_000.0, "max_position_embeddings": 2048}  # fmt: skip
"""PaLM 8B; intermediate_size None: four times the width."""


@dataclass(frozen=True, kw_only=True)
class BiaslessNormConfig:
    """A layer norm without biases; `scale` multiplies what comes out."""

    eps: float = 1e-6
    scale: float = 1.0

    def build(self, width: int) -> BiaslessNorm:
        return BiaslessNorm(self, width)


class BiaslessNorm(LayerNorm):
    """`[..., D] -> [..., D]`"""

    def __init__(self, config: BiaslessNormConfig, width: int) -> None:
        super().__init__(width, eps=config.eps, bias=False)
        self.scale = config.scale

    def forward(self, x: Tensor, token_types: Tensor | None = None) -> Tensor:
        x = super().forward(x, token_types)
        return x if self.scale == 1.0 else x * self.scale


def parse_config(config: Mapping[str, Any]) -> DecoderConfig:
    """The decoder of these numbers; absent ones are those of 8B.  Raises ConfigError for other options."""
    if unknown := set(config) - {*DEFAULTS, "model_type"}:
        raise ConfigError(f"palm: {sorted(unknown)} is not supported; it takes {', '.join(DEFAULTS)}")
    given = {**DEFAULTS, **config}
    width, size, eps = given["hidden_size"], given["head_dim"], given["layer_norm_eps"]
    attention = AttentionConfig(width=width, heads=given["num_attention_heads"], kv_heads=1, head_dim=size,
                                interleaved=True)  # fmt: skip
    mlp = GatedMLPConfig(width=width, ffn_width=given["intermediate_size"] or 4 * width)
    block = DecoderBlockConfig(attention=attention, mlp=mlp, norm=BiaslessNormConfig(eps=eps), order="shared")
    return DecoderConfig(
        vocab_size=given["vocab_size"],
        width=width,
        blocks=(block,) * given["num_hidden_layers"],
        # The head has no slot for the factor of the logits; behind the last norm it does the same.
        norm=BiaslessNormConfig(eps=eps, scale=width**-0.5),
        rope=RopeConfig(head_dim=size, theta=given["rope_theta"], interleaved=True),
        tied=True,
        max_length=given["max_position_embeddings"],
    )


def initialise(decoder: Decoder) -> None:
    """Fresh weights as the paper has them: linears by their fan-in, the embedding of unit variance."""
    nn.init.normal_(decoder.embed_tokens.weight)
    for module in decoder.modules():
        if isinstance(module, Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)


_PARTS = {"input_layernorm": "attn_norm"} | {f"self_attn.{x}_proj": f"attn.{x}_proj" for x in "qkvo"} | {
    f"mlp.{x}_proj": f"mlp.{x}_proj" for x in ("gate", "up", "down")}  # fmt: skip


def keys() -> KeyTable:
    """Names as Cohere's of the hub, the nearest released architecture, has them -> ours."""
    names = {f"model.layers.{{}}.{theirs}.weight": f"blocks.{{}}.{ours}.weight" for theirs, ours in _PARTS.items()}
    ends = {"model.embed_tokens.weight": "embed_tokens.weight", "model.norm.weight": "norm.weight"}
    return KeyTable.of({**ends, **names}, head_row("lm_head.weight", "model.embed_tokens.weight", tied=True))
