"""Unified-IO 2's names in the published torch files -> ours.

text_token_embedder.weight, image_token_embedder.weight, audio_token_embedder.weight       one table
encoder.layers_0.attention.query.weight, .query_norm.scale, .mlp.wi_0.weight               both sides
input_embedders.image.{projection, modality_embedding, image_encoder.vision_transformer.*}
input_embedders.image_history.{pre_projection, post_projection, resampler.perceiver.*}
target_embedders.image.vqgan.*, target_embedders.audio.vqgan.*                              the codecs
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from polymodal.checkpoints.unified_io_codec import codec_rows
from polymodal.generators.conv_stack import ConvStackConfig
from polymodal.weights.joins import Stack
from polymodal.weights.keytable import KeyTable, Row, fuse, rename
from polymodal.weights.operations import Squeeze

HEADS = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "o_proj"}
GATED = {"wi_0": "gate_proj", "wi_1": "up_proj", "wo": "down_proj"}
PLAIN = {"wi": "up_proj", "wo": "down_proj"}
SIDES = {
    "encoder": {"attention": "attn", "pre_attention_norm": "attn_norm"},
    "decoder": {"self_attention": "attn", "pre_self_attention_norm": "attn_norm",
                "encoder_decoder_attention": "cross", "pre_cross_attention_norm": "cross_norm"},
}  # fmt: skip


def backbone_keys(sizes: tuple[int, int, int]) -> KeyTable:
    """sizes: rows of the three tables."""
    tables = tuple(f"{kind}_token_embedder.weight" for kind in ("text", "image", "audio"))
    rows: list[Row] = [fuse(tables, "embed_tokens.weight", sizes=sizes)]
    for side, names in SIDES.items():
        layer, block = f"{side}.layers_{{}}", f"{side}.blocks.{{}}"
        rows.append(rename(f"{side}.{side}_norm.scale", f"{side}.norm.weight"))
        rows += _mlp(layer, block, GATED)
        for source, target in names.items():
            if target.endswith("norm"):
                rows.append(rename(f"{layer}.{source}.scale", f"{block}.{target}.weight"))
            else:
                rows += _attention(f"{layer}.{source}", f"{block}.{target}")
    for kind in ("text", "image", "image_history", "audio", "audio_history"):
        rows.append(rename(f"input_embedders.{kind}.modality_embedding", f"encoder_places.vectors.{kind}"))
    for kind in ("text", "image", "audio"):
        rows.append(rename(f"target_embedders.{kind}.modality_embedding", f"decoder_places.vectors.{kind}"))
    return KeyTable(tuple(rows))


def _attention(source: str, target: str, cosine: bool = False) -> Iterator[Row]:
    for theirs, ours in HEADS.items():
        yield rename(f"{source}.{theirs}.weight", f"{target}.{ours}.weight")
    if cosine:
        yield rename(f"{source}.logit_scale", f"{target}.logit_scale")
    else:
        yield rename(f"{source}.query_norm.scale", f"{target}.q_norm.weight")
        yield rename(f"{source}.key_norm.scale", f"{target}.k_norm.weight")


def _mlp(source: str, target: str, names: Mapping[str, str]) -> Iterator[Row]:
    yield rename(f"{source}.pre_mlp_norm.scale", f"{target}.mlp_norm.weight")
    for theirs, ours in names.items():
        yield rename(f"{source}.mlp.{theirs}.weight", f"{target}.mlp.{ours}.weight")


def vit_keys(fronts: tuple[str, ...]) -> KeyTable:
    """A vision transformer -> a PatchViT.  fronts: its tokens in front."""
    rows: list[Row] = [
        Row(fronts, ("front",), Stack(len(fronts))),
        rename("positional_embedding", "positions"),
        *(rename(f"{a}.{leaf}", f"{b}.{leaf}") for a, b in {"embedding": "embed", "pre_ln": "pre_norm"}.items()
          for leaf in ("weight", "bias")),
    ]  # fmt: skip
    layer, block = "transformer.resblocks.{}", "blocks.{}"
    for leaf in ("weight", "bias"):
        for theirs, ours in {"query": "q_proj", "key": "k_proj", "value": "v_proj"}.items():
            rows.append(rename(f"{layer}.attn.{theirs}_in_proj_{leaf}", f"{block}.attn.{ours}.{leaf}"))
        for theirs, ours in {"attn.out_proj": "attn.o_proj", "ln_1": "attn_norm", "ln_2": "mlp_norm",
                             "mlp.fc1": "mlp.up_proj", "mlp.fc2": "mlp.down_proj"}.items():  # fmt: skip
            rows.append(rename(f"{layer}.{theirs}.{leaf}", f"{block}.{ours}.{leaf}"))
    return KeyTable(tuple(rows))


def resampler_keys(cosine: bool) -> KeyTable:
    """A history's embedder -> a HistoryResampler."""
    inner, layer = "resampler.perceiver", "resampler.perceiver.layers_{}"
    rows = [rename("pre_projection.weight", "pre_proj.weight"), rename("post_projection.weight", "post_proj.weight"),
            rename(f"{inner}.latents", "latents"), rename(f"{inner}.context_norm.scale", "context_norm.weight"),
            rename(f"{inner}.perceiver_norm.scale", "norm.weight"),
            rename(f"{layer}.pre_xattention_norm.scale", "blocks.{}.attn_norm.weight"),
            *_attention(f"{layer}.xattention", "blocks.{}.attn", cosine), *_mlp(layer, "blocks.{}", PLAIN)]  # fmt: skip
    return KeyTable(tuple(rows))


def picture_codec_keys(config: ConvStackConfig) -> KeyTable:
    """The VQGAN -> a VQCodec."""

    def same(source: str, target: str) -> Iterator[Row]:
        return (rename(f"{source}.{leaf}", f"{target}.{leaf}") for leaf in ("weight", "bias"))

    def linear(source: str, target: str) -> Iterator[Row]:
        yield rename(f"{source}.weight", f"{target}.weight", Squeeze(3), Squeeze(2))
        yield rename(f"{source}.bias", f"{target}.bias")

    rows = codec_rows(config, same, same, linear)
    return KeyTable((rename("quantize.embedding.weight", "codebook.embedding.weight"), *rows))


def sound_codec_keys() -> KeyTable:
    """The ViT-VQGAN -> a ViTVQCodec."""
    names = {"quantize.embedding.weight": "codebook.embedding.weight", "encoder.embedding.weight": "embed.weight",
             "encoder.embedding.bias": "embed.bias", "encoder.encoder_proj.weight": "encoder_proj.weight",
             "encoder.encoder_norm.bias": "code_bias", "decoder.decoder_proj.weight": "decoder_proj.weight",
             "decoder.conv_transpose.weight": "to_pixels.weight"}  # fmt: skip
    rows = [rename(a, b) for a, b in names.items()]
    for side in ("encoder", "decoder"):
        inner, layer = f"{side}.transformer", f"{side}.transformer.encoderblock_{{}}"
        for theirs, ours in HEADS.items():
            rows.append(rename(f"{layer}.attn.{theirs}.weight", f"{side}.blocks.{{}}.attn.{ours}.weight"))
        for leaf in ("weight", "bias"):
            rows.append(rename(f"{inner}.encoder_norm.{leaf}", f"{side}.norm.{leaf}"))
            for theirs, ours in {"ln_1": "attn_norm", "ln_2": "mlp_norm", "mlp.fc1": "mlp.up_proj",
                                 "mlp.fc2": "mlp.down_proj"}.items():  # fmt: skip
                rows.append(rename(f"{layer}.{theirs}.{leaf}", f"{side}.blocks.{{}}.{ours}.{leaf}"))
    return KeyTable(tuple(rows))
