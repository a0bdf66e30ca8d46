"""Whisper whole, as one encoder of a larger model: what its decoder makes of a recording (LLaSM).

    audio_values [N, mels, frames] -> encoder [N, frames / 2, D] -> decoder, reading `queries` times the start token
        -> its last hidden states [N, queries, D]

Source: llasm.py of LinkSoul-AI/LLaSM (arXiv 2308.15930).
Traps: the decoder's mask is causal and its positions differ, so the queries do too, although their token is
the same; the states are those behind its last norm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from polymodal.backbones import whisper_decoder
from polymodal.backbones.whisper_decoder import WhisperDecoderConfig
from polymodal.encoders import whisper
from polymodal.encoders.whisper import WhisperEncoderConfig
from polymodal.errors import ConfigError
from polymodal.weights.keytable import KeyTable


@dataclass(frozen=True, kw_only=True)
class WhisperStatesConfig:
    """`start`: id of the token that the decoder reads `queries` times."""

    encoder: WhisperEncoderConfig
    decoder: WhisperDecoderConfig
    start: int
    queries: int

    def __post_init__(self) -> None:
        if not 1 <= self.queries <= self.decoder.positions:
            raise ConfigError(
                f"Whisper states: queries must be in 1..{self.decoder.positions}, its positions; found {self.queries}"
            )
        if not 0 <= self.start < self.decoder.vocab_size:
            raise ConfigError(f"Whisper states: start must be one of {self.decoder.vocab_size} ids, found {self.start}")

    def build(self) -> WhisperStates:
        return WhisperStates(self)


class WhisperStates(nn.Module):
    """`audio_values [N, mels, frames]` -> `[N, queries, D]`"""

    def __init__(self, config: WhisperStatesConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = config.encoder.build()
        self.decoder = config.decoder.build()

    def forward(self, audio_values: Tensor) -> Tensor:
        """Raises MediaError unless the spectrogram is exactly one window long."""
        features = self.encoder(audio_values)
        token = self.decoder.embed_tokens.weight[self.config.start]
        asked = token.expand(len(features), self.config.queries, -1)
        return self.decoder(asked, context=self.decoder.listen(features))


def parse_config(config: Mapping[str, Any], queries: int) -> WhisperStatesConfig:
    """A WhisperConfig dict; absent keys take the library's defaults.  ConfigError for what is not supported."""
    activation = config.get("activation_function", "gelu")
    scaled = bool(config.get("scale_embedding"))
    if activation != "gelu" or scaled:
        raise ConfigError(
            f"whisper: activation_function {activation!r} with scale_embedding {scaled} is not supported; expected "
            "'gelu' and false"
        )
    width = config.get("d_model", 384)
    encoder = WhisperEncoderConfig(
        width=width, depth=config.get("encoder_layers", 4), heads=config.get("encoder_attention_heads", 6),
        mels=config.get("num_mel_bins", 80), frames=2 * config.get("max_source_positions", 1500),
        ffn_width=config.get("encoder_ffn_dim", 1536),
    )  # fmt: skip
    decoder = WhisperDecoderConfig(
        vocab_size=config.get("vocab_size", 51865), width=width, depth=config.get("decoder_layers", 4),
        heads=config.get("decoder_attention_heads", 6), positions=config.get("max_target_positions", 448),
        ffn_width=config.get("decoder_ffn_dim", 1536),
    )  # fmt: skip
    start = config.get("decoder_start_token_id", 50257)
    return WhisperStatesConfig(encoder=encoder, decoder=decoder, start=start, queries=queries)


# Names of transformers' WhisperModel.
HF_KEYS: KeyTable = whisper.HF_KEYS.prefixed("encoder.", "encoder.") + whisper_decoder.HF_KEYS.prefixed(
    "decoder.", "decoder."
)
