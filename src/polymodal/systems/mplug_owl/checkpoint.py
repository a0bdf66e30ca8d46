"""Published checkpoints of mPLUG-Owl: config to model, names of tensors, the pieces of its conversations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from polymodal.backbones import bloom, hf_text
from polymodal.backbones.decoder import DecoderConfig
from polymodal.connectors import abstractor
from polymodal.connectors.abstractor import AbstractorConfig
from polymodal.data.item_rules import SameCount
from polymodal.data.media import Text
from polymodal.data.messages import Message
from polymodal.data.normalise import CLIP_MEAN, CLIP_STD
from polymodal.data.processor import Modality, Processor
from polymodal.data.template import TEXT_START, Special, Template, Turn, Words, Written
from polymodal.data.transforms import Squash
from polymodal.encoders import owl_vit
from polymodal.encoders.vit import ViTConfig
from polymodal.errors import ConfigError
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.systems import CheckpointFiles, LoadedModel, ModelSpec, Part

IMAGE = -1  # the official id of a picture
SYSTEM_WORDS = (
    "The following is a conversation between a curious human and AI assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions."
)
ASKED: tuple[Written, ...] = (Words(text="\n"), TEXT_START, Words(text="AI: "), TEXT_START)


TEMPLATE = Template(
    begin=(Special(name="<s>"), TEXT_START, Words(text=SYSTEM_WORDS)),
    turns={
        "user": Turn(before=(TEXT_START, Words(text="\nHuman: "), TEXT_START)),
        "assistant": Turn(before=ASKED, after=(Special(name="</s>", loss_mask=True), TEXT_START), loss_mask=True),
    },
    ask=ASKED,
)
"""The official training's, which tokenises `Human: `, `AI: ` and what stands between them by themselves."""


def media_apart(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Every picture in a turn of its own, in front of what is said with it."""
    turns: list[Message] = []
    for message in messages:
        turns += [replace(message, parts=(part,)) for part in message.parts if not isinstance(part, Text)]
        if message.text or not message.media:
            turns.append(replace(message, parts=(Text(message.text),)))
    return tuple(turns)


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """A MplugOwlConfig dict -> the model; raises ConfigError for a language model other than LLaMA and BLOOM."""
    kind = (config.get("text_config") or {}).get("model_type", "llama")
    if kind not in ("llama", "bloom"):
        raise ConfigError(f"mplug-owl: text_config.model_type {kind!r} is not supported; expected llama or bloom")
    tower = owl_vit.parse_config({"image_size": 224, **(config.get("vision_config") or {})})
    connector = connector_of(config, tower)
    text, names = hf_text.decoder_of(config.get("text_config") or {})

    def build() -> MultimodalLM:
        language = bloom.NormedWords(text) if kind == "bloom" else text.build()
        return MultimodalLM({"image": tower.build()}, {"image": connector.build(tower.width, text.width)}, language,
                            {"image": IMAGE}, positions_ignore_padding=True)  # fmt: skip

    def assemble(module: Any, files: CheckpointFiles) -> LoadedModel:
        side: Any = tower.image_size
        picture = Modality(name="image", placeholder="", placeholder_id=IMAGE, after=(TEXT_START,),
                           transform=Squash(height=side, width=side, mean=CLIP_MEAN, std=CLIP_STD),
                           tokens=SameCount(connector.tokens(tower.tokens)))  # fmt: skip
        processor = Processor(tokenizer=files.tokenizer(pad="<unk>"), template=TEMPLATE, modalities=(picture,),
                              max_length=text.max_length, rewrite=media_apart)  # fmt: skip
        return LoadedModel(model=module, processor=processor)

    keys = (
        owl_vit.hf_keys(tower).prefixed("vision_model.", "encoders.image.")
        + abstractor.owl_keys(connector, tower.width, text.width).prefixed("abstractor.", "connectors.image.")
        + (bloom.normed_words(names) if kind == "bloom" else names).prefixed("language_model.", "backbone.")
    )
    return ModelSpec(build=build, keys=(keys.reworded({"abstractor.query_embeds": "query_tokens"}),),
                     parts=drawing(tower, connector, text, kind), assemble=assemble)  # fmt: skip


def connector_of(config: Mapping[str, Any], tower: ViTConfig) -> AbstractorConfig:
    """The abstractor without positions; its width of 4096 is the official default, released files have 2816."""
    given = {"intermediate_size": 4096, **(config.get("visual_abstractor_config") or {})}
    given["num_learnable_queries"] = config.get("num_query_tokens", 64)
    return replace(abstractor.parse_config(given, tower.width), grid=None)


def drawing(tower: ViTConfig, connector: AbstractorConfig, text: DecoderConfig, kind: str) -> tuple[Part, ...]:
    """The boxes of `show`."""
    side, seen, count = tower.image_size, f"[N, {tower.tokens}, {tower.width}]", connector.tokens(tower.tokens)
    return (
        Part(slot="encoder", modality="image", name="ViT, every token normed", prefix="encoders.image",
             input=f"[N, 3, {side}, {side}]", output=seen, tokens=tower.tokens),
        Part(slot="connector", modality="image", name=f"visual abstractor, {connector.queries} queries",
             prefix="connectors.image", input=seen, output=f"[N, {count}, {text.width}]", tokens=count),
        Part(slot="backbone", name=kind, prefix="backbone", input=f"[B, T, {text.width}]",
             output=f"[B, T, {text.vocab_size}]"),
    )  # fmt: skip


def published(kind: str) -> dict[str, Any]:
    """The released configs, without what the library adds."""
    text: dict[str, Any] = {
        "llama": {"model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32, "num_hidden_layers": 32,
                  "intermediate_size": 11008, "rms_norm_eps": 1e-6, "max_position_embeddings": 2048,
                  "vocab_size": 32000},
        "bloom": {"model_type": "bloom", "hidden_size": 4096, "n_layer": 30, "n_head": 32, "vocab_size": 250880},
    }[kind]  # fmt: skip
    return {"model_type": "mplug-owl", "architectures": ["MplugOwlForConditionalGeneration"], "text_config": text,
            "visual_abstractor_config": {"intermediate_size": 2816}, "num_query_tokens": 64}  # fmt: skip
