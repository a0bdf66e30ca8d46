"""Whisper's encoder against transformers, every parameter and the positions random; float32, absolute 1e-4.

The published layout of the weights is compared in tests/models/test_speech_seq2seq.py.
"""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from polymodal.encoders.whisper import HF_KEYS, OPENAI_KEYS, WHISPER_ENCODERS, WhisperEncoder, WhisperEncoderConfig
from polymodal.errors import MediaError, WeightsError

TOLERANCE = 1e-4
TINY = WhisperEncoderConfig(width=24, depth=3, heads=4, mels=10, frames=40)


@torch.no_grad()
def randomise(model: nn.Module, seed: int) -> None:
    """Random values everywhere: biases, norms, and the positions that are fixed in the published models."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.named_parameters():
        noise = torch.randn(value.shape, generator=generator)
        value.copy_(1 + 0.3 * noise if "norm.weight" in name else noise * (0.3 if value.dim() < 2 else 0.2))


def hf_encoder(config: WhisperEncoderConfig) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    from transformers.models.whisper.modeling_whisper import WhisperEncoder as Theirs

    width = config.width
    settings = transformers.WhisperConfig(
        d_model=width, encoder_layers=config.depth, encoder_attention_heads=config.heads, num_mel_bins=config.mels,
        encoder_ffn_dim=config.ffn_width or 4 * width, max_source_positions=config.tokens,
        decoder_layers=1, decoder_attention_heads=config.heads, decoder_ffn_dim=8,
    )  # fmt: skip
    return Theirs(settings).eval()


def pair(config: WhisperEncoderConfig) -> tuple[nn.Module, WhisperEncoder]:
    theirs = hf_encoder(config)
    randomise(theirs, seed=0)
    ours = config.build().eval()
    ours.load_state_dict(dict(HF_KEYS.apply(theirs.state_dict(), ours)))
    return theirs, ours


@pytest.mark.parametrize("config", [TINY, replace(TINY, width=16, heads=2, mels=128, frames=64, ffn_width=20)])
def test_equals_transformers(config: WhisperEncoderConfig) -> None:
    theirs, ours = pair(config)
    mel = torch.randn(3, config.mels, config.frames)
    with torch.no_grad():
        expected, found = theirs(mel).last_hidden_state, ours(mel)
    assert found.shape == (3, config.tokens, config.width)
    assert (found - expected).abs().max() <= TOLERANCE


def test_positions_at_birth_are_the_published_sinusoids() -> None:
    theirs = hf_encoder(TINY)
    assert (TINY.build().positions - theirs.embed_positions.weight).abs().max() <= TOLERANCE


@pytest.mark.parametrize("table", [OPENAI_KEYS, HF_KEYS])
def test_tables_are_strict_and_two_way(table) -> None:  # type: ignore[no-untyped-def]
    ours = TINY.build()
    away = dict(table.inverse().apply(ours.state_dict()))
    back = dict(table.apply(away, ours))
    assert back.keys() == ours.state_dict().keys()
    missing = dict(away)
    del missing["conv1.bias"]
    with pytest.raises(WeightsError, match=r"conv1\.bias"):
        dict(table.apply(missing, ours))
    with pytest.raises(WeightsError, match="surplus"):
        dict(table.apply({**away, "surplus": torch.zeros(1)}, ours))


@pytest.mark.parametrize("name", WHISPER_ENCODERS)
def test_every_size_has_the_published_parameters(name: str) -> None:
    config = WHISPER_ENCODERS[name]
    with torch.device("meta"):
        ours, theirs = config.build(), hf_encoder(config)
    shapes = {key: tuple(value.shape) for key, value in theirs.state_dict().items()}
    assert HF_KEYS.check(shapes, ours.state_dict()).ok
    assert sum(v.numel() for v in ours.state_dict().values()) == sum(v.numel() for v in theirs.state_dict().values())


def test_features_of_the_sound_alone() -> None:
    encoder = TINY.build().eval()
    mel = torch.randn(3, TINY.mels, TINY.frames)
    with torch.no_grad():
        whole, trimmed = encoder(mel), encoder.trimmed(mel, [0.1, 0.0, 99.0])
    assert [len(item) for item in trimmed] == [5, 1, TINY.tokens]
    assert all(torch.equal(item, row[: len(item)]) for item, row in zip(trimmed, whole, strict=True))
    assert WHISPER_ENCODERS["tiny"].tokens == 1500
    assert [WHISPER_ENCODERS["tiny"].tokens_in(s) for s in (30.0, 1.0, 1.001, 60.0)] == [1500, 50, 51, 1500]


@pytest.mark.parametrize("shape", [(1, 10, 39), (1, 9, 40), (10, 40), (1, 10, 41)])
def test_another_length_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(MediaError, match="expected log-mel"):
        TINY.build()(torch.zeros(shape))


def test_every_parameter_learns() -> None:
    encoder = TINY.build()
    loss: Tensor = encoder(torch.randn(2, TINY.mels, TINY.frames)).square().sum()
    loss.backward()
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in encoder.parameters())
