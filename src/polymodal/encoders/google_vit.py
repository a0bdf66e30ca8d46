"""Google's original Vision Transformers: published sizes and key tables for `vit.py`.

Paper: ViT (arXiv 2010.11929); smaller sizes and recipes from AugReg (arXiv 2106.10270).

Flow
    pixel_values in -1..1 -> patch convolution with bias, class token, positions -> blocks -> norm -> features
    pool: class token -> dense + tanh (original ImageNet-21k checkpoints only) -> project: class logits

Traps
- Norm eps is 1e-12 in the hub's configs and 1e-6 in the JAX code; GELU is exact on the hub and the tanh
  approximation in JAX.  Take both from the source of the weights.
- H/14 has head width 80, not 64.
- Hub files keep the old names on disk (`encoder.layer.N.attention.attention.query`), whatever transformers uses in
  memory; some have the prefix `vit.`, some have none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from polymodal.encoders.vit import ClassHeadConfig, ViTBlockConfig, ViTConfig, sides
from polymodal.errors import ConfigError
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.mlp import MLPConfig
from polymodal.nn.norm import LayerNormConfig
from polymodal.weights.keytable import KeyTable, Row, rename
from polymodal.weights.operations import Operation, Reshape, Squeeze, Transpose

PIXEL_MEAN = (0.5, 0.5, 0.5)
"""Per-channel mean of pixels in 0..1, as the published weights expect."""
PIXEL_STD = (0.5, 0.5, 0.5)
"""Per-channel standard deviation of pixels in 0..1, as the published weights expect."""


def google_vit(
    *,
    width: int,
    depth: int,
    heads: int,
    patch_size: int,
    image_size: int = 224,
    head: ClassHeadConfig | None = None,
    activation: str = "gelu",
    eps: float = 1e-12,
) -> ViTConfig:
    """A ViT at any size, all blocks alike; defaults as on the hub (JAX: "gelu_tanh", 1e-6)."""
    norm = LayerNormConfig(eps=eps)
    block = ViTBlockConfig(
        attention=AttentionConfig(width=width, heads=heads, qkv_bias=True, out_bias=True),
        mlp=MLPConfig(width=width, ffn_width=4 * width, activation=activation),
        norm=norm,
    )
    return ViTConfig(
        image_size=image_size,
        patch_size=patch_size,
        width=width,
        blocks=(block,) * depth,
        final_norm=norm,
        head=head,
    )


VIT_TI_16 = google_vit(width=192, depth=12, heads=3, patch_size=16)
VIT_S_16 = google_vit(width=384, depth=12, heads=6, patch_size=16)
VIT_S_32 = google_vit(width=384, depth=12, heads=6, patch_size=32)
VIT_B_16 = google_vit(width=768, depth=12, heads=12, patch_size=16)
VIT_B_32 = google_vit(width=768, depth=12, heads=12, patch_size=32)
VIT_L_16 = google_vit(width=1024, depth=24, heads=16, patch_size=16)
VIT_L_32 = google_vit(width=1024, depth=24, heads=16, patch_size=32)
VIT_H_14 = google_vit(width=1280, depth=32, heads=16, patch_size=14)


def with_classes(config: ViTConfig, classes: int, *, pre_logits: bool = False) -> ViTConfig:
    """The same encoder with a classifier; `pre_logits` adds the dense layer of the ImageNet-21k originals."""
    hidden = config.width if pre_logits else None
    return replace(config, head=ClassHeadConfig(hidden_width=hidden, out_width=classes))


def _pair(source: str, target: str) -> tuple[Row, Row]:
    return (
        rename(f"{source}.weight", f"{target}.weight"),
        rename(f"{source}.bias", f"{target}.bias"),
    )


_HF = "encoder.layer.{}"
HF_BASE_KEYS = KeyTable(
    (
        rename("embeddings.cls_token", "class_token", Squeeze(0), Squeeze(0)),
        rename("embeddings.position_embeddings", "positions", Squeeze(0)),
        *_pair("embeddings.patch_embeddings.projection", "patch_embed"),
        *_pair(f"{_HF}.layernorm_before", "blocks.{}.attn_norm"),
        *_pair(f"{_HF}.attention.attention.query", "blocks.{}.attn.q_proj"),
        *_pair(f"{_HF}.attention.attention.key", "blocks.{}.attn.k_proj"),
        *_pair(f"{_HF}.attention.attention.value", "blocks.{}.attn.v_proj"),
        *_pair(f"{_HF}.attention.output.dense", "blocks.{}.attn.o_proj"),
        *_pair(f"{_HF}.layernorm_after", "blocks.{}.mlp_norm"),
        *_pair(f"{_HF}.intermediate.dense", "blocks.{}.mlp.up_proj"),
        *_pair(f"{_HF}.output.dense", "blocks.{}.mlp.down_proj"),
        *_pair("layernorm", "final_norm"),
        *_pair("pooler.dense", "head.dense"),
    )
)
"""Hub checkpoints of the bare encoder (names on disk) -> ours; `pooler` is the dense layer of the head."""

IN_MEMORY = {
    "encoder.layer.": "layers.",
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}
"""Module names of transformers 5, which PEFT adapters use: for `KeyTable.reworded`."""

MASK_KEYS = KeyTable((rename("embeddings.mask_token", "mask_token", Squeeze(0), Squeeze(0)),))
"""The additional tensor of masked image models."""

HF_KEYS = HF_BASE_KEYS.prefixed(source="vit.") + KeyTable(_pair("classifier", "head.proj"))
"""Hub checkpoints with a classifier (names on disk) -> ours."""


def parse_config(config: Mapping[str, Any]) -> ViTConfig:
    """The encoder, without head, of a transformers `ViTConfig` dict; absent keys take transformers' defaults.

    `with_pooler` adds the pooler; `image_size` and `patch_size` may be pairs.
    """
    width = config.get("hidden_size", 768)
    norm = LayerNormConfig(eps=config.get("layer_norm_eps", 1e-12))
    block = ViTBlockConfig(
        attention=AttentionConfig(
            width=width,
            heads=config.get("num_attention_heads", 12),
            head_dim=config.get("head_dim"),
            qkv_bias=config.get("qkv_bias", True),
            out_bias=True,
        ),
        mlp=MLPConfig(
            width=width,
            ffn_width=config.get("intermediate_size", 3072),
            activation=config.get("hidden_act", "gelu"),
        ),
        norm=norm,
    )
    return ViTConfig(
        image_size=sides(config.get("image_size", 224)),
        patch_size=sides(config.get("patch_size", 16)),
        width=width,
        blocks=(block,) * config.get("num_hidden_layers", 12),
        final_norm=norm,
        channels=config.get("num_channels", 3),
    )


def with_pooler(vit: ViTConfig, config: Mapping[str, Any]) -> ViTConfig:
    """The same encoder with the pooler (`pooler_output_size`, `pooler_act`) of a `ViTConfig` dict."""
    width = config.get("pooler_output_size") or vit.width
    return replace(vit, head=ClassHeadConfig(hidden_width=width, activation=config.get("pooler_act", "tanh")))


def jax_keys(config: ViTConfig) -> KeyTable:
    """Names of the official .npz files -> ours; depends on the config because JAX keeps heads as a dimension."""
    block = config.blocks[0]
    if not isinstance(block, ViTBlockConfig):
        raise TypeError("jax_keys reads the number of heads from ViTBlockConfig")
    width, heads = config.width, block.attention.heads
    split_heads, joined = (heads, width // heads), (width,)
    swap = Transpose(0, 1)
    layer = "Transformer/encoderblock_{}"
    attention = f"{layer}/MultiHeadDotProductAttention_1"
    rows: list[Row] = []
    for source, target in (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj")):
        rows += _dense(
            f"{attention}/{source}",
            f"blocks.{{}}.attn.{target}",
            (Reshape((width, *split_heads), (width, width)), swap),
            (Reshape(split_heads, joined),),
        )
    merge = Reshape((*split_heads, width), (width, width))
    rows += _dense(f"{attention}/out", "blocks.{}.attn.o_proj", (merge, swap))
    rows += _dense(f"{layer}/MlpBlock_3/Dense_0", "blocks.{}.mlp.up_proj", (swap,))
    rows += _dense(f"{layer}/MlpBlock_3/Dense_1", "blocks.{}.mlp.down_proj", (swap,))
    for source, target in (
        (f"{layer}/LayerNorm_0", "blocks.{}.attn_norm"),
        (f"{layer}/LayerNorm_2", "blocks.{}.mlp_norm"),
        ("Transformer/encoder_norm", "final_norm"),
    ):
        rows += [rename(f"{source}/scale", f"{target}.weight"), rename(f"{source}/bias", f"{target}.bias")]
    # [P, P, 3, D] -> [D, 3, P, P], one transposition at a time
    patches = (Transpose(0, 3), Transpose(1, 2), Transpose(2, 3))
    rows += _dense("embedding", "patch_embed", patches)
    rows += _dense("pre_logits", "head.dense", (swap,))
    rows += _dense("head", "head.proj", (swap,))
    rows.append(rename("cls", "class_token", Squeeze(0), Squeeze(0)))
    rows.append(rename("Transformer/posembed_input/pos_embedding", "positions", Squeeze(0)))
    return KeyTable(tuple(rows))


def _dense(source: str, target: str, weight: tuple[Operation, ...], bias: tuple[Operation, ...] = ()) -> list[Row]:
    return [
        rename(f"{source}/kernel", f"{target}.weight", *weight),
        rename(f"{source}/bias", f"{target}.bias", *bias),
    ]


def infer(shapes: Mapping[str, Sequence[int]]) -> dict[str, Any] | None:
    """Config of an official .npz file, inferred from its names and shapes; None for any other file.

    Raises ConfigError for the hybrids with a ResNet stem.
    """
    if "embedding/kernel" not in shapes or "Transformer/encoderblock_0/LayerNorm_0/scale" not in shapes:
        return None
    if any(name.startswith(("conv_root/", "block1/")) for name in shapes):
        raise ConfigError("vit: official files with a ResNet stem (R50+ViT) are not supported; expected a plain ViT")
    if "cls" not in shapes:
        raise ConfigError("vit: official files with mean pooling (-gap) are not supported; expected a class token")
    patch, _, _, width = shapes["embedding/kernel"]
    query = shapes["Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel"]
    patches = shapes["Transformer/posembed_input/pos_embedding"][1] - 1
    return {
        "model_type": "vit_jax",
        "width": width,
        "depth": len({name.split("/")[1] for name in shapes if name.startswith("Transformer/encoderblock_")}),
        "heads": query[1],
        "ffn_width": shapes["Transformer/encoderblock_0/MlpBlock_3/Dense_0/kernel"][1],
        "patch_size": patch,
        "image_size": patch * round(patches**0.5),
        "pre_logits": shapes["pre_logits/kernel"][1] if "pre_logits/kernel" in shapes else None,
        "classes": shapes["head/kernel"][1] if "head/kernel" in shapes else None,
    }


def parse_jax_config(config: Mapping[str, Any]) -> ViTConfig:
    """The encoder for a config from `infer`, with the eps and the GELU of the JAX code."""
    encoder = google_vit(
        width=config["width"],
        depth=config["depth"],
        heads=config["heads"],
        patch_size=config["patch_size"],
        image_size=config["image_size"],
        head=ClassHeadConfig(hidden_width=config.get("pre_logits"), out_width=config.get("classes")),
        activation="gelu_tanh",
        eps=1e-6,
    )
    block = encoder.blocks[0]
    assert isinstance(block, ViTBlockConfig)
    mlp = MLPConfig(width=encoder.width, ffn_width=config["ffn_width"], activation="gelu_tanh")
    return replace(encoder, blocks=(replace(block, mlp=mlp),) * len(encoder.blocks))
