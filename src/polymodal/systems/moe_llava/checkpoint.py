"""MoE-LLaVA's checkpoints: a LLaVA on StableLM 2 or Phi-2 whose `moe` says which layers are mixtures of experts.

    config.json {"moe": {"moe_layers_idx", "num_experts", ...}} -> dense decoder, some of its MLPs experts
    model.layers.{}.mlp.deepspeed_moe.gate.wg, .experts.deepspeed_experts.{}.*  -> blocks.{}.mlp.gate, .experts.{}.*

Traps: official inference draws the second expert with Gumbel noise, here the likeliest is taken; an expert drops tokens
beyond its capacity, which the published `eval_capacity_factor` never reaches: configs that could are refused; the dense
models of stage 2 (`llava_stablelm`, `llava_phi`) have the same layout without `moe`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from polymodal.backbones import hf_text
from polymodal.backbones.decoder import DecoderConfig
from polymodal.checkpoints import official_llava_parts as official_llava
from polymodal.checkpoints.llava_format import llava_format
from polymodal.connectors import hf_mlp
from polymodal.data.chat_formats import VICUNA_SYSTEM, vicuna
from polymodal.data.hf_image import CLIP, VIT, PublishedTransform, Squared, squared
from polymodal.data.item_rules import SameCount
from polymodal.data.processor import Modality, Processor
from polymodal.data.template import TEXT_START
from polymodal.encoders import hf_vision
from polymodal.errors import ConfigError
from polymodal.fusion.placeholder_mask import PlaceholderMask
from polymodal.models.multimodal_lm import ModalityInputs, MultimodalLM
from polymodal.nn.moe import MoEConfig
from polymodal.systems import CheckpointFiles, LoadedModel, ModelSpec, Part
from polymodal.weights.keytable import KeyTable

FAMILIES = {"moe_llava_stablelm": "stablelm", "llava_stablelm": "stablelm", "moe_llava_phi": "phi", "llava_phi": "phi"}
OTHERS = ("moe_llava_qwen", "moe_llava_qwen1_5", "moe_llava_llama", "moe_llava_mistral", "moe_llava_minicpm")
INSIDE = "model.image_tower.image_tower."
IMAGE = official_llava.IMAGE
END = "<|endoftext|>"
_EXPERTS = "model.layers.{}.mlp.deepspeed_moe"


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """An official config -> the model; raises ConfigError for options that are not supported."""
    family = FAMILIES.get(str(config.get("model_type")))
    if family is None:
        known = ", ".join(FAMILIES)
        raise ConfigError(f"moe-llava: model_type {config.get('model_type')!r} is not supported; expected {known}")
    if config.get("mm_use_im_start_end") or config.get("mm_video_tower"):
        raise ConfigError("moe-llava: mm_use_im_start_end and mm_video_tower are not supported; expected neither")
    words = {"use_qkv_bias": True, **config} if family == "stablelm" else config
    dense, text_keys = hf_text.decoder_of({**words, "model_type": family})
    text = with_experts(dense, config.get("moe"))
    settings = official_llava.tower_of(config)
    strategy = "default" if (config.get("mm_vision_select_feature") or "patch") == "patch" else "full"
    vision = hf_vision.parse_config(settings, config.get("mm_vision_select_layer", -2), strategy)
    connector, names = hf_mlp.parse_projector_type(config.get("image_projector_type") or "linear")
    tower = vision.config

    def build() -> MultimodalLM:
        image = ModalityInputs(values="pixel_values", placeholder_mask="image_mask")
        return MultimodalLM(
            {"image": tower.build()}, {"image": connector.build(tower.out_width, text.width)}, text.build(),
            {"image": IMAGE}, inputs={"image": image},
            prepare_inputs=PlaceholderMask(ids=(IMAGE,), names={"images": "pixel_values"}),
        )  # fmt: skip

    def assemble(module: nn.Module, files: CheckpointFiles) -> LoadedModel:
        tokenizer = files.tokenizer(control=(END,))
        template, after = llava_format(files, tokenizer, vicuna(VICUNA_SYSTEM, begin=False, end=END))
        image = Modality(
            name="image", placeholder="", placeholder_id=IMAGE, transform=_pictures(config, tower, settings),
            after=(TEXT_START, *after), tokens=SameCount(tower.tokens),
        )  # fmt: skip
        processor = Processor(tokenizer=tokenizer, template=template, modalities=(image,), max_length=text.max_length)
        return LoadedModel(model=module, processor=processor)

    keys = text_keys.prefixed(target="backbone.") + vision.prefixed(INSIDE, "encoders.image.")[0]
    keys += names.prefixed("model.mm_projector.image_spatial_proj", "connectors.image.") + expert_keys(text_keys)
    return ModelSpec(build=build, keys=(keys,), parts=_drawing(tower, text, connector.depth), assemble=assemble)


def with_experts(dense: DecoderConfig, moe: Mapping[str, Any] | None) -> DecoderConfig:
    """The decoder whose MLPs in `moe_layers_idx` are mixtures of copies; ConfigError for what is not supported."""
    if not moe or not moe.get("moe_enable", True):
        return dense
    layers, counts, chosen = moe["moe_layers_idx"], moe["num_experts"], moe.get("top_k_experts", 2)
    capacity = moe.get("eval_capacity_factor", 1.0)
    if moe.get("use_residual") or chosen != 2:
        raise ConfigError(f"moe-llava: use_residual {bool(moe.get('use_residual'))} with top_k_experts {chosen} is not "
                          "supported; expected false and 2")  # fmt: skip
    if len(counts) != len(layers) or any(not 0 <= layer < dense.depth for layer in layers):
        raise ConfigError(
            f"moe-llava: moe_layers_idx {layers} and num_experts {counts} do not fit {dense.depth} layers"
        )
    blocks = list(dense.blocks)
    for layer, count in zip(layers, counts, strict=True):
        if chosen * capacity < count:
            raise ConfigError(
                f"moe-llava: eval_capacity_factor {capacity:g} lets {count} experts drop tokens of a batch, which is "
                f"not supported; expected {count / chosen:g} at least"
            )
        mixture = MoEConfig(
            width=dense.width, expert=blocks[layer].mlp, experts=count, top_k=chosen, by_layer=True,
            balance_weight=moe.get("router_aux_loss_coef", 0.01),
        )  # fmt: skip
        blocks[layer] = replace(blocks[layer], mlp=mixture)
    return replace(dense, blocks=tuple(blocks))


def expert_keys(dense: KeyTable) -> KeyTable:
    """The rows of experts, each named as the dense MLP is in its family."""
    rows: dict[str, str | None] = {f"{_EXPERTS}.gate.wg.weight": "backbone.blocks.{}.mlp.gate.weight"}
    for row in dense.rows:
        for source, target in zip(row.sources, row.targets, strict=False):
            if source.startswith("model.layers.{}.mlp."):
                leaf = source.removeprefix("model.layers.{}.mlp.")
                ours = target.removeprefix("blocks.{}.mlp.")
                rows[f"{_EXPERTS}.experts.deepspeed_experts.{{}}.{leaf}"] = (
                    f"backbone.blocks.{{}}.mlp.experts.{{}}.{ours}"
                )
    return KeyTable.of(rows)


def gather(files: CheckpointFiles) -> Mapping[str, Tensor]:
    """All tensors under official names, the tower's too; WeightsError without one."""
    return official_llava.gather(files.folder, INSIDE)


def _pictures(
    config: Mapping[str, Any], tower: hf_vision.ViTConfig, settings: Mapping[str, Any]
) -> PublishedTransform | Squared:
    side = tower.image_size
    pad = {"do_pad": config.get("image_aspect_ratio") == "pad"}
    if settings.get("model_type") == "siglip_vision_model":
        return squared(pad, {**VIT, "resample": 3, "size": {"height": side, "width": side}})
    return squared(pad, {**CLIP, "size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}})


def _drawing(tower: hf_vision.ViTConfig, text: DecoderConfig, layers: int) -> tuple[Part, ...]:
    side, seen = tower.image_size, f"[N, {tower.tokens}, {tower.out_width}]"
    return (
        Part(slot="encoder", modality="image", name="CLIP or SigLIP ViT", prefix="encoders.image",
             input=f"[N, 3, {side}, {side}]", output=seen, tokens=tower.tokens),
        Part(slot="connector", modality="image", name=f"{layers} linears", prefix="connectors.image", input=seen,
             output=f"[N, {tower.tokens}, {text.width}]", tokens=tower.tokens),
        Part(slot="backbone", name="language model with experts", prefix="backbone", input=f"[B, T, {text.width}]",
             output="[B, T, V]"),
    )  # fmt: skip
