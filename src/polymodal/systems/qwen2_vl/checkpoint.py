"""Published checkpoints of Qwen2-VL: config to model, names of tensors, processor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from polymodal.backbones import qwen
from polymodal.connectors import patch_merger
from polymodal.data.patches import ConcatPatches, MergedPatches, MergedVideo
from polymodal.data.processor import Modality, Processor
from polymodal.data.template import Special, chatml
from polymodal.encoders import qwen2_vit
from polymodal.errors import ConfigError
from polymodal.fusion.grid_positions import GridPositions
from polymodal.models.multimodal_lm import ModalityInputs, MultimodalLM
from polymodal.systems import (
    CheckpointFiles,
    LoadedModel,
    ModelSpec,
    Part,
    Repository,
    Variant,
)

TEMPLATE = chatml(default_system="You are a helpful assistant.")


INPUTS = {
    "image": ModalityInputs(values="pixel_values", encoder=("grid=image_grid_thw",)),
    "video": ModalityInputs(values="pixel_values_videos", encoder=("grid=video_grid_thw",), uses="image"),
}


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """A Qwen2VLConfig dict, nested or flat -> the model; raises ConfigError for options that are not supported."""
    vision, text = config.get("vision_config") or {}, config.get("text_config") or config
    tied = bool(config.get("tie_word_embeddings") or text.get("tie_word_embeddings"))
    tower, language = qwen2_vit.parse_config(vision), replace(qwen.parse_vl_config(text), tied=tied)
    if vision.get("hidden_size", 3584) != language.width:
        raise ConfigError(f"qwen2-vl: vision_config.hidden_size {vision.get('hidden_size', 3584)} must equal the "
                          f"language model's {language.width}")  # fmt: skip
    connector = patch_merger.PatchMergerConfig(merge=tower.merge)
    placeholders = {"image": config.get("image_token_id", 151655), "video": config.get("video_token_id", 151656)}
    prepare_inputs = GridPositions(**placeholders, merge=tower.merge)

    def build() -> MultimodalLM:
        parts = tower.build(), connector.build(tower.width, language.width), language.build()
        return MultimodalLM(
            {"image": parts[0]},
            {"image": parts[1]},
            parts[2],
            placeholders,
            inputs=INPUTS,
            prepare_inputs=prepare_inputs,
        )

    def assemble(module: nn.Module, files: CheckpointFiles) -> LoadedModel:
        cut: dict[str, Any] = {"patch": tower.patch_size, "merge": tower.merge, "frames": tower.frames}
        image = replace(MergedPatches(), **cut).with_settings(files.preprocessor)
        of_video = files.json("video_preprocessor_config.json")
        video = MergedVideo(patches=replace(MergedVideo().patches, **cut).with_settings(of_video))
        tokenizer = files.tokenizer()
        own = files.chat_template(tokenizer, {"image": "<|image_pad|>", "video": "<|video_pad|>"})
        around: dict[str, Any] = {}
        if own is None:  # a chat template writes the marks itself
            around = {"before": (Special(name="<|vision_start|>"),), "after": (Special(name="<|vision_end|>"),)}
        media = (
            Modality(name="image", placeholder="<|image_pad|>", transform=image, tokens=image.tokens,
                     collate=ConcatPatches("pixel_values", "image_grid_thw"), **around),
            Modality(name="video", placeholder="<|video_pad|>", transform=video, tokens=video.patches.tokens,
                     collate=ConcatPatches("pixel_values_videos", "video_grid_thw"), **around),
        )  # fmt: skip
        processor = Processor(tokenizer=tokenizer, template=own or TEMPLATE, modalities=media,
                              max_length=language.max_length,
                              finish=partial(placed, prepare=prepare_inputs))  # fmt: skip
        return LoadedModel(model=module, processor=processor)

    table = (
        qwen2_vit.hf_keys(tower).prefixed("visual.", "encoders.image.")
        + patch_merger.HF_KEYS.prefixed("visual.merger.", "connectors.image.")
        + qwen.hf_keys(language).prefixed(target="backbone.")
    )
    renamed = {"visual.": "model.visual.", "model.": "model.language_model.", "lm_head.": "lm_head."}
    in_memory = table.respelled(renamed)
    return ModelSpec(build=build, keys=(table, in_memory), in_memory=in_memory, parts=drawing(tower, language.width),
                     assemble=assemble)  # fmt: skip


def placed(batch: dict[str, Any], prepare: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """The batch with what the published processor leaves to the model."""
    return {**batch, **prepare(batch)}


def drawing(tower: qwen2_vit.Qwen2ViTConfig, width: int) -> tuple[Part, ...]:
    return (
        Part(
            slot="encoder",
            modality="image",
            name="ViT with 2-D rope, also for video",
            prefix="encoders.image",
            input=f"[P, {tower.patch_values}], grid [N, 3]",
            output=f"N of [t*h*w, {tower.width}]",
        ),
        Part(
            slot="connector",
            modality="image",
            name=f"{tower.merge} x {tower.merge} patches concatenated, linear, GELU, linear",
            prefix="connectors.image",
            input=f"N of [t*h*w, {tower.width}]",
            output=f"N of [t*h*w/{tower.merge**2}, {width}]",
        ),
        Part(
            slot="backbone", name="Qwen2 with M-RoPE", prefix="backbone", input=f"[B, T, {width}]", output="[B, T, V]"
        ),
    )


def published(width: int, depth: int, heads: int, kv_heads: int, ffn: int, **more: Any) -> dict[str, Any]:
    """The flat config.json of Qwen's checkpoints."""
    return {"model_type": "qwen2_vl", "architectures": ["Qwen2VLForConditionalGeneration"], "hidden_size": width,
            "num_hidden_layers": depth, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
            "intermediate_size": ffn, "vocab_size": 152064, "rms_norm_eps": 1e-6, "rope_theta": 1000000.0,
            "max_position_embeddings": 32768, "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
            "vision_config": {"hidden_size": width}, **more}  # fmt: skip


def variant(name: str, parameters: int, license: str, config: dict[str, Any]) -> Variant:
    repository = Repository(name=f"Qwen/Qwen2-VL-{name.upper()}-Instruct", license=license)
    return Variant(name=name, parameters=parameters, config=config, repository=repository)
