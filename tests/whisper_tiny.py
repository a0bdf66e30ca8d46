"""A Whisper small enough to run in a blink: random weights and a real, very small byte vocabulary."""

import torch
from torch import nn

from polymodal.backbones.whisper_decoder import WhisperDecoderConfig
from polymodal.data.whisper_tokenizer import WhisperTokenizer
from polymodal.encoders.whisper import WhisperEncoderConfig
from polymodal.models.speech_seq2seq import SpeechSeq2Seq, SpeechSeq2SeqConfig

JOINED = "th,he,in,er,an,re, t, a, s, w,the, the,and, and,ing,you, you,on, o,♪,is,it,at,es"


def ranks() -> dict[bytes, int]:
    """All bytes, then a few words; every word's halves come before it, as in a trained vocabulary."""
    tokens = [bytes([value]) for value in range(256)]
    for word in JOINED.split(","):
        data = word.encode()
        tokens += [data[:size] for size in range(2, len(data) + 1) if data[:size] not in tokens]
    return {token: rank for rank, token in enumerate(tokens)}


def tokenizer(multilingual: bool = True) -> WhisperTokenizer:
    return WhisperTokenizer(ranks(), multilingual=multilingual)


@torch.no_grad()
def randomise(model: nn.Module, seed: int) -> None:
    """Random values for every parameter, biases and norms too, loud enough that answers differ."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.named_parameters():
        noise = torch.randn(value.shape, generator=generator)
        value.copy_(1 + 0.3 * noise if "norm.weight" in name else noise * (0.3 if value.dim() < 2 else 0.25))


def config(frames: int = 3000, multilingual: bool = True) -> SpeechSeq2SeqConfig:
    words = tokenizer(multilingual)
    return SpeechSeq2SeqConfig(
        encoder=WhisperEncoderConfig(width=16, depth=2, heads=2, frames=frames),
        decoder=WhisperDecoderConfig(vocab_size=words.vocab_size, width=16, depth=2, heads=2, positions=64),
        multilingual=multilingual,
    )


def model(frames: int = 3000, multilingual: bool = True, seed: int = 0) -> SpeechSeq2Seq:
    built = config(frames, multilingual).build().eval()
    randomise(built, seed)
    return built
