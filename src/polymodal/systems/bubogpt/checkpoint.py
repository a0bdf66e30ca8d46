"""Published files of BuboGPT: config to model, names of tensors, the pieces of a folder joined."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from polymodal.backbones import hf_text
from polymodal.checkpoints import lavis, qformer_lm
from polymodal.connectors import qformer
from polymodal.connectors.qformer import QFormerConnectorConfig
from polymodal.encoders import eva_vit, imagebind_keys
from polymodal.encoders.vit import sides
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.systems import CheckpointFiles, ModelSpec, Part
from polymodal.systems.bubogpt.processing import assemble
from polymodal.weights.keytable import KeyTable, drop
from polymodal.weights.merged import Locations, MergedTensors, locations

SENSES = {"image": "vision", "audio": "audio"}
ENCODER, JOINER = "multimodal_encoder.modality_", "multimodal_joiner.modality_"
UNUSED = (  # of the second Q-Former's text side
    "cls.predictions.bias", "cls.predictions.transform.**",
    *(f"bert.embeddings.{name}_embeddings.weight" for name in ("word", "position")),
    *(f"bert.encoder.layer.{{}}.{part}.{leaf}" for part in ("intermediate.dense", "output.dense", "output.LayerNorm")
      for leaf in ("weight", "bias")),
)  # fmt: skip

REPEATED = {  # there
    "cls.predictions.decoder.bias": "cls.predictions.bias",
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
}


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """The whole model under the official names, at any size."""
    encoder = eva_vit.parse_config(config.get("vision_config") or {}, official=True)
    text = hf_text.parse_config(config.get("text_config") or {})
    width, bound = text.config.width, config.get("imagebind") or imagebind_keys.HUGE
    heard = {**imagebind_keys.DEFAULTS, **bound}["audio_embed_dim"]
    seen = qformer.parse_config(config.get("qformer_config") or {}, queries=config.get("num_query_token", 32),
                                source_width=encoder.width)  # fmt: skip
    asked = {"image": seen, "audio": replace(seen, source_width=heard)}
    connectors = {name: QFormerConnectorConfig(qformer=each, out_width=width) for name, each in asked.items()}
    vocabulary = text.config.vocab_size
    placeholders = {"image": vocabulary, "audio": vocabulary + 1, **(config.get("token_ids") or {})}

    def build() -> MultimodalLM:
        backbone: Any = text.config.build()
        encoders = {"image": encoder.build(), "audio": imagebind_keys.imagebind_tokens(bound, "audio")}
        return MultimodalLM(encoders, {name: each.build() for name, each in connectors.items()}, backbone, placeholders,
                            positions_ignore_padding=text.positions_ignore_padding)  # fmt: skip

    body = _encoder_keys()
    for name, each in asked.items():
        body += _connector_keys(name, each)
    keys = tuple(body + table.prefixed("llama_model.", "backbone.") for table in text.keys)
    side, tokens = encoder.image_size, connectors["image"].tokens
    parts = (
        Part(slot="encoder", modality="image", name="EVA-CLIP ViT-g/14, 39 blocks", prefix="encoders.image",
             input=f"[N, 3, {side}, {side}]", output=f"[N, {encoder.tokens}, {encoder.width}]", tokens=encoder.tokens),
        Part(slot="encoder", modality="audio", name="ImageBind, audio trunk, mean of clips", prefix="encoders.audio",
             input="[N, clips, 1, 128, 204]", output=f"[N, 229, {heard}]", tokens=229),
        *(Part(slot="connector", modality=name, name=f"Q-Former of {tokens} queries + linear",
               prefix=f"connectors.{name}", input="[N, S, D']", output=f"[N, {tokens}, {width}]", tokens=tokens)
          for name in asked),
        Part(slot="backbone", name="Vicuna v0", prefix="backbone", input=f"[B, T, {width}]", output="[B, T, V]"),
    )  # fmt: skip
    return ModelSpec(build=build, keys=keys, parts=parts, assemble=assemble(sides(side)[0], tokens))


def _encoder_keys() -> KeyTable:
    audio = imagebind_keys.token_keys("audio").prefixed("multimodal_encoder.", "encoders.audio.")
    return (
        eva_vit.OFFICIAL_KEYS.prefixed(f"{ENCODER}trunks.vision.", "encoders.image.")
        + qformer_lm.linear(f"{ENCODER}postprocessors.vision", "encoders.image.final_norm")
        + audio
        + KeyTable((drop(f"{ENCODER}heads.vision.**"),))
    )


def _connector_keys(name: str, config: qformer.QFormerConfig) -> KeyTable:
    table = lavis.qformer_keys(config, f"connectors.{name}.qformer.")
    if name == "audio":
        table += KeyTable(tuple(drop(f"Qformer.{each}") for each in UNUSED))
        table += KeyTable(tuple(drop(f"Qformer.{name}", copy_of=f"Qformer.{of}") for name, of in REPEATED.items()))
    sense = SENSES[name]
    linear = qformer_lm.linear(f"{JOINER}post_projectors.{sense}.fc", f"connectors.{name}.proj")
    return table.prefixed(f"{JOINER}qformers.{sense}.") + linear


def gather(files: CheckpointFiles) -> Mapping[str, Tensor]:
    """One file of everything, or ImageBind's, EVA's, BLIP-2's, BuboGPT's own and Vicuna in a subfolder."""
    found = lavis.gather(files, "llama_model")
    if not isinstance(found, MergedTensors):
        return found
    made: Locations = {}
    for name, place in found.locations.items():
        made.update({each: place for each in _renamed(name)})
    return MergedTensors.of(made | {name: place for name, place in locations(found).items() if name.startswith(JOINER)})


def _renamed(name: str) -> Iterator[str]:
    """What a tensor of one of the pieces is called in the whole model; nothing where it has no use for it."""
    first, _, rest = name.partition(".")
    if first.startswith("modality_"):  # ImageBind's
        yield from (f"multimodal_encoder.{name}",) if rest.startswith("audio.") else ()
    elif first == "visual_encoder":
        yield f"{ENCODER}trunks.vision.{rest}"
    elif first == "ln_vision":
        yield f"{ENCODER}postprocessors.vision.{rest}"
    elif first in ("Qformer", "query_tokens"):
        yield from () if rest.startswith("cls.") else (f"{JOINER}qformers.vision.{name}",)
    elif first == "llama_proj":  # MiniGPT-4's
        yield f"{JOINER}post_projectors.vision.fc.{rest}"
    elif first != "t5_proj":
        yield name
