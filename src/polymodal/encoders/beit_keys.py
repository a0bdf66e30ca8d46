"""BEiT configs and key tables: parses a published `config.json` and maps hub and official names to `beit.py`.

Paper: BEiT (arXiv 2106.08254); official files from microsoft/unilm.

    parse_config(config.json of transformers' BeitConfig) -> BeitConfig          hf_keys() -> names under `beit.`
    OFFICIAL_KEYS: qkv in one matrix, separate q_bias and v_bias, gamma_1 and gamma_2 -> ours

Traps: norm eps is 1e-12 in the hub's configs and 1e-6 in the official code; the official pretraining files have one
shared table `rel_pos_bias`, the fine-tuned ones have one table per block; both store a `relative_position_index`
buffer, which is computed here instead.
"""

from collections.abc import Mapping
from typing import Any

from polymodal.encoders import google_vit
from polymodal.encoders.beit import BeitBlockConfig, BeitConfig, RelativePositionsConfig
from polymodal.encoders.vit import sides
from polymodal.nn.attention import AttentionConfig, AttentionLinears
from polymodal.nn.linear import LinearConfig
from polymodal.nn.mlp import MLPConfig
from polymodal.nn.norm import LayerNormConfig
from polymodal.weights.keytable import KeyTable, Row, drop, rename, split
from polymodal.weights.operations import Squeeze

PIXEL_MEAN = (0.5, 0.5, 0.5)
"""Per-channel mean of pixels in 0..1, as the published weights expect."""
PIXEL_STD = (0.5, 0.5, 0.5)
"""Per-channel standard deviation of pixels in 0..1, as the published weights expect."""


def parse_config(config: Mapping[str, Any]) -> BeitConfig:
    """The encoder, without head, of a transformers `BeitConfig` dict; absent keys take transformers' defaults."""
    width, heads = config.get("hidden_size", 768), config.get("num_attention_heads", 12)
    image_size, patch_size = sides(config.get("image_size", 224)), sides(config.get("patch_size", 16))
    window = image_size[0] // patch_size[0], image_size[1] // patch_size[1]
    table = RelativePositionsConfig(window=window, heads=heads)
    norm = LayerNormConfig(eps=config.get("layer_norm_eps", 1e-12))
    scale = config.get("layer_scale_init_value", 0.1)
    block = BeitBlockConfig(
        attention=AttentionConfig(
            width=width,
            heads=heads,
            head_dim=config.get("head_dim"),
            qkv_bias=True,
            out_bias=True,
            linears=AttentionLinears(k=LinearConfig(bias=False)),
        ),
        mlp=MLPConfig(
            width=width,
            ffn_width=config.get("intermediate_size", 3072),
            activation=config.get("hidden_act", "gelu"),
        ),
        norm=norm,
        scale=scale if scale > 0 else None,
        relative=table if config.get("use_relative_position_bias") else None,
    )
    return BeitConfig(
        image_size=image_size,
        patch_size=patch_size,
        width=width,
        blocks=(block,) * config.get("num_hidden_layers", 12),
        channels=config.get("num_channels", 3),
        mask_token=bool(config.get("use_mask_token")),
        positions=bool(config.get("use_absolute_position_embeddings")),
        relative=table if config.get("use_shared_relative_position_bias") else None,
        final_norm=None if config.get("use_mean_pooling", True) else norm,
    )


def _pair(source: str, target: str) -> tuple[Row, Row]:
    return rename(f"{source}.weight", f"{target}.weight"), rename(f"{source}.bias", f"{target}.bias")


_HF = "encoder.layer.{}"
_TABLE = "relative_position_bias.relative_position_bias_table"
HF_KEYS = KeyTable(
    (
        rename("embeddings.cls_token", "class_token", Squeeze(0), Squeeze(0)),
        rename("embeddings.mask_token", "mask_token", Squeeze(0), Squeeze(0)),
        rename("embeddings.position_embeddings", "positions", Squeeze(0)),
        *_pair("embeddings.patch_embeddings.projection", "patch_embed"),
        rename(f"encoder.{_TABLE}", "relative.table"),
        drop("encoder.relative_position_bias.relative_position_index"),
        rename(f"{_HF}.attention.attention.{_TABLE}", "blocks.{}.relative.table"),
        drop(f"{_HF}.attention.attention.relative_position_bias.relative_position_index"),
        *_pair(f"{_HF}.layernorm_before", "blocks.{}.attn_norm"),
        *_pair(f"{_HF}.attention.attention.query", "blocks.{}.attn.q_proj"),
        rename(f"{_HF}.attention.attention.key.weight", "blocks.{}.attn.k_proj.weight"),
        *_pair(f"{_HF}.attention.attention.value", "blocks.{}.attn.v_proj"),
        *_pair(f"{_HF}.attention.output.dense", "blocks.{}.attn.o_proj"),
        *_pair(f"{_HF}.layernorm_after", "blocks.{}.mlp_norm"),
        *_pair(f"{_HF}.intermediate.dense", "blocks.{}.mlp.up_proj"),
        *_pair(f"{_HF}.output.dense", "blocks.{}.mlp.down_proj"),
        rename(f"{_HF}.lambda_1", "blocks.{}.attn_scale"),
        rename(f"{_HF}.lambda_2", "blocks.{}.mlp_scale"),
        *_pair("layernorm", "final_norm"),
    )
)
"""Hub names on disk -> ours; models with a head prefix them with `beit.`."""

IN_MEMORY = {
    "encoder.relative_position_bias": "shared_position_bias",
    "attention.attention.relative_position_bias": "relative_position_bias",
    **google_vit.IN_MEMORY,
}
"""Module names of transformers 5, which PEFT adapters use: for `KeyTable.reworded`."""

_BLOCK = "blocks.{}"
OFFICIAL_KEYS = KeyTable(
    (
        rename("cls_token", "class_token", Squeeze(0), Squeeze(0)),
        rename("mask_token", "mask_token", Squeeze(0), Squeeze(0)),
        rename("pos_embed", "positions", Squeeze(0)),
        *_pair("patch_embed.proj", "patch_embed"),
        rename("rel_pos_bias.relative_position_bias_table", "relative.table"),
        drop("rel_pos_bias.relative_position_index"),
        rename(f"{_BLOCK}.attn.relative_position_bias_table", "blocks.{}.relative.table"),
        drop(f"{_BLOCK}.attn.relative_position_index"),
        *_pair(f"{_BLOCK}.norm1", "blocks.{}.attn_norm"),
        split(f"{_BLOCK}.attn.qkv.weight", [f"blocks.{{}}.attn.{name}_proj.weight" for name in "qkv"]),
        rename(f"{_BLOCK}.attn.q_bias", "blocks.{}.attn.q_proj.bias"),
        rename(f"{_BLOCK}.attn.v_bias", "blocks.{}.attn.v_proj.bias"),
        *_pair(f"{_BLOCK}.attn.proj", "blocks.{}.attn.o_proj"),
        *_pair(f"{_BLOCK}.norm2", "blocks.{}.mlp_norm"),
        *_pair(f"{_BLOCK}.mlp.fc1", "blocks.{}.mlp.up_proj"),
        *_pair(f"{_BLOCK}.mlp.fc2", "blocks.{}.mlp.down_proj"),
        rename(f"{_BLOCK}.gamma_1", "blocks.{}.attn_scale"),
        rename(f"{_BLOCK}.gamma_2", "blocks.{}.mlp_scale"),
    )
)
"""Names of the official .pth files (entry `model`), without norm and head -> ours."""
