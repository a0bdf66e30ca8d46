"""CLIP's text encoder: a small causal transformer; its state at the end token is the embedding of the text.

Paper: CLIP (arXiv 2103.00020).

Flow
    input_ids [B, T] -> embedding + learned positions -> pre-norm blocks, causal -> final_norm -> features [B, T, D]
    pool: the state at the end token [B, D] -> project: bias-free linear to the joint space [B, E]

Traps
- Padding is on the right, after the end token; causal attention keeps it out of the pooled vector.
- Published configs have `eos_token_id` 2, which is not the id of the end token.  With it, pooling takes the position
  of the HIGHEST id, the first one if it repeats.  Any other value: the first position of that id, or 0 without one.
- The official file stores `text_projection` as [D, E] and no mask buffer; the hub stores the transpose.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.encoders.vit import ViTBlockConfig
from polymodal.errors import ConfigError
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.mask import MaskSpec, padding_mask
from polymodal.nn.mlp import MLPConfig
from polymodal.nn.norm import LayerNormConfig, NormConfig
from polymodal.weights.keytable import KeyTable, Row, drop, rename, split
from polymodal.weights.operations import Transpose

HIGHEST_ID = 2
"""The `eos_token_id` of the published configs; it means "pool at the highest token id"."""


@dataclass(frozen=True, kw_only=True)
class ClipTextConfig:
    """`positions`: maximum length in tokens.  `eos` None: pool at the highest id.  `out_width` None: no projection."""

    vocab_size: int
    width: int
    blocks: tuple[ViTBlockConfig, ...]
    positions: int = 77
    eos: int | None = None
    norm: NormConfig = field(default_factory=LayerNormConfig)
    out_width: int | None = None

    def build(self) -> "ClipText":
        """Build the encoder with fresh weights."""
        return ClipText(self)


class ClipText(nn.Module):
    """The encoder; see the module docstring for the flow."""

    def __init__(self, config: ClipTextConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Parameter(torch.empty(config.positions, config.width))
        nn.init.normal_(self.embed_tokens.weight, std=0.02)
        nn.init.normal_(self.positions, std=0.01)
        self.blocks = nn.ModuleList(block.build() for block in config.blocks)
        self.final_norm = config.norm.build(config.width)
        self.proj = None if config.out_width is None else nn.Linear(config.width, config.out_width, bias=False)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, position_ids: Tensor | None = None
    ) -> Tensor:
        """Features [B, T, D] of int ids [B, T]; attention_mask [B, T], 1 = real token; position_ids [B, T].

        Raises ConfigError if the input is longer than `positions`.
        """
        length = input_ids.shape[-1]
        if length > self.config.positions:
            raise ConfigError(
                f"clip text: expected at most {self.config.positions} tokens, found {length}; truncate the text"
            )
        positions = self.positions[:length] if position_ids is None else self.positions[position_ids]
        x = self.embed_tokens(input_ids) + positions
        mask = MaskSpec(attention_mask=padding_mask(attention_mask)).prepare(length, length, x.device)
        for block in self.blocks:
            x = block(x, mask)
        return self.final_norm(x)

    def pool(self, features: Tensor, input_ids: Tensor) -> Tensor:
        """The state at the end token: features [B, T, D] and ids [B, T] -> [B, D]."""
        eos = self.config.eos
        end = (input_ids if eos is None else (input_ids == eos).int()).argmax(-1)
        return features[torch.arange(features.shape[0], device=features.device), end]

    def project(self, pooled: Tensor) -> Tensor:
        """[B, D] -> [B, E] in the joint space, not normalised."""
        if self.proj is None:
            raise ConfigError("clip text: this encoder has no projection; set out_width in its config")
        return self.proj(pooled)

    def joint(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, position_ids: Tensor | None = None
    ) -> Tensor:
        """Encode, pool, project: [B, T] -> [B, E]."""
        return self.project(self.pool(self(input_ids, attention_mask, position_ids), input_ids))


def clip_text(
    *,
    width: int,
    depth: int,
    heads: int | None = None,
    ffn_width: int | None = None,
    vocab_size: int = 49408,
    activation: str = "quick_gelu",
    eps: float = 1e-5,
    out_width: int | None = None,
) -> ClipTextConfig:
    """CLIP's text encoder at any size, all blocks alike; `out_width` is the width of the joint space."""
    norm = LayerNormConfig(eps=eps)
    block = ViTBlockConfig(
        attention=AttentionConfig(width=width, heads=heads or width // 64, qkv_bias=True, out_bias=True),
        mlp=MLPConfig(width=width, ffn_width=ffn_width or 4 * width, activation=activation),
        norm=norm,
    )
    return ClipTextConfig(vocab_size=vocab_size, width=width, blocks=(block,) * depth, norm=norm, out_width=out_width)


def parse_config(config: Mapping[str, Any]) -> ClipTextConfig:
    """The encoder, without projection, of a `CLIPTextConfig` dict; absent keys take transformers' defaults.

    Raises ConfigError if `eos_token_id` is a list.
    """
    eos = config.get("eos_token_id", 49407)
    if not isinstance(eos, int):
        raise ConfigError(f"clip text: eos_token_id must be one id, found {eos!r}")
    width = config.get("hidden_size", 512)
    encoder = clip_text(
        width=width,
        depth=config.get("num_hidden_layers", 12),
        heads=config.get("num_attention_heads", 8),
        ffn_width=config.get("intermediate_size", 2048),
        vocab_size=config.get("vocab_size", 49408),
        activation=config.get("hidden_act", "quick_gelu"),
        eps=config.get("layer_norm_eps", 1e-5),
    )
    return replace(encoder, positions=config.get("max_position_embeddings", 77), eos=None if eos == HIGHEST_ID else eos)


def _pair(source: str, target: str) -> tuple[Row, Row]:
    return rename(f"{source}.weight", f"{target}.weight"), rename(f"{source}.bias", f"{target}.bias")


_HF = "encoder.layers.{}"
_HF_BODY = (
    drop("embeddings.position_ids"),
    rename("embeddings.token_embedding.weight", "embed_tokens.weight"),
    rename("embeddings.position_embedding.weight", "positions"),
    *_pair(f"{_HF}.layer_norm1", "blocks.{}.attn_norm"),
    *_pair(f"{_HF}.self_attn.q_proj", "blocks.{}.attn.q_proj"),
    *_pair(f"{_HF}.self_attn.k_proj", "blocks.{}.attn.k_proj"),
    *_pair(f"{_HF}.self_attn.v_proj", "blocks.{}.attn.v_proj"),
    *_pair(f"{_HF}.self_attn.out_proj", "blocks.{}.attn.o_proj"),
    *_pair(f"{_HF}.layer_norm2", "blocks.{}.mlp_norm"),
    *_pair(f"{_HF}.mlp.fc1", "blocks.{}.mlp.up_proj"),
    *_pair(f"{_HF}.mlp.fc2", "blocks.{}.mlp.down_proj"),
    *_pair("final_layer_norm", "final_norm"),
)


def hf_keys(config: ClipTextConfig) -> KeyTable:
    """Hub names -> ours: the encoder under `text_model.`, the projection as `text_projection`."""
    body = KeyTable(_HF_BODY).prefixed(source="text_model.")
    if config.out_width is None:
        return body
    return body + KeyTable((rename("text_projection.weight", "proj.weight"),))


def _split_qkv(leaf: str) -> Row:
    targets = [f"blocks.{{}}.attn.{name}_proj.{leaf}" for name in "qkv"]
    return split(f"transformer.resblocks.{{}}.attn.in_proj_{leaf}", targets)


_OPENAI = "transformer.resblocks.{}"
OPENAI_KEYS = KeyTable(
    (
        rename("token_embedding.weight", "embed_tokens.weight"),
        rename("positional_embedding", "positions"),
        *_pair(f"{_OPENAI}.ln_1", "blocks.{}.attn_norm"),
        _split_qkv("weight"),
        _split_qkv("bias"),
        *_pair(f"{_OPENAI}.attn.out_proj", "blocks.{}.attn.o_proj"),
        *_pair(f"{_OPENAI}.ln_2", "blocks.{}.mlp_norm"),
        *_pair(f"{_OPENAI}.mlp.c_fc", "blocks.{}.mlp.up_proj"),
        *_pair(f"{_OPENAI}.mlp.c_proj", "blocks.{}.mlp.down_proj"),
        *_pair("ln_final", "final_norm"),
        rename("text_projection", "proj.weight", Transpose(0, 1)),
    )
)
"""Official CLIP files (q, k, v fused in that order) -> ours."""
