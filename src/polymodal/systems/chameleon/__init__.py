"""Chameleon: pictures and text as ids of one vocabulary, in one transformer.

Paper: Chameleon: Mixed-Modal Early-Fusion Foundation Models (arXiv 2405.09818).

    picture -> 512 x 512 -> VQ-GAN -> 32 x 32 codes -> 1024 ids among 65536 -> the one embedding table   (fusion type D)
    ids of text and pictures -> LLaMA-like decoder, queries and keys normed per head -> logits over all ids

Traps: a code's id is found by its token's name (`IMGIMG` and its digits as letters), not by counting; the norms of
queries and keys are layer norms with weights per head; the 34B model norms behind each branch; inference of the release
never writes a picture, its logits of picture ids are the least number; the library's scale of pixels is not the
official one (x * 0.0078 - 1 instead of 2 x / 255 - 1).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polymodal.backbones import chameleon
from polymodal.backbones.decoder import DecoderConfig
from polymodal.data.hf_image import CLIP, transform_of
from polymodal.data.processor import Modality, Processor
from polymodal.data.template import Special, Template, Turn
from polymodal.errors import ConfigError
from polymodal.fusion.vocabulary import Spelling, Table, Vocabulary
from polymodal.generators import vq_codec
from polymodal.models.discrete_token_lm import DiscreteTokenLM
from polymodal.systems import (
    CheckpointFiles,
    CheckpointFormat,
    LoadedModel,
    ModelSpec,
    Part,
    Repository,
    Stage,
    System,
    Variant,
    hf,
)
from polymodal.systems.chameleon import official

PICTURES = {**CLIP, "size": {"shortest_edge": 512}, "crop_size": {"height": 512, "width": 512}, "resample": 1,
            "rescale_factor": 0.0078, "image_mean": (1.0, 1.0, 1.0), "image_std": (1.0, 1.0, 1.0)}  # fmt: skip
TURN = Special(name="<reserved08706>")
TEMPLATE = Template(
    begin=(Special(name="<s>"),),
    turns={"user": Turn(after=(TURN,)), "assistant": Turn(loss_mask=True)},
    following={("assistant", "user"): Turn(before=(TURN,), after=(TURN,))},
    end=(Special(name="</s>", loss_mask=True),),
)
LETTERS = str.maketrans("ABCDEFGHIJ", "0123456789")


def vocabulary_of(config: Mapping[str, Any]) -> tuple[Vocabulary, int]:
    """The codes that the names of `vocabulary_map` spell, and the id of the placeholder (-1: none).

    Raises ConfigError without a map.
    """
    names: Mapping[str, int] | None = config.get("vocabulary_map")
    if not names:
        raise ConfigError("chameleon: config.json has no vocabulary_map, which says what ids stand for pictures")
    table = Table.named(names, lambda name: int(name[6:-1].translate(LETTERS)) if name[:6] == "IMGIMG" else None)
    size = config.get("vocab_size", 65536)
    return Vocabulary(size=size, codecs={"image": table}), names.get("<image>", -1)


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """A ChameleonConfig dict -> the model; raises ConfigError for options that are not supported."""
    backbone = chameleon.of_config(config)
    codec = vq_codec.of_config(config.get("vq_config") or {})
    vocabulary, placeholder = vocabulary_of(config)
    pictures = vocabulary.ids("image").tolist()

    def build() -> DiscreteTokenLM:
        spelling = Spelling(vocabulary)
        return DiscreteTokenLM({"image": codec.build()}, {"image": spelling}, backbone.build(), {"image": placeholder},
                       silent=pictures)  # fmt: skip

    def assemble(module: Any, files: CheckpointFiles) -> LoadedModel:
        factor = codec.stack.factor
        transform = transform_of(files.preprocessor, PICTURES, square=False)
        image = Modality(name="image", placeholder="<image>", transform=transform,
                         tokens=lambda pixels: (pixels.shape[1] // factor) * (pixels.shape[2] // factor),
                         before=(Special(name="<racm3:break>"),), after=(Special(name="<eoss>"),))  # fmt: skip
        processor = Processor(tokenizer=files.tokenizer(), template=TEMPLATE, modalities=(image,),
                              max_length=backbone.max_length)  # fmt: skip
        return LoadedModel(model=module, processor=processor)

    side = (config.get("vq_config") or {}).get("resolution", 512)
    table = vq_codec.keys(codec).prefixed("model.vqmodel.", "encoders.image.")
    table += chameleon.hf_keys(backbone).prefixed("", "backbone.")
    return ModelSpec(build=build, keys=(table,), parts=drawn(backbone, codec, side), assemble=assemble)


def drawn(backbone: DecoderConfig, codec: vq_codec.VQCodecConfig, side: int) -> tuple[Part, ...]:
    grid = side // codec.stack.factor
    return (
        Part(slot="encoder", modality="image", name=f"VQ-GAN of {codec.codes} codes", prefix="encoders.image",
             input=f"[N, 3, {side}, {side}]", output=f"codes [N, {grid}, {grid}]", tokens=grid * grid),
        Part(slot="connector", modality="image", name="codes to ids by name", prefix="",
             input=f"[N, {grid}, {grid}]", output=f"ids [N, {grid * grid}]", tokens=grid * grid),
        Part(slot="backbone", name="decoder with normed queries and keys", prefix="backbone",
             input=f"[B, T, {backbone.width}]", output=f"[B, T, {backbone.vocab_size}]"),
    )  # fmt: skip


def published(**config: Any) -> dict[str, Any]:
    """The config.json of the hub's checkpoints; code k is id k + 4 there."""
    digits = str.maketrans("0123456789", "ABCDEFGHIJ")
    names = {f"IMGIMG{str(code).translate(digits)}Z": code + 4 for code in range(8192)}
    special = {"<s>": 0, "<pad>": 1, "</s>": 2, "<eoss>": 8196, "<racm3:break>": 8197, "<reserved08706>": 8710}
    return {"model_type": "chameleon", "architectures": ["ChameleonForConditionalGeneration"],
            "vocabulary_map": {**special, **names, "<image>": 8711}, **config}  # fmt: skip


LICENSE = "Chameleon Research License"
SYSTEM = System(
    id="chameleon",
    aliases=("Chameleon", "Chameleon-7B", "Chameleon-34B"),
    year=2024,
    fusion=("D",),
    assembly="DiscreteTokenLM",
    inputs=("text", "image"),
    outputs=("text",),
    formats=(
        CheckpointFormat(name="transformers ChameleonForConditionalGeneration", parse_config=parse_config,
               matches=hf("chameleon", "ChameleonForConditionalGeneration")),
        *official.LAYOUTS,
    ),
    variants=(
        Variant(name="7b", parameters=7_043_090_432, config=published(hidden_size=4096, num_hidden_layers=32),
                repository=Repository(name="facebook/chameleon-7b", license=LICENSE)),
        Variant(name="34b", parameters=34_323_732_480,
                repository=Repository(name="facebook/chameleon-30b", license=LICENSE),
                config=published(hidden_size=8192, num_hidden_layers=48, num_attention_heads=64, num_key_value_heads=8,
                                 intermediate_size=22016, swin_norm=True, model_parallel_size=4)),
    ),
    headline="one transformer over interleaved pictures and text, both as ids of one vocabulary",
    reference="arXiv 2405.09818",
    recipe=(
        Stage(name="pretrain 1", data="2.9 trillion tokens of text, 1.5 trillion of captioned pictures, 400 billion "
              "interleaved", objective="next id, text and pictures alike; z-loss 1e-5", train=("backbone",), lr=1e-4,
              batch=2048, steps=877_000, warmup=4000, betas=(0.9, 0.95), weight_decay=0.1),
        Stage(name="pretrain 2", data="the first stage's data halved, licensed and instruction data of better "
              "quality", objective="next id; z-loss 1e-5", train=("backbone",), lr=1e-4, batch=2048, steps=219_000,
              betas=(0.9, 0.95), weight_decay=0.1),
        Stage(name="align", data="text, code, conversations about pictures, picture generation, interleaved, safety",
              objective="next id of answers; z-loss 1e-5", train=("backbone",), lr=1e-5, batch=128, steps=14_000,
              betas=(0.9, 0.95), weight_decay=0.1),
    ),
)  # fmt: skip
