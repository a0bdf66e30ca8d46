"""Published checkpoints of mPLUG-Owl2: config to model, names of tensors, processor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from polymodal.backbones import llama
from polymodal.backbones.decoder import DecoderConfig
from polymodal.connectors import abstractor
from polymodal.data.item_rules import SameCount, StackedAs
from polymodal.data.processor import Modality, Processor
from polymodal.data.template import TEXT_START, Special, Template, Turn, Words
from polymodal.data.transforms import PadToSquare, StretchToSquare
from polymodal.encoders import owl_vit
from polymodal.errors import ConfigError
from polymodal.fusion.routing import PlaceholderRoutes, RoutedLinearConfig, RoutedNormConfig
from polymodal.models.multimodal_lm import ModalityInputs, MultimodalLM
from polymodal.systems import (
    CheckpointFiles,
    LoadedModel,
    ModelSpec,
    Part,
)
from polymodal.weights.keytable import KeyTable, Row, rename

IMAGE = -200  # the official id of a picture


TEMPLATE = Template(
    begin=(Special(name="<s>"), TEXT_START),
    turns={
        "user": Turn(before=(Words(text="USER: "),), after=(Words(text=" "),)),
        "assistant": Turn(
            before=(Words(text="ASSISTANT:"), Words(text=" ", loss_mask=True)),
            after=(Special(name="</s>", loss_mask=True),),
            loss_mask=True,
        ),
    },
    ask=(Words(text="ASSISTANT:"),),
)


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """A MPLUGOwl2Config dict -> the model; raises ConfigError for options that are not supported."""
    visual = config.get("visual_config") or {}
    tower = owl_vit.parse_config(visual.get("visual_model") or {})
    connector = abstractor.parse_config(visual.get("visual_abstractor") or {}, tower.width)
    if connector.grid is not None and connector.grid**2 + connector.class_row != tower.tokens:
        raise ConfigError(f"mplug-owl2: grid_size {connector.grid} does not fit the {tower.tokens} tokens of a picture")
    text = by_kind(llama.parse_config(config))

    def build() -> MultimodalLM:
        parts = tower.build(), connector.build(tower.width, text.width), text.build()
        inputs = {"image": ModalityInputs(values="images", placeholder_mask="token_types")}
        return MultimodalLM({"image": parts[0]}, {"image": parts[1]}, parts[2], {"image": IMAGE},
                            inputs=inputs, prepare_inputs=PlaceholderRoutes(IMAGE))  # fmt: skip

    def assemble(module: Any, files: CheckpointFiles) -> LoadedModel:
        side = tower.image_size if isinstance(tower.image_size, int) else tower.image_size[0]
        padded = config.get("image_aspect_ratio") == "pad"
        transform = PadToSquare(size=side) if padded else StretchToSquare(size=side)
        count = connector.tokens(tower.tokens)
        picture = Modality(name="image", placeholder="", placeholder_id=IMAGE, transform=transform,
                           tokens=SameCount(count), after=(TEXT_START,),
                           collate=StackedAs("images"))  # fmt: skip
        processor = Processor(tokenizer=files.tokenizer(pad="<unk>"), template=TEMPLATE, modalities=(picture,),
                              max_length=text.max_length)  # fmt: skip
        return LoadedModel(model=module, processor=processor)

    connector_keys = abstractor.owl_keys(connector, tower.width, text.width)
    keys = (
        owl_vit.hf_keys(tower).prefixed("model.vision_model.", "encoders.image.")
        + connector_keys.prefixed("model.visual_abstractor.", "connectors.image.")
        + kind_keys(text).prefixed("", "backbone.")
    )
    return ModelSpec(build=build, keys=(keys,), parts=drawing(tower, connector, text), assemble=assemble)


def by_kind(config: DecoderConfig) -> DecoderConfig:
    """Norms, keys and values of every block twice: branch 0 for text, 1 for pictures."""
    routed, blocks = RoutedLinearConfig(), []
    for block in config.blocks:
        linears = replace(block.attention.linears, k=routed, v=routed)
        norm = RoutedNormConfig(branches=(block.norm, block.norm))
        blocks.append(replace(block, attention=replace(block.attention, linears=linears), norm=norm))
    return replace(config, blocks=tuple(blocks))


def kind_keys(config: DecoderConfig) -> KeyTable:
    """The names of the published language model -> a decoder by kind."""
    rows: list[Row] = []
    for source, target in (("input_layernorm", "attn_norm"), ("post_attention_layernorm", "mlp_norm"),
                           ("self_attn.k_proj", "attn.k_proj"), ("self_attn.v_proj", "attn.v_proj")):  # fmt: skip
        rows += [
            rename(f"model.layers.{{}}.{source}.multiway.{{}}.{leaf}", f"blocks.{{}}.{target}.branches.{{}}.{leaf}")
            for leaf in ("weight", "bias")
        ]
    return KeyTable(tuple(rows)) + llama.hf_keys(config)


def drawing(tower: Any, connector: abstractor.AbstractorConfig, text: DecoderConfig) -> tuple[Part, ...]:
    side, seen, count = tower.image_size, f"[N, {tower.tokens}, {tower.width}]", connector.tokens(tower.tokens)
    return (
        Part(slot="encoder", modality="image", name="ViT-L/14", prefix="encoders.image",
             input=f"[N, 3, {side}, {side}]", output=seen, tokens=tower.tokens),
        Part(slot="connector", modality="image", name="visual abstractor", prefix="connectors.image", input=seen,
             output=f"[N, {count}, {text.width}]", tokens=count),
        Part(slot="backbone", name="LLaMA-2 with norms, keys and values by kind of token", prefix="backbone",
             input=f"[B, T, {text.width}]", output=f"[B, T, {text.vocab_size}]"),
    )  # fmt: skip
