"""What CogVLM adds to a LLaMA decoder and how its prompts are written; see `cogvlm.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from polymodal.backbones import llama
from polymodal.backbones.decoder import DecoderConfig
from polymodal.connectors.glu import GLUConnectorConfig, cogvlm_keys
from polymodal.data.item_rules import SameCount
from polymodal.data.media import Image, Text
from polymodal.data.messages import Message
from polymodal.data.processor import Modality, Processor, kind_counts
from polymodal.data.template import TEXT_START, Special, Template, Turn
from polymodal.data.transforms import CLIP_MEAN, CLIP_STD, Squash
from polymodal.encoders import eva2_clip
from polymodal.errors import ConfigError, PromptError
from polymodal.fusion.routing import ExpertRoutes, RoutedLinearConfig, RoutedMLPConfig
from polymodal.models.multimodal_lm import ModalityInputs, MultimodalLM
from polymodal.nn.attention import AttentionLinears
from polymodal.systems import (
    CheckpointFiles,
    LoadedModel,
    ModelSpec,
    Part,
    Repository,
    Variant,
)
from polymodal.weights.keytable import KeyTable, drop, rename, split


def with_expert(config: DecoderConfig) -> DecoderConfig:
    """Every projection of every block twice: branch 0 for language, 1 for pictures; the norms are shared."""
    routed = RoutedLinearConfig()
    linears = AttentionLinears(q=routed, k=routed, v=routed, o=routed)
    blocks = []
    for block in config.blocks:
        attention = replace(block.attention, linears=linears)
        blocks.append(replace(block, attention=attention, mlp=RoutedMLPConfig(branches=(block.mlp,) * 2)))
    return replace(config, blocks=tuple(blocks))


def expert_keys(config: DecoderConfig) -> KeyTable:
    """The names of the published language model -> a decoder with the visual expert."""
    rows = [drop("model.layers.{}.self_attn.rotary_emb.inv_freq")]
    for branch, name in enumerate(("language", "vision")):
        attention, mlp = f"model.layers.{{}}.self_attn.{name}_expert", f"model.layers.{{}}.mlp.{name}_mlp"
        targets = [f"blocks.{{}}.attn.{part}_proj.branches.{branch}.weight" for part in "qkv"]
        rows.append(split(f"{attention}_query_key_value.weight", targets))
        rows.append(rename(f"{attention}_dense.weight", f"blocks.{{}}.attn.o_proj.branches.{branch}.weight"))
        for part in ("gate_proj", "up_proj", "down_proj"):
            rows.append(rename(f"{mlp}.{part}.weight", f"blocks.{{}}.mlp.branches.{branch}.{part}.weight"))
    return KeyTable(tuple(rows)) + llama.hf_keys(config)


TEMPLATE = Template(
    begin=(Special(name="<s>"), TEXT_START),
    turns={
        "user": Turn(),
        "assistant": Turn(before=(TEXT_START,), after=(Special(name="</s>", loss_mask=True),), loss_mask=True),
    },
)


def written_out(messages: Sequence[Message], words: str) -> tuple[Message, ...]:
    """The published prompt: the picture first, then all rounds as one text "Question: ... Answer: ...".

    Raises PromptError for more than one picture, roles other than user and assistant, or turns out of order.
    """
    pictures = [part for message in messages for part in message.media]
    if other := [media for media in pictures if not isinstance(media, Image)]:
        raise PromptError(f"messages: this model takes text, image; found {type(other[0]).__name__.lower()}")
    if len(pictures) > 1:
        raise PromptError(f"cogvlm takes one picture a conversation; found {len(pictures)}")
    if any(message.role != ("user", "assistant")[i % 2] for i, message in enumerate(messages)):
        raise PromptError("cogvlm: expected user and assistant in turn, the user first")
    last = len(messages) - (1 if len(messages) % 2 else 2)
    rounds = zip(messages[:last:2], messages[1:last:2], strict=True)
    history = "".join(f"Question: {asked.text} {words} {said.text}\n" for asked, said in rounds)
    question = messages[last].text
    prompt = f"{history}Question: {question} {words}" if words else question
    return (Message(role="user", parts=(*pictures, Text(prompt))), *messages[last + 1 :])


def named(pictures: list[torch.Tensor]) -> dict[str, Any]:
    """Pictures under the name the published processor gives them."""
    return {"images": torch.stack(pictures)}


def finish(batch: dict[str, Any]) -> dict[str, Any]:
    """With a picture, routes and positions are made from `token_type_ids`, as published."""
    if not batch["item_counts"]["image"].any():
        return batch
    made = {name: value for name, value in batch.items() if name not in ("token_types", "position_ids")}
    made["token_type_ids"] = batch["token_types"]
    made |= ExpertRoutes()(made)
    return made | {"token_type_counts": kind_counts(made["token_types"])}


TEXT = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act",
        "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings")  # fmt: skip


WORDS = {"base": "", "chat": "Answer:", "vqa": "Short answer:"}


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """A CogVLMConfig dict -> the model; raises ConfigError for CogVLM2, whose experts and connector differ."""
    if "num_multi_query_heads" in config:
        raise ConfigError("cogvlm: num_multi_query_heads belongs to CogVLM2, which is another model; expected none")
    tower = eva2_clip.parse_config(config.get("vision_config") or {})
    text = with_expert(llama.parse_config({name: config[name] for name in TEXT if name in config}))
    connector = GLUConnectorConfig(ffn_width=config.get("intermediate_size", 11008))
    inputs, placeholders = (
        {"image": ModalityInputs(values="images", placeholder_mask="image_mask")},
        {"image": 0},
    )

    def build() -> MultimodalLM:
        parts = tower.build(), connector.build(tower.width, text.width), text.build()
        return MultimodalLM({"image": parts[0]}, {"image": parts[1]}, parts[2], placeholders,
                            inputs=inputs, prepare_inputs=ExpertRoutes())  # fmt: skip

    def assemble(module: Any, files: CheckpointFiles) -> LoadedModel:
        tokenizer = files.tokenizer(pad="<unk>")
        side = config.get("vision_config", {}).get("image_size", 490)
        picture = Modality(
            name="image", placeholder="<unk>", transform=Squash(height=side, width=side, mean=CLIP_MEAN, std=CLIP_STD),
            tokens=SameCount(connector.tokens(tower.tokens)), collate=named, after=(TEXT_START,))  # fmt: skip
        wording = WORDS[config.get("template_version", "chat")]
        processor = Processor(
            tokenizer=tokenizer, template=TEMPLATE, modalities=(picture,), max_length=text.max_length,
            rewrite=partial(written_out, words=wording), finish=finish)  # fmt: skip
        return LoadedModel(model=module, processor=processor)

    keys = (
        eva2_clip.hf_keys(tower).prefixed("model.vision.", "encoders.image.")
        + cogvlm_keys(text.width).prefixed("model.vision.", "connectors.image.")
        + expert_keys(text).prefixed("", "backbone.")
    )
    return ModelSpec(build=build, keys=(keys,), parts=drawing(tower, connector, text), assemble=assemble)


def drawing(tower: Any, connector: GLUConnectorConfig, text: Any) -> tuple[Part, ...]:
    side, seen, count = tower.image_size, f"[N, {tower.tokens}, {tower.width}]", connector.tokens(tower.tokens)
    return (
        Part(slot="encoder", modality="image", name="EVA2-CLIP-E", prefix="encoders.image",
             input=f"[N, 3, {side}, {side}]", output=seen, tokens=tower.tokens),
        Part(slot="connector", modality="image", name="gated MLP, two markers", prefix="connectors.image", input=seen,
             output=f"[N, {count}, {text.width}]", tokens=count),
        Part(slot="backbone", name="Vicuna with a visual expert in every layer", prefix="backbone",
             input=f"[B, T, {text.width}]", output=f"[B, T, {text.vocab_size}]"),
    )  # fmt: skip


def published(side: int, template: str) -> dict[str, Any]:
    """The config.json of the released checkpoints."""
    vision = {"dropout_prob": 0.0, "hidden_act": "gelu", "in_channels": 3, "num_hidden_layers": 63, "hidden_size": 1792,
              "patch_size": 14, "num_heads": 16, "intermediate_size": 15360, "layer_norm_eps": 1e-6,
              "num_positions": (side // 14) ** 2 + 1, "image_size": side}  # fmt: skip
    return {"model_type": "cogvlm", "architectures": ["CogVLMForCausalLM"], "vocab_size": 32000, "hidden_size": 4096,
            "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32, "hidden_act": "silu",
            "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "template_version": template, "pad_token_id": 0,
            "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False, "vision_config": vision}  # fmt: skip


def _variant(name: str, hub: str, parameters: int, side: int, template: str) -> Variant:
    repository = Repository(name=f"THUDM/{hub}", license="CogVLM License")
    return Variant(name=name, parameters=parameters, config=published(side, template), repository=repository)
