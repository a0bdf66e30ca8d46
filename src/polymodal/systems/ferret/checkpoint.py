"""Ferret's checkpoints: LLaVA's names, and `model.region_geo_sampler.*`.

    model.mm_projector.*         -> connectors.image.project
    model.region_geo_sampler.*   -> connectors.image, convolutions of one pixel as linears

Traps: pictures become squares whatever their proportions; published are differences to Vicuna v1.3, without the tower;
the token of regions is `im_region_fea_token`, the last that was appended.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from polymodal.backbones import hf_text
from polymodal.checkpoints import official_llava_parts as official_llava
from polymodal.checkpoints.llava_format import llava_format
from polymodal.connectors.region_sampler import RegionSamplerConfig
from polymodal.data.chat_formats import vicuna
from polymodal.data.hf_image import CLIP, transform_of
from polymodal.data.item_rules import SameCount
from polymodal.data.processor import Modality, Processor
from polymodal.data.template import TEXT_START
from polymodal.encoders import hf_vision
from polymodal.errors import ConfigError
from polymodal.fusion.placeholder_mask import PlaceholderMask
from polymodal.models.multimodal_lm import ModalityInputs, MultimodalLM
from polymodal.systems import CheckpointFiles, LoadedModel, ModelSpec, Part
from polymodal.systems.ferret.regions import RegionValues, collate, with_pictures, written
from polymodal.weights.keytable import KeyTable, rename
from polymodal.weights.operations import Squeeze

TOKEN = "<region_fea>"
SYSTEM_WORDS = (
    "A chat between a human and an AI that understands visuals. In images, [x, y] denotes points: top-left [0, 0], "
    "bottom-right [width-1, height-1]. Increasing x moves right; y moves down. Bounding box: [x1, y1, x2, y2]. "
    "Image size: 1000x1000. Follow instructions. "
)


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """An official config -> the model; raises ConfigError for options that are not supported.

    region_points, region_stages: sizes of the sampler other than the published ones, as tests have them.
    """
    if not config.get("region_geo_sampler") or config.get("mm_use_im_start_end"):
        raise ConfigError(
            "ferret: expected region_geo_sampler true and mm_use_im_start_end false; nothing else is read"
        )
    text, text_keys = hf_text.decoder_of({**config, "model_type": "llama"})
    vision = hf_vision.parse_config(official_llava.tower_of(config), config.get("mm_vision_select_layer", -2))
    stages = tuple((keep, near) for keep, near in config.get("region_stages", ((128, 24), (32, 24))))
    sampler = RegionSamplerConfig(points=config.get("region_points", 512), stages=stages,
                                  pool=config.get("sampler_pooler_mode", "mean"))  # fmt: skip
    tower, region = vision.config, config.get("im_region_fea_token", text.vocab_size - 1)

    def build() -> MultimodalLM:
        inputs = {
            "image": ModalityInputs(values="pixel_values", placeholder_mask="image_mask"),
            "region": ModalityInputs(values="region_pixels", connector=("points=region_points",), uses="image"),
        }
        return MultimodalLM(
            {"image": tower.build()}, {"image": sampler.build(tower.out_width, text.width)}, text.build(),
            {"image": official_llava.IMAGE, "region": region}, inputs=inputs,
            prepare_inputs=PlaceholderMask(ids=(official_llava.IMAGE,), names={"images": "pixel_values"}),
        )  # fmt: skip

    def assemble(module: nn.Module, files: CheckpointFiles) -> LoadedModel:
        tokenizer = files.tokenizer(added=(TOKEN,))
        template, after = llava_format(files, tokenizer, vicuna(SYSTEM_WORDS))
        side = tower.image_size
        square = transform_of({"do_center_crop": False, "size": {"height": side, "width": side}}, CLIP)
        modalities = (
            Modality(name="image", placeholder="", placeholder_id=official_llava.IMAGE, transform=square,
                     after=(TEXT_START, *after), tokens=SameCount(tower.tokens)),
            Modality(name="region", placeholder=TOKEN, transform=RegionValues(square, sampler.points), before=written,
                     tokens=SameCount(1), collate=collate),
        )  # fmt: skip
        processor = Processor(tokenizer=tokenizer, template=template, modalities=modalities,
                              max_length=text.max_length, rewrite=with_pictures)  # fmt: skip
        return LoadedModel(model=module, processor=processor)

    keys = vision.prefixed(official_llava.INSIDE, "encoders.image.")[0] + text_keys.prefixed(target="backbone.")
    return ModelSpec(build=build, keys=(keys + CONNECTOR_KEYS,), parts=_drawing(tower, text.width), assemble=assemble)


def _connector_keys() -> KeyTable:
    theirs, ours = "model.region_geo_sampler", "connectors.image"
    names = {
        "model.mm_projector": f"{ours}.project.layers.0",
        f"{theirs}.flatten_projector": f"{ours}.flatten",
        f"{theirs}.dim_projector": f"{ours}.region",
        f"{theirs}.diff_projector_list.{{}}": f"{ours}.difference.{{}}",
        f"{theirs}.agg_projector_list.{{}}.norm": f"{ours}.norm.{{}}",
    }
    plain = {f"{old}.{leaf}": f"{new}.{leaf}" for old, new in names.items() for leaf in ("weight", "bias")}
    mix = f"{theirs}.agg_projector_list.{{}}.net.0", f"{ours}.mix.{{}}"
    convolution = rename(f"{mix[0]}.weight", f"{mix[1]}.weight", Squeeze(2))
    return KeyTable.of(plain, convolution, rename(f"{mix[0]}.bias", f"{mix[1]}.bias"))


CONNECTOR_KEYS = _connector_keys()


def _drawing(tower: hf_vision.ViTConfig, width: int) -> tuple[Part, ...]:
    side, seen = tower.image_size, f"[N, {tower.tokens}, {tower.out_width}]"
    return (
        Part(slot="encoder", modality="image", name="CLIP ViT", prefix="encoders.image",
             input=f"[N, 3, {side}, {side}]", output=seen, tokens=tower.tokens),
        Part(slot="connector", modality="image", name="linear; sampler of regions", prefix="connectors.image",
             input=seen, output=f"[N, {tower.tokens}, {width}], a region: [N, 1, {width}]", tokens=tower.tokens),
        Part(slot="backbone", name="Vicuna", prefix="backbone", input=f"[B, T, {width}]", output="[B, T, V]"),
    )  # fmt: skip
