"""Unified-IO's checkpoints: Flax parameters by flattened names, a config of the official classes' fields, T5's words.

small.bin (Flax's msgpack; the sizes are read off the arrays), or arrays by flattened names beside a config.json
+ the vocabulary of t5-base, whose sentinels become 100 sentinels and 1000 locations
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import isqrt
from typing import Any

from polymodal.backbones.t5 import T5Shape
from polymodal.backbones.unified_io import PlacesConfig, UnifiedIOConfig, config_of
from polymodal.connectors.linear import LinearConnectorConfig
from polymodal.data.encoder_decoder_processor import EncoderDecoderProcessor
from polymodal.data.item_rules import SameCount
from polymodal.data.padded_patches import PaddedPatches
from polymodal.data.processor import Modality
from polymodal.data.tokenizer import Tokenizer
from polymodal.data.transforms import stack_views
from polymodal.errors import ConfigError
from polymodal.generators.conv_stack import official_stack
from polymodal.generators.vq_codec import VQCodecConfig
from polymodal.models.unified_io import END, UnifiedIO
from polymodal.systems import CheckpointFiles, LoadedModel, ModelSpec, Part
from polymodal.systems.unified_io.flax_names import backbone_keys, codec_keys, connector_keys
from polymodal.systems.unified_io.painting import SquarePainter
from polymodal.systems.unified_io.places import BINS, FIRST, ground
from polymodal.systems.unified_io.prompts import TEMPLATE, prompted

DEFAULTS = {"vocab_size": 33152, "image_vocab_size": 16384, "image_patch_size": 16, "emb_dim": 512, "num_heads": 8,
            "num_encoder_layers": 6, "num_decoder_layers": 6, "head_dim": 64, "mlp_dim": 2048, "num_seg_emb": 2,
            "encoder_max_image_length": 576, "encoder_max_text_length": 256, "decoder_max_image_length": 256,
            "decoder_max_text_length": 256}  # fmt: skip
VAE = {"embed_dim": 256, "n_embed": 16384, "z_channels": 256, "resolution": 256, "in_channels": 3, "out_ch": 3,
       "ch": 128, "ch_mult": (1, 1, 2, 2, 4), "num_res_blocks": 2, "attn_resolutions": (16,)}  # fmt: skip
FIXED = {"mlp_activations": ["gelu", "linear"], "logits_via_embedding": True, "visual_backbone_type": None,
         "double_z": False}  # fmt: skip
CODE_COLUMNS = 16  # of a picture that is written, whatever its size: the official code knows no other


def backbone_of(config: Mapping[str, Any]) -> UnifiedIOConfig:
    """The encoder-decoder; raises ConfigError for options that are not supported."""
    for name, value in FIXED.items():
        if name in config and config[name] != value:
            raise ConfigError(f"unified-io: {name}: only {value!r} is supported, found {str(config[name])[:40]!r}")
    c = {**DEFAULTS, **config}
    columns = isqrt(c["encoder_max_image_length"])
    if columns**2 != c["encoder_max_image_length"]:
        raise ConfigError(
            f"unified-io: encoder_max_image_length: expected a square, found {c['encoder_max_image_length']}"
        )
    shape = T5Shape(width=c["emb_dim"], depth=c["num_encoder_layers"], heads=c["num_heads"], ffn_width=c["mlp_dim"],
                    head_dim=c["head_dim"], decoder_depth=c["num_decoder_layers"], tied=True,
                    vocab_size=c["vocab_size"] + c["image_vocab_size"])  # fmt: skip
    common: dict[str, Any] = {"heads": c["num_heads"], "head_dim": c["head_dim"], "segments": c["num_seg_emb"]}
    read = PlacesConfig(words=c["encoder_max_text_length"], patches=c["encoder_max_image_length"], columns=columns,
                        two_way=True, **common)  # fmt: skip
    written = PlacesConfig(words=c["decoder_max_text_length"], patches=c["decoder_max_image_length"],
                           columns=CODE_COLUMNS, two_way=False, **common)  # fmt: skip
    return config_of(shape.config(), read, written)


def codec_of(config: Mapping[str, Any], codes: int, cells: int) -> VQCodecConfig:
    """The codec of a VAEConfig, of `codes` ids and pictures of `cells` of them."""
    c = {**VAE, **config}
    stack = official_stack(c)
    side = c["resolution"] // stack.factor
    if c["n_embed"] > codes or c["embed_dim"] != c["z_channels"]:
        raise ConfigError(f"unified-io: vae_config: up to {codes} codes, embed_dim equal to z_channels, found "
                          f"{c['n_embed']}, {c['embed_dim']} and {c['z_channels']}")  # fmt: skip
    if c["resolution"] % stack.factor or side**2 > cells:
        raise ConfigError(f"unified-io: vae_config: pictures of {c['resolution']} pixels are {side} x {side} "
                          f"codes, the decoder has {cells} places")  # fmt: skip
    return VQCodecConfig(stack=stack, codes=c["n_embed"], width=c["embed_dim"])


def vocabulary(files: CheckpointFiles) -> Tokenizer:
    """The words of T5 with `<extra_id_1099>` to `<extra_id_0>` behind them, of which users may type the locations."""
    table = json.loads(files.tokenizer().to_json())
    names = [f"<extra_id_{number}>" for number in reversed(range(FIRST + BINS))]
    model, ours = table["model"], set(names)
    if isinstance(model["vocab"], list):
        model["vocab"] = [piece for piece in model["vocab"] if piece[0] not in ours]
    else:
        model["vocab"] = {piece: number for piece, number in model["vocab"].items() if piece not in ours}
    known = [token for token in table["added_tokens"] if token["content"] not in ours]
    first = max((len(model["vocab"]), *(token["id"] + 1 for token in known)))
    table["added_tokens"] = known + [
        {"id": first + index, "content": name, "single_word": False, "lstrip": True, "rstrip": True,
         "normalized": False, "special": index >= BINS} for index, name in enumerate(names)]  # fmt: skip
    return Tokenizer.from_json(json.dumps(table), where=str(files.folder), eos="</s>", pad="<pad>")


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """Fields of UnifiedIOConfig, and of VAEConfig as `vae_config` -> the model, at any size."""
    backbone = backbone_of(config)
    c = {**DEFAULTS, **config}
    codec = codec_of(config.get("vae_config") or {}, c["image_vocab_size"], c["decoder_max_image_length"])
    side = {**VAE, **(config.get("vae_config") or {})}["resolution"]
    patch, places = c["image_patch_size"], backbone.encoder_places
    connector = LinearConnectorConfig(bias=False)

    def build() -> UnifiedIO:
        return UnifiedIO(connector.build(3 * patch**2, backbone.width), backbone.build(), codec.build(),
                         c["vocab_size"])  # fmt: skip

    def assemble(module: Any, files: CheckpointFiles) -> LoadedModel:
        tokenizer = vocabulary(files)
        if tokenizer.vocab_size >= c["vocab_size"]:
            raise ConfigError(f"unified-io: {tokenizer.vocab_size} words and locations for a vocabulary of "
                              f"{c['vocab_size']}, whose last id starts a picture")  # fmt: skip
        image = Modality(name="image", placeholder="<image>", placeholder_id=backbone.vocab_size,
                         transform=PaddedPatches(size=places.columns * patch, patch=patch), collate=stack_views,
                         tokens=SameCount(places.patches))  # fmt: skip
        processor = EncoderDecoderProcessor(
            tokenizer=tokenizer, template=TEMPLATE, modalities=(image,), rewrite=prompted, start_id=backbone.start_id,
            max_length=places.words + places.patches)  # fmt: skip
        painter = SquarePainter(model=module, processor=processor, side=side)
        return LoadedModel(model=module, processor=processor, ground=ground, paint=painter)

    keys = (backbone_keys().prefixed("", "backbone.") + connector_keys().prefixed("", "connectors.image.")
            + codec_keys(codec.stack).prefixed("discrete_vae/", "codec."))  # fmt: skip
    return ModelSpec(build=build, keys=(keys,), parts=drawing(backbone, patch, side, codec), assemble=assemble,
                     ends=({END}, backbone.pad_id))  # fmt: skip


def drawing(backbone: UnifiedIOConfig, patch: int, side: int, codec: VQCodecConfig) -> tuple[Part, ...]:
    count, values = backbone.encoder_places.patches, 3 * patch**2
    cells = side // codec.stack.factor
    return (
        Part(slot="connector", modality="image", name="raw patches through one linear", prefix="connectors.image",
             input=f"[N, {count}, {values}]", output=f"[N, {count}, {backbone.width}]", tokens=count),
        Part(slot="backbone", name="T5 with places", prefix="backbone", input=f"[B, S, {backbone.width}]",
             output=f"[B, T, {backbone.vocab_size}]"),
        Part(slot="generator", modality="image", name=f"VQGAN of {codec.codes} codes", prefix="codec",
             input=f"codes [N, {cells}, {cells}]", output=f"[N, 3, {side}, {side}]"),
    )  # fmt: skip


def infer(shapes: Mapping[str, Sequence[int]]) -> dict[str, Any] | None:
    """The config of a published .bin, by its shapes; None for another's.  Not told by shapes: 256 words a side."""
    table, bias = shapes.get("token_embedder/embedding"), shapes.get("encoder/relpos_bias/image_rel_embedding")
    codes = shapes.get("discrete_vae/quantize/embedding")
    if table is None or bias is None or codes is None:
        return None
    heads, (rows, width), words = bias[0], table, DEFAULTS["encoder_max_text_length"]

    def depth(side: str) -> int:
        return sum(name.startswith(f"{side}/layers_") and name.endswith("/mlp/wo/kernel") for name in shapes)

    return {
        "model_type": "unified-io", "vocab_size": rows - codes[0], "image_vocab_size": codes[0], "emb_dim": width,
        "num_heads": heads, "head_dim": shapes["encoder/position_q_linear/kernel"][1] // heads,
        "num_encoder_layers": depth("encoder"), "num_decoder_layers": depth("decoder"),
        "mlp_dim": shapes["encoder/layers_0/mlp/wo/kernel"][0],
        "num_seg_emb": shapes["encoder/segment_embedding/embedding"][0],
        "encoder_max_image_length": shapes["encoder/position_embedding/embedding"][0] - words,
        "decoder_max_image_length": shapes["decoder/position_embedding/embedding"][0] - words,
    }  # fmt: skip
