"""SigLIP's image encoder (arXiv 2303.15343), as used by vision-language models: a ViT without class token.

Flow
    pixel_values -> patch convolution with bias -> + positions -> blocks -> final_norm -> features [N, S, D]

Traps: the activation is the tanh GELU; there is no norm before the blocks; LLaVA takes a layer before `final_norm`
and, with its default strategy, drops the first patch although it is not a class token.  The attention-pooling head
is not built; its tensors are dropped by name.
"""

from collections.abc import Mapping
from typing import Any

from polymodal.encoders.vit import ViTBlockConfig, ViTConfig
from polymodal.errors import ConfigError
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.mlp import MLPConfig
from polymodal.nn.norm import LayerNormConfig
from polymodal.weights.keytable import KeyTable, Row, drop, rename

PIXEL_MEAN = (0.5, 0.5, 0.5)
"""Per-channel mean of pixels in 0..1, as the published weights expect."""
PIXEL_STD = (0.5, 0.5, 0.5)
"""Per-channel standard deviation of pixels in 0..1, as the published weights expect."""


def parse_config(config: Mapping[str, Any]) -> ViTConfig:
    """The encoder of a `SiglipVisionConfig` dict; absent keys take transformers' defaults.

    Raises ConfigError if image_size or patch_size is not one number.
    """
    image_size, patch_size = config.get("image_size", 224), config.get("patch_size", 16)
    if not isinstance(image_size, int) or not isinstance(patch_size, int):
        raise ConfigError(f"siglip: image_size and patch_size must be numbers, found {image_size!r} and {patch_size!r}")
    width = config.get("hidden_size", 768)
    norm = LayerNormConfig(eps=config.get("layer_norm_eps", 1e-6))
    block = ViTBlockConfig(
        attention=AttentionConfig(
            width=width, heads=config.get("num_attention_heads", 12), qkv_bias=True, out_bias=True
        ),
        mlp=MLPConfig(
            width=width,
            ffn_width=config.get("intermediate_size", 3072),
            activation=config.get("hidden_act", "gelu_pytorch_tanh"),
        ),
        norm=norm,
    )
    return ViTConfig(
        image_size=image_size,
        patch_size=patch_size,
        width=width,
        blocks=(block,) * config.get("num_hidden_layers", 12),
        class_token=False,
        final_norm=norm,
        channels=config.get("num_channels", 3),
    )


_LAYER = "vision_model.encoder.layers.{}"
_PAIRS = (
    ("vision_model.embeddings.patch_embedding", "patch_embed"),
    (f"{_LAYER}.layer_norm1", "blocks.{}.attn_norm"),
    *((f"{_LAYER}.self_attn.{name}_proj", f"blocks.{{}}.attn.{name}_proj") for name in "qkv"),
    (f"{_LAYER}.self_attn.out_proj", "blocks.{}.attn.o_proj"),
    (f"{_LAYER}.layer_norm2", "blocks.{}.mlp_norm"),
    (f"{_LAYER}.mlp.fc1", "blocks.{}.mlp.up_proj"),
    (f"{_LAYER}.mlp.fc2", "blocks.{}.mlp.down_proj"),
)


def hf_keys(config: ViTConfig) -> KeyTable:
    """Hub names under `vision_model.` -> ours; without `final_norm` in the config, its tensors are dropped too."""
    pairs = _PAIRS
    rows: list[Row] = [drop("vision_model.embeddings.position_ids"), drop("vision_model.head.**")]
    if config.final_norm is None:
        rows.append(drop("vision_model.post_layernorm.**"))
    else:
        pairs = (*pairs, ("vision_model.post_layernorm", "final_norm"))
    rows.append(rename("vision_model.embeddings.position_embedding.weight", "positions"))
    rows += [rename(f"{source}.{leaf}", f"{target}.{leaf}") for source, target in pairs for leaf in ("weight", "bias")]
    return KeyTable(tuple(rows))
