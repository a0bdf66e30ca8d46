"""BEiT-3 as torchscale keeps it: the parts of a config, and the names under `beit3.`.

A: weights of pictures, B: weights of text; two of each, in every block and in the norm behind them
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polymodal.encoders.beit3 import BEiT3Config
from polymodal.fusion.routing import RoutedLinearConfig, RoutedMLPConfig, RoutedNormConfig
from polymodal.nn.attention import AttentionConfig, AttentionLinears
from polymodal.nn.block import PreNormBlockConfig
from polymodal.nn.linear import NormedLinearConfig
from polymodal.nn.mlp import MLPConfig
from polymodal.nn.norm import LayerNormConfig
from polymodal.weights.keytable import KeyTable, Row, drop, rename
from polymodal.weights.operations import Squeeze

LARGE = {"img_size": 224, "patch_size": 16, "encoder_embed_dim": 1024, "encoder_attention_heads": 16,
         "encoder_ffn_embed_dim": 4096, "encoder_layers": 24, "max_source_positions": 1024,
         "layernorm_eps": 1e-5}  # fmt: skip


def parse_config(config: Mapping[str, Any], words: int | None = None, mask_token: bool = False) -> BEiT3Config:
    """An EncoderConfig of torchscale, with the sizes of BEiT-3 large where it names none.  words: size of the table."""
    found = {**LARGE, **config}
    width, norm = found["encoder_embed_dim"], LayerNormConfig(eps=found["layernorm_eps"])
    normed = NormedLinearConfig(norm=norm)
    both = RoutedLinearConfig()
    mlp = MLPConfig(width=width, ffn_width=found["encoder_ffn_embed_dim"], down=normed)
    norms = RoutedNormConfig(branches=(norm, norm))
    block = PreNormBlockConfig(
        attention=AttentionConfig(
            width=width, heads=found["encoder_attention_heads"], qkv_bias=True, out_bias=True,
            linears=AttentionLinears(q=both, k=both, v=both, o=RoutedLinearConfig(branches=(normed, normed))),
        ),
        mlp=RoutedMLPConfig(branches=(mlp, mlp)), norm=norms,
    )  # fmt: skip
    return BEiT3Config(
        image_size=found["img_size"], patch_size=found["patch_size"], width=width,
        norm=norms if found.get("normalize_output", True) else None,
        blocks=(block,) * found["encoder_layers"], text_positions=found["max_source_positions"], vocab_size=words,
        mask_token=mask_token,
    )  # fmt: skip


def keys(config: BEiT3Config) -> KeyTable:
    """torchscale's names -> a BEiT3 of `config`; tables that it does not have are dropped."""
    layer, ours = "encoder.layers.{}", "blocks.{}"
    rows: list[Row] = []
    for kind, branch in (("A", 0), ("B", 1)):
        pairs = [
            *(
                (f"{layer}.self_attn.{name}_proj.{kind}", f"{ours}.attn.{name}_proj.branches.{branch}")
                for name in "qkv"
            ),
            (f"{layer}.self_attn.inner_attn_ln.{kind}", f"{ours}.attn.o_proj.branches.{branch}.norm"),
            (f"{layer}.self_attn.out_proj.{kind}", f"{ours}.attn.o_proj.branches.{branch}.linear"),
            (f"{layer}.self_attn_layer_norm.{kind}", f"{ours}.attn_norm.branches.{branch}"),
            (f"{layer}.final_layer_norm.{kind}", f"{ours}.mlp_norm.branches.{branch}"),
            (f"{layer}.ffn.{kind}.fc1", f"{ours}.mlp.branches.{branch}.up_proj"),
            (f"{layer}.ffn.{kind}.ffn_layernorm", f"{ours}.mlp.branches.{branch}.down_proj.norm"),
            (f"{layer}.ffn.{kind}.fc2", f"{ours}.mlp.branches.{branch}.down_proj.linear"),
            *(((f"encoder.layer_norm.{kind}", f"norm.branches.{branch}"),) if config.norm is not None else ()),
        ]
        rows += [rename(f"{a}.{leaf}", f"{b}.{leaf}") for a, b in pairs for leaf in ("weight", "bias")]
    rows += [
        rename("encoder.embed_positions.A.weight", "picture_positions.weight"),
        rename("encoder.embed_positions.B.weight", "text_positions.weight"),
        *(rename(f"vision_embed.proj.{leaf}", f"patch_embed.{leaf}") for leaf in ("weight", "bias")),
        rename("vision_embed.cls_token", "class_token", Squeeze(), Squeeze()),
    ]
    words, mask = "text_embed.weight", "vision_embed.mask_token"
    rows.append(drop(words) if config.vocab_size is None else rename(words, "embed_tokens.weight"))
    rows.append(rename(mask, "mask_token", Squeeze(), Squeeze()) if config.mask_token else drop(mask))
    return KeyTable(tuple(rows))
