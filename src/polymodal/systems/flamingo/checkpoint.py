"""Published checkpoints of Flamingo: config to model, names of tensors, processor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from polymodal.backbones import chinchilla
from polymodal.checkpoints.open_flamingo import OpenFlamingo, resampler_of
from polymodal.connectors import resampler
from polymodal.data.interleaved import Shots
from polymodal.data.item_rules import SameCount, StackedAs
from polymodal.data.normalise import IMAGENET_MEAN, IMAGENET_STD
from polymodal.data.processor import Modality, Processor
from polymodal.data.template import Special
from polymodal.data.transforms import Squash
from polymodal.encoders import nfnet
from polymodal.fusion import cross_attention
from polymodal.fusion.cross_attention import GatedCrossAttentionConfig, with_cross_attention
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.mlp import MLPConfig
from polymodal.systems import (
    CheckpointFiles,
    LoadedModel,
    ModelSpec,
    Part,
)
from polymodal.weights.keytable import KeyTable

BOS, END, IMAGE, EOS = "<BOS>", "<EOC>", "<image>", "<EOS>"


SHOTS = Shots(end=END, question="Question: ", answer=" Answer:", space=" ", begin=(Special(name=BOS),))


RESAMPLER = {"depth": 6, "heads": 16, "dim_head": 96, "num_latents": 64, "max_num_frames": 8}


def is_own(config: Mapping[str, Any]) -> bool:
    """Whether the language model is this one: Otter's configs have the same `model_type`, with LLaMA or MPT inside."""
    return (config.get("text_config") or {}).get("model_type", "chinchilla") == "chinchilla"


def parts_of(config: Mapping[str, Any]) -> OpenFlamingo:
    """The parts a config describes; absent numbers are the paper's."""
    encoder = nfnet.parse_config(config.get("vision_config") or {"image_size": 320})
    text = chinchilla.parse_config(config.get("text_config") or {})
    every, seen = config.get("cross_attn_every_n_layers", 1), text.blocks[0].attention
    attention = AttentionConfig(width=text.width, heads=seen.heads, head_dim=seen.size, source_width=encoder.width)
    mlp = MLPConfig(width=text.width, ffn_width=4 * text.width, activation="squared_relu", bias=False)
    cross = GatedCrossAttentionConfig(attention=attention, mlp=mlp)
    found = resampler_of({**RESAMPLER, **(config.get("perceiver_config") or {})})
    return OpenFlamingo(
        encoder=encoder,
        connector=replace(found, activation="squared_relu"),
        backbone=replace(text, blocks=with_cross_attention(text.blocks, cross, range(0, text.depth, every))),
        kind="Chinchilla-shaped decoder",
        media=config.get("media_token_id", 2),
        positions_ignore_padding=False,
    )


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """A config as `published` writes it -> the model, at any size."""
    found = parts_of(config)
    layers = "model.layers.{}"
    gated = cross_attention.OPEN_FLAMINGO_KEYS.prefixed(f"{layers}.gated_cross_attn_layer.", "blocks.{}.cross.")
    keys: KeyTable = (
        nfnet.TIMM_KEYS.prefixed("vision_encoder.", "encoders.image.encoder.")
        + resampler.OPEN_FLAMINGO_KEYS.prefixed("perceiver.", "connectors.image.")
        + (gated + chinchilla.keys(f"{layers}.decoder_layer")).prefixed("lang_encoder.", "backbone.")
    )

    def assemble(module: Any, files: CheckpointFiles) -> LoadedModel:
        side: Any = found.encoder.image_size
        image = Modality(
            name="image", placeholder=IMAGE, tokens=SameCount(1),
            transform=Squash(height=side, width=side, mean=IMAGENET_MEAN, std=IMAGENET_STD),
            collate=StackedAs("vision_x"),
        )  # fmt: skip
        words, limit = files.tokenizer(control=(BOS, END, IMAGE), eos=END), found.backbone.max_length
        processor = Processor(tokenizer=words, template=SHOTS, modalities=(image,), max_length=limit)
        return LoadedModel(model=module, processor=processor)

    return ModelSpec(build=found.build, keys=(keys,), parts=drawing(found), assemble=assemble)


def drawing(found: OpenFlamingo) -> tuple[Part, ...]:
    """The boxes of `show`."""
    vision, queries, width = found.encoder, found.connector.latents, found.backbone.width
    seen = f"[items, frames, {vision.tokens}, {vision.width}]"
    return (
        Part(slot="encoder", modality="image", name="NFNet, last stage", prefix="encoders.image", tokens=vision.tokens,
             input=f"[B, N, frames, 3, {vision.image_size}, {vision.image_size}]", output=seen),
        Part(slot="connector", modality="image", name=f"Perceiver resampler, {found.connector.depth} blocks",
             prefix="connectors.image", input=seen, output=f"[items, {queries}, {vision.width}]", tokens=queries),
        Part(slot="backbone", name=f"{found.kind} with {len(found.gated)} gated cross-attention blocks",
             prefix="backbone", input=f"[B, T, {width}], context", output=f"[B, T, {found.backbone.vocab_size}]"),
    )  # fmt: skip


def published(width: int, depth: int, heads: int, every: int) -> dict[str, Any]:
    """The numbers of the paper's tables."""
    text = {"model_type": "chinchilla", "hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads}
    return {"model_type": "flamingo", "text_config": text, "vision_config": {"image_size": 320},
            "perceiver_config": RESAMPLER, "cross_attn_every_n_layers": every, "media_token_id": 2}  # fmt: skip
