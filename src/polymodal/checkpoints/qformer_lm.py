"""What BLIP-2 and InstructBLIP share: parsing of their configs, joining of their parts, the hub's names.

vision_config, qformer_config, text_config -> EVA ViT, Q-Former + linear, decoder or encoder-decoder -> assembly
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from polymodal.backbones import hf_text
from polymodal.backbones.encoder_decoder import EncoderDecoderConfig
from polymodal.checkpoints.record import Part
from polymodal.connectors import qformer
from polymodal.connectors.qformer import QFormerConnectorConfig
from polymodal.encoders import eva_vit
from polymodal.encoders.frames import FrameEncoder
from polymodal.encoders.vit import ViTConfig
from polymodal.errors import ConfigError
from polymodal.models.encoder_decoder_lm import EncoderDecoderLM
from polymodal.models.multimodal_lm import ModalityInputs, MultimodalLM
from polymodal.models.qformer_retrieval import QFormerRetrievalConfig
from polymodal.nn.losses import IGNORE
from polymodal.weights.keytable import KeyTable, rename
from polymodal.weights.operations import Squeeze

QUERIES = KeyTable((rename("query_tokens", "queries", Squeeze()),))


@dataclass(frozen=True, kw_only=True)
class CaptionPrompt:
    """The prompt of pictures without a text: their placeholders and the token a text begins with."""

    makes_input_ids: ClassVar[bool] = True  # a batch may come without them

    ids: tuple[int, ...]

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        pictures = batch.get("pixel_values")
        if batch.get("input_ids") is not None or pictures is None:
            return {}
        return {"input_ids": torch.tensor([self.ids] * len(pictures), device=pictures.device)}


@dataclass(frozen=True, kw_only=True)
class FrontPrompt(CaptionPrompt):
    """The prompt of checkpoints that name no placeholder, as their library had it: the features stand in front.

    ids: of pictures without a text.  placeholder: an id outside of the vocabulary.  tokens: features of a picture, or
    of a frame.  beside: tensors aligned with the ids, and what stands in them at a feature.
    """

    placeholder: int
    tokens: int
    beside: Mapping[str, int]

    def rewrite(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The batch with placeholders in front of its ids and of what is aligned with them, unless it has some."""
        ids, pictures = batch.get("input_ids"), batch.get("pixel_values")
        if ids is None or pictures is None or "item_counts" in batch or bool((ids == self.placeholder).any()):
            return dict(batch)
        count = self.tokens * (pictures.shape[1] if pictures.dim() == 5 else 1)
        longer = {
            name: torch.cat((batch[name].new_full((len(ids), count), fill), batch[name]), 1)
            for name, fill in {"input_ids": self.placeholder, **self.beside}.items()
            if batch.get(name) is not None
        }
        return {**batch, **longer}


@dataclass(frozen=True, kw_only=True)
class QFormerLM:
    """A frozen encoder, a Q-Former, a frozen language model; `placeholder` marks where the queries enter.

    in_front: the config names no placeholder, so the queries enter in front of everything.
    """

    encoder: ViTConfig
    connector: QFormerConnectorConfig
    text: hf_text.TextModel
    placeholder: int
    in_front: bool = False
    bos: tuple[int, ...] = ()
    instructed: bool = False
    video: bool = False

    @property
    def modality(self) -> str:
        return "video" if self.video else "image"

    def build(self) -> MultimodalLM:
        reads = ("input_ids=qformer_input_ids", "attention_mask=qformer_attention_mask") if self.instructed else ()
        name = self.modality
        encoder = self.encoder.build()
        inputs = {name: ModalityInputs(values="pixel_values", encoder=("interpolate_pos_encoding",), connector=reads)}
        encoders, connectors = {name: FrameEncoder(encoder) if self.video else encoder}, {name: self.connector.build()}
        backbone: Any = self.text.config.build()
        placeholders = {name: self.placeholder}
        tokens = self.connector.tokens
        caption = CaptionPrompt(ids=(self.placeholder,) * tokens + self.bos)
        if self.in_front:
            beside = {"attention_mask": 1} | ({} if self.text.seq2seq else {"labels": IGNORE})
            caption = FrontPrompt(ids=self.bos, placeholder=self.placeholder, tokens=tokens, beside=beside)
        if self.text.seq2seq:
            return EncoderDecoderLM(encoders, connectors, backbone, placeholders, inputs=inputs, prepare_inputs=caption)
        positions_ignore_padding = self.text.positions_ignore_padding
        return MultimodalLM(
            encoders,
            connectors,
            backbone,
            placeholders,
            inputs=inputs,
            prepare_inputs=caption,
            positions_ignore_padding=positions_ignore_padding,
        )

    def drawing(self) -> tuple[Part, ...]:
        """The boxes of `show`."""
        name, encoder, connector, text = self.modality, self.encoder, self.connector, self.text.config
        side, seen = encoder.image_size, f"[N, {encoder.tokens}, {encoder.width}]"
        kind = "encoder-decoder" if isinstance(text, EncoderDecoderConfig) else "decoder"
        reads = ", with the instruction" if self.instructed else ""
        return (
            Part(slot="encoder", modality=name, name="EVA-CLIP ViT-g/14, 39 blocks", prefix=f"encoders.{name}",
                 input=f"[N, 3, {side}, {side}]", output=seen, tokens=encoder.tokens),
            Part(slot="connector", modality=name, name=f"Q-Former of {connector.tokens} queries{reads}",
                 prefix=f"connectors.{name}", input=seen, output=f"[N, {connector.tokens}, {text.width}]",
                 tokens=connector.tokens),
            Part(slot="backbone", name=f"language model ({kind})", prefix="backbone", input=f"[B, T, {text.width}]",
                 output=f"[B, T, {text.vocab_size}]"),
        )  # fmt: skip


def qformer_lm(
    config: Mapping[str, Any], *, instructed: bool = False, official: bool = False, video: bool = False
) -> QFormerLM:
    """The parts a config.json of the hub describes.  `instructed`: the Q-Former reads the instruction too.

    Configs of the first releases name no `image_token_index`: their features stand in front of the prompt.

    official: the encoder as the official code builds it.  video: it sees frames.
    """
    queries = config.get("qformer_config") or {}
    text = hf_text.parse_config(config.get("text_config") or {}, default="opt")
    encoder = eva_vit.parse_config(config.get("vision_config") or {}, official)
    marks = ("video_token_index", "video_token_id") if video else ("image_token_index", "image_token_id")
    placeholder = next((config[name] for name in marks if config.get(name) is not None), None)
    if getattr(text.config, "embed_width", None) is not None:
        raise ConfigError("text_config.word_embed_proj_dim: must be hidden_size here, features enter at that width")
    reads = "full" if instructed else "mlp" if queries.get("use_qformer_text_input") else "none"
    asked = qformer.parse_config(
        queries, queries=config.get("num_query_tokens", 32), source_width=encoder.width, text=reads
    )
    connector = QFormerConnectorConfig(qformer=asked, out_width=text.config.width)
    words = config.get("text_config") or {}
    bos = words.get("bos_token_id", None if text.seq2seq else {"opt": 2}.get(words.get("model_type", "opt"), 1))
    return QFormerLM(
        encoder=encoder,
        connector=connector,
        text=text,
        placeholder=text.config.vocab_size if placeholder is None else placeholder,
        in_front=placeholder is None,
        instructed=instructed,
        video=video,
        bos=() if bos is None else (bos,),
    )


def hf_keys(found: QFormerLM) -> tuple[KeyTable, ...]:
    """The hub's names -> the assembly; one table for each spelling of the language model."""
    norm = "embeddings.layernorm" if found.instructed else "layernorm"
    encoder = "encoders.video.encoder." if found.video else "encoders.image."
    ours = f"connectors.{found.modality}."
    body = (
        eva_vit.HF_KEYS.prefixed("vision_model.", encoder)
        + QUERIES.prefixed("", f"{ours}qformer.")
        + qformer.hf_keys(found.connector.qformer, norm).prefixed("qformer.", f"{ours}qformer.")
        + linear("language_projection", f"{ours}proj")
    )
    return tuple(body + keys.prefixed("language_model.", "backbone.") for keys in found.text.keys)


def linear(theirs: str, ours: str) -> KeyTable:
    """Weight and bias of one linear."""
    return KeyTable.of({f"{theirs}.{leaf}": f"{ours}.{leaf}" for leaf in ("weight", "bias")})


def retrieval_keys(model: QFormerRetrievalConfig) -> KeyTable:
    """The hub's names of the first stage -> QFormerRetrieval."""
    ours = "connectors.image."
    body = QUERIES.prefixed("", ours) + qformer.hf_keys(replace(model.qformer, vocab_size=None)).prefixed(
        "qformer.", ours
    )
    if model.encoder is not None:
        body += eva_vit.HF_KEYS.prefixed("vision_model.", "encoders.image.")
    if model.qformer.vocab_size is not None:
        body += qformer.WORD_KEYS.prefixed("", ours)
    for theirs, mine in (
        ("vision_projection", "connectors.image_proj"),
        ("text_projection", "connectors.text_proj"),
        ("itm_head", "connectors.match_head"),
    ):
        body += linear(theirs, mine)
    return body
