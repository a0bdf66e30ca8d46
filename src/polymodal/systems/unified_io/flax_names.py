"""Unified-IO's Flax parameters, flattened with "/" -> ours: kernels lie the other way round.

    token_embedder/embedding                                          words, locations and codes in one table
    encoder/layers_0/attention/query/kernel [in, out], .../mlp/wi_0/kernel, .../pre_mlp_layer_norm/scale
    encoder/relpos_bias/rel_embedding, encoder/position_embedding/embedding, encoder/position_q_linear/kernel
    discrete_vae/decoder/up_0_block_1/conv1/kernel [h, w, in, out]    the codec, its coarsest level first

Trap: `decoder/cross_position_{q,k}_linear` are stored, and their product is computed, but nothing reads it.
"""

from __future__ import annotations

from collections.abc import Iterator

from polymodal.checkpoints.flax_conv import conv, norm
from polymodal.checkpoints.unified_io_codec import codec_rows
from polymodal.generators.conv_stack import ConvStackConfig
from polymodal.weights.keytable import KeyTable, Row, drop, rename
from polymodal.weights.operations import Squeeze, Transpose

HEADS = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "o_proj"}
MLP = {"wi_0": "gate_proj", "wi_1": "up_proj", "wo": "down_proj"}
SIDES = {
    "encoder": {"attention": "attn", "pre_attention_layer_norm": "attn_norm"},
    "decoder": {"self_attention": "attn", "pre_self_attention_layer_norm": "attn_norm",
                "encoder_decoder_attention": "cross", "pre_cross_attention_layer_norm": "cross_norm"},
}  # fmt: skip


def backbone_keys() -> KeyTable:
    """Both sides and the table of words -> a UnifiedIOBackbone."""
    rows = [rename("token_embedder/embedding", "embed_tokens.weight"), *_places("encoder", "segment", "position"),
            *_places("decoder", "segments", "self_position"), drop("decoder/cross_position_q_linear/kernel"),
            drop("decoder/cross_position_k_linear/kernel")]  # fmt: skip
    for source, target in {"encoder/txt_emb_pre_ln": "words_norm", "encoder/img_emb_pre_ln": "patches_norm",
                           "decoder/pre_ln": "answer_norm", "encoder/encoder_norm": "encoder.norm",
                           "decoder/decoder_norm": "decoder.norm"}.items():  # fmt: skip
        rows.append(rename(f"{source}/scale", f"{target}.weight"))
    for side, names in SIDES.items():
        layer, block = f"{side}/layers_{{}}", f"{side}.blocks.{{}}"
        rows.append(rename(f"{layer}/pre_mlp_layer_norm/scale", f"{block}.mlp_norm.weight"))
        rows += [_linear(f"{layer}/mlp/{a}", f"{block}.mlp.{b}") for a, b in MLP.items()]
        for source, target in names.items():
            if target.endswith("norm"):
                rows.append(rename(f"{layer}/{source}/scale", f"{block}.{target}.weight"))
            else:
                rows += [_linear(f"{layer}/{source}/{a}", f"{block}.{target}.{b}") for a, b in HEADS.items()]
    return KeyTable(tuple(rows))


def connector_keys() -> KeyTable:
    """The linear of patches."""
    return KeyTable((_linear("encoder/image_projection", "proj"),))


def _linear(source: str, target: str) -> Row:
    return rename(f"{source}/kernel", f"{target}.weight", Transpose())


def _places(side: str, segments: str, position: str) -> Iterator[Row]:
    yield rename(f"{side}/position_embedding/embedding", f"{side}_places.embedding.weight")
    yield rename(f"{side}/{segments}_embedding/embedding", f"{side}_places.segments.weight")
    yield rename(f"{side}/pe_pre_ln/scale", f"{side}_places.norm.weight")
    for letter in "qk":
        yield _linear(f"{side}/{position}_{letter}_linear", f"{side}_places.{letter}_proj")
    yield rename(f"{side}/relpos_bias/rel_embedding", f"{side}_places.word_bias")
    yield rename(f"{side}/relpos_bias/image_rel_embedding", f"{side}_places.patch_bias")


def codec_keys(config: ConvStackConfig) -> KeyTable:
    """The VQGAN's names -> a VQCodec."""

    def linear(source: str, target: str) -> Iterator[Row]:
        yield rename(f"{source}.kernel", f"{target}.weight", Squeeze(0), Squeeze(0), Transpose())
        yield rename(f"{source}.bias", f"{target}.bias")

    def dotted(rows: Iterator[Row]) -> Iterator[Row]:
        return (row.spelled(lambda name: name.replace("/", ".")) for row in rows)

    rows = codec_rows(config, lambda a, b: dotted(conv(a, b)), lambda a, b: dotted(norm(a, b)), linear)
    rows.append(rename("quantize.embedding", "codebook.embedding.weight"))
    return KeyTable(tuple(row.spelled(lambda name: name.replace(".", "/")) for row in rows))
