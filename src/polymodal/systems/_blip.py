"""What BLIP-2 and InstructBLIP share: parsing of their configs, joining of their parts, the hub's names.

vision_config, qformer_config, text_config -> EVA ViT, Q-Former + linear, decoder or encoder-decoder -> assembly
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from polymodal.assemblies.multimodal_lm import Inputs, MultimodalLM
from polymodal.assemblies.query_matcher import QueryMatcherConfig
from polymodal.assemblies.seq2seq import MultimodalSeq2Seq
from polymodal.backbones import hf_text
from polymodal.backbones.encoder_decoder import EncoderDecoderConfig
from polymodal.connectors import qformer
from polymodal.connectors.qformer import QFormerConnectorConfig
from polymodal.data.hf_image import VIT, transform_of
from polymodal.data.media import Text
from polymodal.data.messages import Message
from polymodal.data.normalise import CLIP_MEAN, CLIP_STD
from polymodal.data.processor import Modality, Processor
from polymodal.data.template import Special, Template, Turn, Words
from polymodal.encoders import eva_vit
from polymodal.encoders.vit import ViTConfig
from polymodal.errors import ConfigError
from polymodal.systems._layout import Files
from polymodal.systems._system import Assembled, Part
from polymodal.weights.keytable import KeyTable, rename
from polymodal.weights.operations import Squeeze

QUERIES = KeyTable((rename("query_tokens", "queries", Squeeze()),))


@dataclass(frozen=True, kw_only=True)
class CaptionPrompt:
    """The prompt of pictures without a text: their placeholders and the token a text begins with."""

    ids: tuple[int, ...]

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        pictures = batch.get("pixel_values")
        if batch.get("input_ids") is not None or pictures is None:
            return {}
        return {"input_ids": torch.tensor([self.ids] * len(pictures), device=pictures.device)}


@dataclass(frozen=True, kw_only=True)
class Bridge:
    """A frozen encoder, a Q-Former, a frozen language model; `placeholder` marks where the queries enter."""

    encoder: ViTConfig
    connector: QFormerConnectorConfig
    text: hf_text.TextModel
    placeholder: int
    bos: tuple[int, ...] = ()
    instructed: bool = False

    def build(self) -> MultimodalLM:
        reads = ("input_ids=qformer_input_ids", "attention_mask=qformer_attention_mask") if self.instructed else ()
        inputs = {"image": Inputs(values="pixel_values", encoder=("interpolate_pos_encoding",), connector=reads)}
        encoders, connectors = {"image": self.encoder.build()}, {"image": self.connector.build()}
        backbone: Any = self.text.config.build()
        places = {"image": self.placeholder}
        caption = CaptionPrompt(ids=(self.placeholder,) * self.connector.tokens + self.bos)
        if self.text.seq2seq:
            return MultimodalSeq2Seq(encoders, connectors, backbone, places, inputs=inputs, arrange=caption)
        columns = self.text.columns
        return MultimodalLM(encoders, connectors, backbone, places, inputs=inputs, arrange=caption, columns=columns)

    def drawing(self) -> tuple[Part, ...]:
        """The boxes of `show`."""
        encoder, connector, text = self.encoder, self.connector, self.text.config
        side, seen = encoder.image_size, f"[N, {encoder.tokens}, {encoder.width}]"
        kind = "encoder-decoder" if isinstance(text, EncoderDecoderConfig) else "decoder"
        reads = ", with the instruction" if self.instructed else ""
        return (
            Part(slot="encoder", modality="image", name="EVA-CLIP ViT-g/14, 39 blocks", prefix="encoders.image",
                 takes=f"[N, 3, {side}, {side}]", gives=seen, tokens=encoder.tokens),
            Part(slot="connector", modality="image", name=f"Q-Former of {connector.tokens} queries{reads}",
                 prefix="connectors.image", takes=seen, gives=f"[N, {connector.tokens}, {text.width}]",
                 tokens=connector.tokens),
            Part(slot="backbone", name=f"language model ({kind})", prefix="backbone", takes=f"[B, T, {text.width}]",
                 gives=f"[B, T, {text.vocab_size}]"),
        )  # fmt: skip


def bridge(config: Mapping[str, Any], *, instructed: bool = False, official: bool = False) -> Bridge:
    """The parts a config.json of the hub describes.  `instructed`: the Q-Former reads the instruction too.

    official: the encoder as the official code builds it.
    """
    queries = config.get("qformer_config") or {}
    text = hf_text.of_config(config.get("text_config") or {}, default="opt")
    encoder = eva_vit.of_config(config.get("vision_config") or {}, official)
    placeholder = config.get("image_token_index", config.get("image_token_id"))
    if placeholder is None:
        raise ConfigError("image_token_index: expected the id of <image>, found none; the features need a place")
    if getattr(text.config, "embed_width", None) is not None:
        raise ConfigError("text_config.word_embed_proj_dim: must be hidden_size here, features enter at that width")
    reads = "full" if instructed else "mlp" if queries.get("use_qformer_text_input") else "none"
    asked = qformer.of_config(
        queries, queries=config.get("num_query_tokens", 32), source_width=encoder.width, text=reads
    )
    connector = QFormerConnectorConfig(qformer=asked, out_width=text.config.width)
    words = config.get("text_config") or {}
    bos = words.get("bos_token_id", None if text.seq2seq else {"opt": 2}.get(words.get("model_type", "opt"), 1))
    return Bridge(
        encoder=encoder,
        connector=connector,
        text=text,
        placeholder=placeholder,
        instructed=instructed,
        bos=() if bos is None else (bos,),
    )


def hf_keys(found: Bridge) -> tuple[KeyTable, ...]:
    """The hub's names -> the assembly; one table for each spelling of the language model."""
    norm = "embeddings.layernorm" if found.instructed else "layernorm"
    body = (
        eva_vit.HF_KEYS.prefixed("vision_model.", "encoders.image.")
        + QUERIES.prefixed("", "connectors.image.qformer.")
        + qformer.hf_keys(found.connector.qformer, norm).prefixed("qformer.", "connectors.image.qformer.")
        + linear("language_projection", "connectors.image.proj")
    )
    return tuple(body + keys.prefixed("language_model.", "backbone.") for keys in found.text.keys)


def linear(theirs: str, ours: str) -> KeyTable:
    """Weight and bias of one linear."""
    return KeyTable.of({f"{theirs}.{leaf}": f"{ours}.{leaf}" for leaf in ("weight", "bias")})


def retrieval_keys(model: QueryMatcherConfig) -> KeyTable:
    """The hub's names of the first stage -> QueryMatcher."""
    ours = "connectors.image."
    body = QUERIES.prefixed("", ours) + qformer.hf_keys(replace(model.qformer, vocab_size=None)).prefixed(
        "qformer.", ours
    )
    if model.encoder is not None:
        body += eva_vit.HF_KEYS.prefixed("vision_model.", "encoders.image.")
    if model.qformer.vocab_size is not None:
        body += qformer.WORD_KEYS.prefixed("", ours)
    for theirs, mine in (
        ("vision_projection", "image_proj"),
        ("text_projection", "text_proj"),
        ("itm_head", "match_head"),
    ):
        body += linear(theirs, mine)
    return body


PICTURE = {**VIT, "resample": 3, "image_mean": CLIP_MEAN, "image_std": CLIP_STD}
"""Defaults of BlipImageProcessor, but for the size: both sides at once, whatever the picture's proportions."""

# Prompts of the paper (section 4.1 and appendix): questions are asked and answered in words; captions need none.
OPT_WORDS, T5_WORDS = ("Question: ", " Answer:"), ("Question: ", " Short answer:")


def template(words: tuple[str, str], behind_picture: tuple[Special, ...], ask: tuple[Special, ...]) -> Template:
    """`Question: Q1 Answer: A1. Question: Q2 Answer:` behind the picture and what stands behind it."""
    turns = {
        "picture": Turn(after=behind_picture),
        "user": Turn(before=(Words(text=words[0]),), after=(Words(text=words[1]),)),
        "assistant": Turn(before=(Words(text=" "),), after=(Words(text=". "),), learn=True),
    }
    return Template(turns=turns, ask=ask)


def picture_first(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The picture in a turn of its own at the start, and users without words (who want a caption) left out."""
    media = tuple(part for message in messages for part in message.media)
    rest = [replace(message, parts=(Text(message.text),)) for message in messages if message.text.strip()]
    return (Message(role="picture", parts=media), *rest)


def assemble(found: Bridge) -> Callable[[Any, Files], Assembled]:
    """What a loaded bridge needs to answer messages: the picture's transform, the tokenizer, the prompt's words."""

    def joined(module: Any, files: Files) -> Assembled:
        tokenizer = files.tokenizer()
        side = found.encoder.image_size
        transform = transform_of(files.preprocessor, {**PICTURE, "size": {"height": side, "width": side}})
        image = Modality(name="image", placeholder="<image>", transform=transform,
                         tokens=lambda values: found.connector.tokens)  # fmt: skip
        end = (Special(name="</s>"),)
        seq2seq = found.text.seq2seq
        words = template(T5_WORDS if seq2seq else OPT_WORDS, () if seq2seq else end, end if seq2seq else ())
        processor = Processor(tokenizer=tokenizer, template=words, modalities=(image,), rewrite=picture_first)
        return Assembled(model=module, processor=processor)

    return joined
