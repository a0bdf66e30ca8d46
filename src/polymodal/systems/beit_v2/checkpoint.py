"""BEiT v2's official files (.pth of microsoft/unilm): the masked model with its second branch, and the tokenizer.

    beitv2_*_pt1k          {"model": names of BEiT, cls_pt_layers.*, norm, lm_head}
    vqkd_encoder_*         {"model": encoder.*, decoder.*, quantize.*, encode_task_layer.*, decode_task_layer.*}
Traps: how many blocks the early patches have passed is in no tensor (9 of 12 and 21 of 24 were published); teacher and
scaling of a tokenizer's run are dropped by name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from polymodal.backbones.encoder import weight_and_bias
from polymodal.data import hf_image
from polymodal.data.hf_image import transform_of
from polymodal.data.pair_processor import PairProcessor
from polymodal.encoders import beit_keys
from polymodal.errors import ConfigError
from polymodal.models.class_token_pretraining import ClassTokenPretrainingConfig
from polymodal.models.visual_tokenizer import VisualTokenizerConfig
from polymodal.nn.norm import LayerNormConfig
from polymodal.systems import CheckpointFiles, LoadedModel, ModelSpec, Part
from polymodal.weights.keytable import KeyTable, Row, drop, rename

MASKED, TOKENIZER = "beit-v2-masked", "beit-v2-tokenizer"
EPS = 1e-6
EARLY = {12: 9, 24: 21}
Shapes = Mapping[str, Sequence[int]]


def count(shapes: Shapes, prefix: str) -> int:
    """How many blocks lie below a prefix."""
    return len({name[len(prefix) :].split(".")[0] for name in shapes if name.startswith(prefix)})


def read_masked(shapes: Shapes) -> dict[str, Any] | None:
    """The config of a file of pretraining, None for another's."""
    table = shapes.get("rel_pos_bias.relative_position_bias_table")
    if table is None or "cls_pt_layers.0.norm1.weight" not in shapes or "lm_head.weight" not in shapes:
        return None
    width, channels, patch, _ = shapes["patch_embed.proj.weight"]
    depth, side = count(shapes, "blocks."), (math.isqrt(table[0] - 3) + 1) // 2
    return {
        "model_type": MASKED, "hidden_size": width, "num_channels": channels, "patch_size": patch,
        "image_size": side * patch, "num_hidden_layers": depth, "num_attention_heads": table[1],
        "intermediate_size": shapes["blocks.0.mlp.fc1.weight"][0], "vocab_size": shapes["lm_head.weight"][0],
        "early_layers": EARLY.get(depth, max(1, 3 * depth // 4)), "head_layers": count(shapes, "cls_pt_layers."),
    }  # fmt: skip


def parse_masked_config(config: Mapping[str, Any]) -> ModelSpec:
    """What `read_masked` found."""
    norm = LayerNormConfig(eps=EPS)
    options = {"layer_norm_eps": EPS, "use_mask_token": True, "use_shared_relative_position_bias": True}
    tower = beit_keys.parse_config({**config, **options})
    model = ClassTokenPretrainingConfig(
        tower=tower, extra=(tower.blocks[0],) * config["head_layers"], early=config["early_layers"],
        codes=config["vocab_size"], norm=norm,
    )  # fmt: skip
    rows: list[Row] = [*weight_and_bias("norm", "norm"), *weight_and_bias("lm_head", "head")]
    body = beit_keys.OFFICIAL_KEYS.prefixed(target="image.")
    again = KeyTable(tuple(row for row in beit_keys.OFFICIAL_KEYS.rows if row.sources[0].startswith("blocks.")))
    extra = again.respelled({"blocks.": "cls_pt_layers."})
    extra = KeyTable(tuple(_moved(row) for row in extra.rows))
    width, tokens = tower.width, tower.tokens
    drawing = (
        Part(slot="encoder", modality="image", name="BEiT", prefix="image", input="pixel_values [N, 3, H, W]",
             output=f"[N, {tokens}, {width}]", tokens=tokens),
        Part(slot="backbone", name="blocks for the class token", prefix="extra",
             input="early patches, last class token", output=f"[N, {tokens}, {width}]"),
    )  # fmt: skip
    return ModelSpec(build=model.build, keys=(body + extra + KeyTable(tuple(rows)),), parts=drawing,
                     assemble=assemble_masked, tokenizer=False)  # fmt: skip


def _moved(row: Row) -> Row:
    """A row of the extra blocks, which lie outside the tower."""
    return replace(row, targets=tuple(name.replace("blocks.", "extra.", 1) for name in row.targets))


def assemble_masked(module: nn.Module, files: CheckpointFiles) -> LoadedModel:
    """Pictures with the mean and deviation of ImageNet, unlike BEiT's first version."""
    settings = {**hf_image.VIT, "image_mean": (0.485, 0.456, 0.406), "image_std": (0.229, 0.224, 0.225), "resample": 3}
    config: Any = module.config
    side = config.tower.image_size[0]
    return LoadedModel(model=module, processor=PairProcessor(
        transform=transform_of(files.preprocessor, {**settings, "size": {"height": side, "width": side}})))  # fmt: skip


def read_tokenizer(shapes: Shapes) -> dict[str, Any] | None:
    """The config of a tokenizer's file, None for another's.  Heads of 64 channels are what was published."""
    if "quantize.embedding.weight" not in shapes or "encode_task_layer.0.weight" not in shapes:
        return None
    width, channels, patch, _ = shapes["encoder.patch_embed.proj.weight"]
    wide = shapes["decoder.patch_embed.proj.weight"][0]
    codes, code_width = shapes["quantize.embedding.weight"]
    return {
        "model_type": TOKENIZER, "hidden_size": width, "num_channels": channels, "patch_size": patch,
        "image_size": patch * math.isqrt(shapes["encoder.pos_embed"][1] - 1),
        "num_hidden_layers": count(shapes, "encoder.blocks."), "num_attention_heads": max(1, width // 64),
        "intermediate_size": shapes["encoder.blocks.0.mlp.fc1.weight"][0], "codes": codes, "code_width": code_width,
        "decoder_hidden_size": wide, "decoder_layers": count(shapes, "decoder.blocks."),
        "decoder_heads": max(1, wide // 64), "outputs": shapes["decode_task_layer.2.weight"][0],
        "decoder_intermediate_size": shapes["decoder.blocks.0.mlp.fc1.weight"][0],
    }  # fmt: skip


def parse_tokenizer_config(config: Mapping[str, Any]) -> ModelSpec:
    """What `read_tokenizer` found."""
    if config["image_size"] % config["patch_size"]:
        raise ConfigError(
            f"beit-v2: image_size {config['image_size']} is no multiple of patches {config['patch_size']}"
        )
    plain = {"layer_norm_eps": EPS, "use_absolute_position_embeddings": True, "layer_scale_init_value": 0}
    encoder = beit_keys.parse_config({**config, **plain})
    decoder = beit_keys.parse_config({
        **plain, "hidden_size": config["decoder_hidden_size"], "num_attention_heads": config["decoder_heads"],
        "num_hidden_layers": config["decoder_layers"], "intermediate_size": config["decoder_intermediate_size"],
        "patch_size": 1, "image_size": config["image_size"] // config["patch_size"],
        "num_channels": config["code_width"],
    })  # fmt: skip
    model = VisualTokenizerConfig(
        encoder=encoder, decoder=decoder, codes=config["codes"], code_width=config["code_width"],
        outputs=config["outputs"], norm=LayerNormConfig(eps=EPS),
    )  # fmt: skip
    rows: list[Row] = [
        rename("quantize.embedding.weight", "codebook"), rename("quantize.cluster_size", "usage"),
        rename("quantize.embedding.initted", "started"), drop("quantize.embedding.cluster_size"),
        drop("quantize.embedding.embed_avg"), drop("teacher_model.**"), drop("scaling_layer.**"),
    ]  # fmt: skip
    for theirs, ours in (("encode_task_layer", "to_code"), ("decode_task_layer", "from_code")):
        rows += [row for at in (0, 2) for row in weight_and_bias(f"{theirs}.{at}", f"{ours}.{at}")]
    keys = KeyTable(tuple(rows))
    for side in ("encoder", "decoder"):
        keys += KeyTable(tuple(weight_and_bias(f"{side}.fc_norm", f"{side}_norm")))
        keys += beit_keys.OFFICIAL_KEYS.prefixed(f"{side}.", f"{side}.")
    width, patches = encoder.width, encoder.tokens - 1
    drawing = (
        Part(slot="encoder", modality="image", name="ViT", prefix="encoder", input="pixel_values [N, 3, H, W]",
             output=f"[N, {patches}, {width}]", tokens=patches),
        Part(slot="generator", name=f"codes {config['codes']} x {config['code_width']}", prefix="codebook",
             input=f"[N, {patches}, {config['code_width']}]", output=f"tokens [N, {patches}]"),
        Part(slot="generator", name="reads the teacher's features", prefix="decoder",
             input=f"[N, {patches}, {config['code_width']}]", output=f"[N, {patches}, {config['outputs']}]"),
    )  # fmt: skip
    return ModelSpec(build=model.build, keys=(keys,), parts=drawing, assemble=assemble_tokenizer, tokenizer=False)


def assemble_tokenizer(module: nn.Module, files: CheckpointFiles) -> LoadedModel:
    """Pictures in -1 .. 1."""
    shape: Any = module.config
    side = shape.encoder.image_size[0]
    settings = {**hf_image.VIT, "image_mean": (0.5, 0.5, 0.5), "image_std": (0.5, 0.5, 0.5), "resample": 3,
                "size": {"height": side, "width": side}}  # fmt: skip
    return LoadedModel(model=module, processor=PairProcessor(transform=transform_of(files.preprocessor, settings)))
