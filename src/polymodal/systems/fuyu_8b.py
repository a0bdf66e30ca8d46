"""Fuyu-8B: no image encoder at all; a picture's raw patches are projected straight into the decoder.

Source: Fuyu-8B: A Multimodal Architecture for AI Agents (adept.ai, 2023); no paper.

    picture -> patches of 30 x 30, row by row [P, 2700] -> one linear [P, D] -> spliced at `|SPEAKER|`, every row closed
    by the word `|NEWLINE|` -> Persimmon, causal throughout -> text after `<0x04>`                     (fusion type C)

Traps: a patch is (row, column, channel), the channel fastest; the picture comes before `<s>`; pictures are never
enlarged; theta is 25000 in the published config and 10000 where a config leaves it out; the published processor calls
the patches `image_patches`, later `pixel_values`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.backbones import hf_text
from polymodal.connectors.patch_projection import PatchCounts, PatchProjectionConfig
from polymodal.data.media import Text
from polymodal.data.messages import Message
from polymodal.data.patches import RowPatches
from polymodal.data.processor import Modality, Processor
from polymodal.data.template import Special, Template, Turn
from polymodal.models.multimodal_lm import ModalityInputs, MultimodalLM
from polymodal.systems import (
    CheckpointFiles,
    CheckpointFormat,
    LanguageModeling,
    LoadedModel,
    ModelSpec,
    Part,
    Repository,
    Stage,
    System,
    Variant,
    hf,
)
from polymodal.weights.keytable import KeyTable

FLAT = ("vocab_size", "max_position_embeddings", "hidden_size", "intermediate_size", "num_hidden_layers",
        "num_attention_heads", "hidden_act", "layer_norm_eps", "qk_layernorm", "rope_scaling",
        "rope_theta", "partial_rotary_factor", "rope_parameters")  # fmt: skip
TEMPLATE = Template(
    turns={
        "picture": Turn(),
        "user": Turn(before=(Special(name="<s>"),), after=(Special(name="<0x04>"),)),
        "assistant": Turn(after=(Special(name="|ENDOFTEXT|", loss_mask=True),), loss_mask=True),
    },
)
INPUTS = {"image": ModalityInputs(values="pixel_values", connector=("counts=patch_counts",))}


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """A FuyuConfig dict, nested or flat -> the model; raises ConfigError for options that are not supported."""
    text = config.get("text_config") or {name: config[name] for name in FLAT if name in config}
    tied = bool(config.get("tie_word_embeddings", False))
    backbone, keys = hf_text.decoder_of({**text, "tie_word_embeddings": tied}, default="persimmon")
    patch, channels = config.get("patch_size", 30), config.get("num_channels", 3)
    values, placeholder = patch * patch * channels, config.get("image_token_id", 71011)

    def build() -> MultimodalLM:
        connector = PatchProjectionConfig().build(values, backbone.width)
        return MultimodalLM({"image": nn.Identity()}, {"image": connector}, backbone.build(), {"image": placeholder},
                            inputs=INPUTS, prepare_inputs=PatchCounts(placeholder=placeholder))  # fmt: skip

    def assemble(module: nn.Module, files: CheckpointFiles) -> LoadedModel:
        size = files.preprocessor.get("size") or {"width": 1920, "height": 1080}
        transform = RowPatches(patch=patch, width=size["width"], height=size["height"])
        image = Modality(name="image", placeholder="|SPEAKER|", transform=transform, collate=patches_alone,
                         tokens=patch_count, layout=rows_with_ends)  # fmt: skip
        processor = Processor(tokenizer=files.tokenizer(), template=TEMPLATE, modalities=(image,),
                              max_length=backbone.max_length, rewrite=picture_first)  # fmt: skip
        return LoadedModel(model=module, processor=processor)

    table = KeyTable.of({f"vision_embed_tokens.{leaf}": f"connectors.image.proj.{leaf}" for leaf in ("weight", "bias")})
    table += keys.prefixed("language_model.", "backbone.")
    in_memory = table.respelled({"language_model.model.": "model.language_model.", "language_model.": "",
                                 "vision_embed_tokens.": "model.vision_embed_tokens."})  # fmt: skip
    # The first release lies in one Persimmon with the linear among its names.
    first = table.respelled({"language_model.model.": "model.", "language_model.": "",
                             "vision_embed_tokens.": "model.vision_embed_tokens."})  # fmt: skip
    return ModelSpec(build=build, keys=(table, in_memory, first), in_memory=in_memory,
                     parts=drawing(values, backbone.width), assemble=assemble)  # fmt: skip


def patch_count(value: Mapping[str, Any]) -> int:
    return len(value["patches"])


def picture_first(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The pictures in a turn of their own in front, since `<s>` comes behind them."""
    media = tuple(part for message in messages for part in message.media)
    rest = tuple(Message(role=message.role, parts=(Text(message.text),)) for message in messages)
    return (Message(role="picture", parts=media), *rest) if media else rest


def rows_with_ends(value: dict[str, Tensor]) -> list[str]:
    """The ids of a picture: its patches row by row, each row closed by a newline."""
    rows, columns = value["grid"].tolist()
    return [name for _ in range(rows) for name in (*["|SPEAKER|"] * columns, "|NEWLINE|")]


def patches_alone(items: list[dict[str, Tensor]]) -> dict[str, Any]:
    patches = [item["patches"] for item in items]
    return {"pixel_values": torch.cat(patches), "patch_counts": tuple(map(len, patches))}  # the counts stay on the host


def drawing(values: int, width: int) -> tuple[Part, ...]:
    return (
        Part(slot="connector", modality="image", name="raw patches through one linear", prefix="connectors.image",
             input=f"[P, {values}]", output=f"[P, {width}]"),
        Part(slot="backbone", name="Persimmon", prefix="backbone", input=f"[B, T, {width}]", output="[B, T, V]"),
    )  # fmt: skip


PUBLISHED = {"model_type": "fuyu", "architectures": ["FuyuForCausalLM"], "hidden_size": 4096, "rope_theta": 25000.0,
             "intermediate_size": 16384, "num_hidden_layers": 36, "num_attention_heads": 64, "vocab_size": 262144,
             "max_position_embeddings": 16384, "patch_size": 30, "num_channels": 3}  # fmt: skip
SYSTEM = System(
    id="fuyu-8b",
    aliases=("Fuyu-8B", "Fuyu"),
    year=2023,
    fusion=("C",),
    assembly="MultimodalLM",
    inputs=("text", "image"),
    outputs=("text",),
    formats=(
        CheckpointFormat(
            name="transformers FuyuForCausalLM", parse_config=parse_config, matches=hf("fuyu", "FuyuForCausalLM")
        ),
    ),
    variants=(
        Variant(
            name="8b",
            parameters=9_408_238_592,
            config=PUBLISHED,
            repository=Repository(name="adept/fuyu-8b", license="CC BY-NC 4.0"),
        ),
    ),
    headline="reads raw patches of a picture of any size without an image encoder",
    reference="adept.ai/blog/fuyu-8b",
    recipe=(
        # Nothing of the training is published; one stage over everything is what the architecture allows.
        Stage(name="all", data=(), objective=LanguageModeling(), train=("connectors.image", "backbone")),
    ),
)
