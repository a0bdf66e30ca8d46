"""Published checkpoints of Chameleon: config to model, names of tensors, processor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from polymodal.backbones import chameleon
from polymodal.backbones.decoder import DecoderConfig
from polymodal.data.hf_image import CLIP, transform_of
from polymodal.data.item_rules import CellCount
from polymodal.data.processor import Modality, Processor
from polymodal.data.template import Special, Template, Turn
from polymodal.errors import ConfigError
from polymodal.fusion.vocabulary import Spelling, Table, Vocabulary
from polymodal.generators import vq_codec
from polymodal.models.discrete_token_lm import DiscreteTokenLM
from polymodal.systems import (
    CheckpointFiles,
    LoadedModel,
    ModelSpec,
    Part,
)

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
    backbone = chameleon.parse_config(config)
    codec = vq_codec.parse_config(config.get("vq_config") or {})
    vocabulary, placeholder = vocabulary_of(config)
    pictures = vocabulary.ids("image").tolist()

    def build() -> DiscreteTokenLM:
        spelling = Spelling(vocabulary)
        return DiscreteTokenLM({"image": codec.build()}, {"image": spelling}, backbone.build(), {"image": placeholder},
                       suppressed=pictures)  # fmt: skip

    def assemble(module: Any, files: CheckpointFiles) -> LoadedModel:
        transform = transform_of(files.preprocessor, PICTURES, square=False)
        image = Modality(name="image", placeholder="<image>", transform=transform,
                         tokens=CellCount(codec.stack.factor),
                         before=(Special(name="<racm3:break>"),), after=(Special(name="<eoss>"),))  # fmt: skip
        tokenizer = files.tokenizer()
        own = files.chat_template(tokenizer, {"image": "<image>"})
        if own is not None:  # the published processor closes every prompt so, whoever wrote it
            own = replace(
                own, special_tokens_around=(own.special_tokens_around[0], (TURN.name, *own.special_tokens_around[1]))
            )
        processor = Processor(tokenizer=tokenizer, template=own or TEMPLATE, modalities=(image,),
                              max_length=backbone.max_length)  # fmt: skip
        return LoadedModel(model=module, processor=processor)

    side = (config.get("vq_config") or {}).get("resolution", 512)
    table = vq_codec.keys(codec).prefixed("model.vqmodel.", "encoders.image.")
    table += chameleon.hf_keys(backbone).prefixed("", "backbone.")
    return ModelSpec(build=build, keys=(table,), parts=drawing(backbone, codec, side), assemble=assemble)


def drawing(backbone: DecoderConfig, codec: vq_codec.VQCodecConfig, side: int) -> tuple[Part, ...]:
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
