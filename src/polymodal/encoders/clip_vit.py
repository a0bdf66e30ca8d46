"""CLIP's image encoder: published sizes and key tables for `vit.py`.

Paper: CLIP (arXiv 2103.00020); OpenCLIP (arXiv 2212.07143) for ViT-bigG.

Flow
    pixel_values -> patch convolution without bias, class token, positions -> pre_norm -> blocks -> features [N, S, D]
    pool: norm of the class token -> project: bias-free linear to the joint space [N, E]

Traps
- OpenAI's weights need quick_gelu; OpenCLIP's need the exact GELU.
- The features are NOT normalised: the post norm applies to the pooled class token only.
- The official file stores `proj` as [D, E]; the hub stores the transpose.
- There are D // 64 heads (bigG: 16 of width 104); no weight file stores that number.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from polymodal.encoders.vit import ClassHeadConfig, ViTBlockConfig, ViTConfig
from polymodal.errors import ConfigError
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.mlp import MLPConfig
from polymodal.nn.norm import LayerNormConfig
from polymodal.weights.keytable import KeyTable, Row, drop, rename, split
from polymodal.weights.operations import Transpose

PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
"""Per-channel mean of pixels in 0..1, as the published weights expect."""
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)
"""Per-channel standard deviation of pixels in 0..1, as the published weights expect."""


def clip_vit(
    *,
    width: int,
    depth: int,
    patch_size: int,
    embed_width: int | None = None,
    image_size: int = 224,
    heads: int | None = None,
    ffn_width: int | None = None,
    activation: str = "quick_gelu",
) -> ViTConfig:
    """CLIP's image encoder at any size, all blocks alike; `embed_width`: of the joint space, None: no projection."""
    norm = LayerNormConfig()
    block = ViTBlockConfig(
        attention=AttentionConfig(width=width, heads=heads or width // 64, qkv_bias=True, out_bias=True),
        mlp=MLPConfig(width=width, ffn_width=ffn_width or 4 * width, activation=activation),
        norm=norm,
    )
    return ViTConfig(
        image_size=image_size,
        patch_size=patch_size,
        width=width,
        blocks=(block,) * depth,
        patch_bias=False,
        pre_norm=norm,
        head=ClassHeadConfig(norm=norm, out_width=embed_width, bias=False),
    )


def parse_config(config: Mapping[str, Any]) -> ViTConfig:
    """The encoder of a `CLIPVisionConfig` dict, with the pooled norm but no projection.

    Absent keys take transformers' defaults.  Adapt it with `replace`: `layer`, `keep_class`, and `head=None` if the
    pooled vector is not needed.  Raises ConfigError if image_size or patch_size is not one number.
    """
    image_size, patch_size = config.get("image_size", 224), config.get("patch_size", 32)
    if not isinstance(image_size, int) or not isinstance(patch_size, int):
        raise ConfigError(f"clip: image_size and patch_size must be numbers, found {image_size!r} and {patch_size!r}")
    encoder = clip_vit(
        width=config.get("hidden_size", 768),
        depth=config.get("num_hidden_layers", 12),
        patch_size=patch_size,
        image_size=image_size,
        heads=config.get("num_attention_heads", 12),
        ffn_width=config.get("intermediate_size", 3072),
        activation=config.get("hidden_act", "quick_gelu"),
    )
    return replace(_with_eps(encoder, config.get("layer_norm_eps", 1e-5)), channels=config.get("num_channels", 3))


def _with_eps(config: ViTConfig, eps: float) -> ViTConfig:
    """The same encoder with another epsilon in all of its norms."""
    norm, block = LayerNormConfig(eps=eps), config.blocks[0]
    assert isinstance(block, ViTBlockConfig) and config.head is not None
    blocks = (replace(block, norm=norm),) * len(config.blocks)
    return replace(config, blocks=blocks, pre_norm=norm, head=replace(config.head, norm=norm))


def with_projection(config: ViTConfig, embed_width: int) -> ViTConfig:
    """The same encoder with a bias-free linear to a joint space of `embed_width`."""
    if config.head is None:
        raise ConfigError("clip: the projection needs the pooled norm; keep the head of the encoder")
    return replace(config, head=replace(config.head, out_width=embed_width))


VIT_B_32 = clip_vit(width=768, depth=12, patch_size=32, embed_width=512)
VIT_B_16 = clip_vit(width=768, depth=12, patch_size=16, embed_width=512)
VIT_L_14 = clip_vit(width=1024, depth=24, patch_size=14, embed_width=768)
VIT_L_14_336 = replace(VIT_L_14, image_size=336)
VIT_BIG_G_14 = clip_vit(
    width=1664, depth=48, patch_size=14, embed_width=1280, heads=16, ffn_width=8192, activation="gelu"
)


def _pair(source: str, target: str) -> tuple[Row, Row]:
    return (
        rename(f"{source}.weight", f"{target}.weight"),
        rename(f"{source}.bias", f"{target}.bias"),
    )


_HF = "vision_model.encoder.layers.{}"
_HF_BODY = KeyTable(
    (
        drop("vision_model.embeddings.position_ids"),
        rename("vision_model.embeddings.class_embedding", "class_token"),
        rename("vision_model.embeddings.patch_embedding.weight", "patch_embed.weight"),
        rename("vision_model.embeddings.position_embedding.weight", "positions"),
        *_pair("vision_model.pre_layrnorm", "pre_norm"),  # sic
        *_pair(f"{_HF}.layer_norm1", "blocks.{}.attn_norm"),
        *_pair(f"{_HF}.self_attn.q_proj", "blocks.{}.attn.q_proj"),
        *_pair(f"{_HF}.self_attn.k_proj", "blocks.{}.attn.k_proj"),
        *_pair(f"{_HF}.self_attn.v_proj", "blocks.{}.attn.v_proj"),
        *_pair(f"{_HF}.self_attn.out_proj", "blocks.{}.attn.o_proj"),
        *_pair(f"{_HF}.layer_norm2", "blocks.{}.mlp_norm"),
        *_pair(f"{_HF}.mlp.fc1", "blocks.{}.mlp.up_proj"),
        *_pair(f"{_HF}.mlp.fc2", "blocks.{}.mlp.down_proj"),
    )
)

HF_KEYS = _HF_BODY + KeyTable(
    (
        *_pair("vision_model.post_layernorm", "head.norm"),
        rename("visual_projection.weight", "head.proj.weight"),
    )
)
"""Hub checkpoints (names on disk) -> ours."""

HF_FEATURE_KEYS = _HF_BODY + KeyTable((drop("vision_model.post_layernorm.**"), drop("visual_projection.weight")))
"""The same for an encoder without head, as vision-language models use it."""


def hf_keys(config: ViTConfig) -> KeyTable:
    """Hub names under `vision_model.` -> ours; without a head in the config, its tensors are dropped."""
    if config.head is None:
        return HF_FEATURE_KEYS
    if config.head.out_width is not None:
        return HF_KEYS
    return _HF_BODY + KeyTable(_pair("vision_model.post_layernorm", "head.norm"))


def _split_qkv(leaf: str) -> Row:
    targets = [f"blocks.{{}}.attn.{name}_proj.{leaf}" for name in "qkv"]
    return split(f"visual.transformer.resblocks.{{}}.attn.in_proj_{leaf}", targets)


_OPENAI = "visual.transformer.resblocks.{}"
_OPENAI_BODY = KeyTable(
    (
        rename("visual.class_embedding", "class_token"),
        rename("visual.conv1.weight", "patch_embed.weight"),
        rename("visual.positional_embedding", "positions"),
        *_pair("visual.ln_pre", "pre_norm"),
        *_pair(f"{_OPENAI}.ln_1", "blocks.{}.attn_norm"),
        _split_qkv("weight"),
        _split_qkv("bias"),
        *_pair(f"{_OPENAI}.attn.out_proj", "blocks.{}.attn.o_proj"),
        *_pair(f"{_OPENAI}.ln_2", "blocks.{}.mlp_norm"),
        *_pair(f"{_OPENAI}.mlp.c_fc", "blocks.{}.mlp.up_proj"),
        *_pair(f"{_OPENAI}.mlp.c_proj", "blocks.{}.mlp.down_proj"),
    )
)

OPENAI_KEYS = _OPENAI_BODY + KeyTable(
    (*_pair("visual.ln_post", "head.norm"), rename("visual.proj", "head.proj.weight", Transpose(0, 1)))
)
"""Official CLIP and OpenCLIP files (q, k, v fused in that order) -> ours."""

OPENAI_FEATURE_KEYS = _OPENAI_BODY + KeyTable((drop("visual.ln_post.**"), drop("visual.proj")))
"""The same for an encoder without head, as vision-language models use it."""
