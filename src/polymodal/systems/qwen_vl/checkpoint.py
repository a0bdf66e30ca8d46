"""Published checkpoints of Qwen-VL: config to model, names of tensors, processor."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import nn

from polymodal.backbones import qwen_first
from polymodal.checkpoints import qwen_chat
from polymodal.connectors.grid_attention import GridAttentionConfig, qwen_vl_keys
from polymodal.data.item_rules import SameCount
from polymodal.data.processor import Modality, Processor
from polymodal.data.template import Special
from polymodal.data.transforms import CLIP_MEAN, CLIP_STD, Squash
from polymodal.encoders import qwen_vl_vit
from polymodal.errors import ConfigError
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.systems import (
    CheckpointFiles,
    LoadedModel,
    ModelSpec,
    Part,
    Repository,
    Variant,
)

PAD = "<imgpad>"
PAD_BEHIND = 2  # `image_start_id` is <img>, </img> and <imgpad> follow it


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """A QWenConfig dict with a table `visual` -> the model; raises ConfigError for what cannot be joined."""
    visual = config["visual"]
    tower, text = qwen_vl_vit.parse_config(visual), qwen_first.parse_config(config)
    side, patch, width = visual["image_size"], visual["patch_size"], visual["output_dim"]
    if width != text.width:
        raise ConfigError(f"qwen-vl: visual.output_dim {width} must equal hidden_size {text.width}")
    if side < patch:
        raise ConfigError(f"qwen-vl: visual.image_size {side} is smaller than one patch of {patch} pixels")
    connector = GridAttentionConfig(queries=visual.get("n_queries", 256))
    placeholder = visual["image_start_id"] + PAD_BEHIND

    def build() -> MultimodalLM:
        parts = tower.build(), connector.build(tower.width, width), text.build()
        return MultimodalLM({"image": parts[0]}, {"image": parts[1]}, parts[2], {"image": placeholder},
                            positions_ignore_padding=True)  # fmt: skip

    def assemble(module: nn.Module, files: CheckpointFiles) -> LoadedModel:
        template, end = qwen_chat.template_of(files.json("generation_config.json"))
        picture = Modality(
            name="image", placeholder=PAD, tokens=SameCount(connector.queries),
            transform=Squash(height=side, width=side, mean=CLIP_MEAN, std=CLIP_STD),
            before=(Special(name="<img>"),), after=(Special(name="</img>"),))  # fmt: skip
        chats = template is qwen_chat.CHATML
        processor = Processor(
            tokenizer=files.tokenizer(eos=end), template=template, modalities=(picture,), max_length=text.max_length,
            rewrite=partial(qwen_chat.numbered, words="Picture") if chats else None)  # fmt: skip
        return LoadedModel(model=module, processor=processor)

    keys = (
        qwen_vl_vit.published_keys(tower, visual["heads"]).prefixed("transformer.visual.", "encoders.image.")
        + qwen_vl_keys(tower.width != width).prefixed("transformer.visual.", "connectors.image.")
        + qwen_first.published_keys(text).prefixed("", "backbone.")
    )
    patches = (side // patch) ** 2
    seen = f"[N, {patches}, {tower.width}]"
    parts = (
        Part(slot="encoder", modality="image", name="OpenCLIP ViT-bigG/14", prefix="encoders.image",
             input=f"[N, 3, {side}, {side}]", output=seen, tokens=patches),
        Part(slot="connector", modality="image", name="one cross-attention of learned queries", input=seen,
             prefix="connectors.image", output=f"[N, {connector.queries}, {width}]", tokens=connector.queries),
        Part(slot="backbone", name="Qwen-7B", prefix="backbone", input=f"[B, T, {width}]", output="[B, T, V]"),
    )  # fmt: skip
    return ModelSpec(build=build, keys=(keys,), parts=parts, assemble=assemble)


def variant(name: str, hub: str) -> Variant:
    """A released checkpoint; all have the same sizes."""
    visual = {"heads": 16, "image_size": 448, "image_start_id": 151857, "layers": 48, "mlp_ratio": 4.9231,
              "output_dim": 4096, "patch_size": 14, "width": 1664}  # fmt: skip
    config = {**qwen_chat.QWEN_7B, "layer_norm_epsilon": 1e-6, "vocab_size": 151936, "visual": visual}
    repository = Repository(name=f"Qwen/{hub}", license="Tongyi Qianwen License Agreement")
    return Variant(name=name, parameters=9_656_935_168, config=config, repository=repository)
