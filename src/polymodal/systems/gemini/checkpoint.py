"""Gemini as a checkpoint: released parts under their own names, rows of picture tokens behind those of text.

config.json   {"text_config": Gemma's, "vision_config": SigLIP's, "audio_config": Whisper's, "vq_config": Emu3's,
               "image_size": of written pictures, "image_token_id", "audio_token_id"}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from polymodal.backbones import gemma
from polymodal.backbones.decoder import DecoderConfig
from polymodal.checkpoints.qformer_lm import linear
from polymodal.connectors.linear import LinearConnectorConfig
from polymodal.encoders import siglip_vit, whisper
from polymodal.encoders.vit import ViTConfig
from polymodal.encoders.whisper import WhisperEncoderConfig
from polymodal.errors import ConfigError
from polymodal.fusion.vocabulary import Span, Spelling, Vocabulary
from polymodal.generators import vq_codec_3d
from polymodal.generators.vq_codec_3d import VideoCodecConfig
from polymodal.models.picture_writing_lm import PictureWritingLM
from polymodal.systems import CheckpointFiles, LoadedModel, ModelSpec, Part
from polymodal.systems.gemini.processing import processor
from polymodal.systems.gemini.writing import CodePainter
from polymodal.weights.keytable import KeyTable

CONTEXT = 32_768  # published
# Chosen here: nothing but the one head of keys and values was published.
ILLUSTRATIVE: dict[str, Any] = {
    "model_type": "gemini",
    "text_config": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 12, "num_attention_heads": 8,
                    "head_dim": 128, "vocab_size": 32_000},
    "vision_config": {},
    "audio_config": {"d_model": 384, "encoder_layers": 4, "encoder_attention_heads": 6, "encoder_ffn_dim": 1536},
    "vq_config": {"codebook_size": 8192, "base_channels": 128, "hidden_size": 512, "temporal_downsample_factor": 1},
    "image_size": 256,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a config describes.  words: ids of text; codes lie behind them.  side: pixels of written pictures."""

    backbone: DecoderConfig
    tower: ViTConfig
    ears: WhisperEncoderConfig
    codec: VideoCodecConfig
    words: int
    side: int
    placeholders: Mapping[str, int]

    @property
    def rows(self) -> int:
        """Codes of a written picture along each side."""
        return self.side // self.codec.stack.factor

    def build(self) -> PictureWritingLM:
        """Fresh weights."""
        width, joined = self.backbone.width, LinearConnectorConfig()
        codes = Span(start=self.words, count=self.codec.codes)
        return PictureWritingLM(
            {"image": self.tower.build(), "audio": self.ears.build()},
            {"image": joined.build(self.tower.width, width), "audio": joined.build(self.ears.width, width)},
            self.backbone.build(),
            self.placeholders,
            codec=self.codec.build(),
            spelling=Spelling(Vocabulary(size=self.backbone.vocab_size, codecs={"image": codes})),
        )

    @property
    def keys(self) -> KeyTable:
        """Names on disk -> ours."""
        table = gemma.hf_keys(self.backbone).prefixed("language_model.", "backbone.")
        table += siglip_vit.hf_keys(self.tower).prefixed("vision_tower.", "encoders.image.")
        table += whisper.HF_KEYS.prefixed("audio_tower.", "encoders.audio.")
        table += linear("vision_projection", "connectors.image.proj")
        table += linear("audio_projection", "connectors.audio.proj")
        return table + vq_codec_3d.keys().prefixed("vq_model.", "generators.image.")

    @property
    def drawing(self) -> tuple[Part, ...]:
        """The boxes of `show`."""
        width, first, last = self.backbone.width, self.words, self.words + self.codec.codes - 1
        seen, heard = f"[N, {self.tower.tokens}, {self.tower.width}]", f"[N, {self.ears.tokens}, {self.ears.width}]"
        return (
            Part(slot="encoder", modality="image", name="SigLIP (not published)", prefix="encoders.image", output=seen,
                 input=f"[N, 3, {self.tower.image_size}, {self.tower.image_size}]", tokens=self.tower.tokens),
            Part(slot="connector", modality="image", name="linear (not published)", prefix="connectors.image",
                 input=seen, output=f"[N, {self.tower.tokens}, {width}]", tokens=self.tower.tokens),
            Part(slot="encoder", modality="audio", name="Whisper's encoder, for USM", prefix="encoders.audio",
                 input=f"[N, {self.ears.mels}, {self.ears.frames}]", output=heard, tokens=self.ears.tokens),
            Part(slot="connector", modality="audio", name="linear (not published)", prefix="connectors.audio",
                 input=heard, output=f"[N, {self.ears.tokens}, {width}]", tokens=self.ears.tokens),
            Part(slot="backbone", name="multi-query decoder (sizes not published)", prefix="backbone",
                 input=f"[B, T, {width}]", output=f"[B, T, {self.backbone.vocab_size}]"),
            Part(slot="generator", modality="image", name="VQ codec (not published)", prefix="generators.image",
                 input=f"ids {first}..{last}", output=f"[N, 3, {self.side}, {self.side}]"),
        )  # fmt: skip


def parts_of(config: Mapping[str, Any]) -> Parts:
    """A config -> its parts; raises ConfigError for options that are not supported."""
    text = {"num_key_value_heads": 1, "max_position_embeddings": CONTEXT, **(config.get("text_config") or {})}
    if text["num_key_value_heads"] != 1:
        raise ConfigError("gemini: text_config.num_key_value_heads: expected 1, since its attention is multi-query, "
                          f"found {text['num_key_value_heads']!r}")  # fmt: skip
    words = text.get("vocab_size", gemma.HF_DEFAULTS["vocab_size"])
    codec = vq_codec_3d.parse_config(config.get("vq_config") or {})
    side = config.get("image_size", 256)
    if not isinstance(side, int) or isinstance(side, bool) or side < 1 or side % codec.stack.factor:
        raise ConfigError(f"gemini: image_size: expected a multiple of {codec.stack.factor} pixels, a code's side, "
                          f"found {side!r}")  # fmt: skip
    return Parts(
        backbone=gemma.parse_config({**text, "vocab_size": words + codec.codes}),
        tower=siglip_vit.parse_config(config.get("vision_config") or {}),
        ears=_ears(config.get("audio_config") or {}),
        codec=codec,
        words=words,
        side=side,
        # The last ids of text, unless the config says others.
        placeholders={
            name: config.get(f"{name}_token_id", words - place) for place, name in enumerate(("image", "audio"), 1)
        },
    )


def _ears(config: Mapping[str, Any]) -> WhisperEncoderConfig:
    """The encoder of a WhisperConfig, with the library's defaults."""
    activation = config.get("activation_function", "gelu")
    if activation != "gelu" or config.get("scale_embedding"):
        raise ConfigError(f"gemini: audio_config: expected activation_function gelu without scale_embedding, found "
                          f"{activation!r} and {config.get('scale_embedding')!r}")  # fmt: skip
    return WhisperEncoderConfig(
        width=config.get("d_model", 384), depth=config.get("encoder_layers", 4),
        heads=config.get("encoder_attention_heads", 6), ffn_width=config.get("encoder_ffn_dim", 1536),
        mels=config.get("num_mel_bins", 80), frames=2 * config.get("max_source_positions", 1500),
    )  # fmt: skip


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """A config of these parts -> the model, at any size; raises ConfigError as `parts_of` does."""
    found = parts_of(config)

    def assemble(module: nn.Module, files: CheckpointFiles) -> LoadedModel:
        assert isinstance(module, PictureWritingLM)
        made = processor(files.tokenizer(), module, found.tower.image_size, found.ears, found.side)
        painter = CodePainter(model=module, processor=made, rows=found.rows, side=found.side)
        return LoadedModel(model=module, processor=made, paint=painter)

    return ModelSpec(build=found.build, keys=(found.keys,), parts=found.drawing, assemble=assemble)
