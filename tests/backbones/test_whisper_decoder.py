"""Whisper's decoder against transformers, every parameter random; float32, absolute 1e-4 on outputs of order one.

The published layout of the weights is compared in tests/models/test_speech_seq2seq.py.
"""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from polymodal.backbones.whisper_decoder import (
    HF_KEYS,
    WHISPER_DECODERS,
    WhisperDecoder,
    WhisperDecoderConfig,
)
from polymodal.errors import PromptError
from polymodal.nn.mask import MaskSpec, position_ids_from_mask

TOLERANCE = 1e-4
TINY = WhisperDecoderConfig(vocab_size=70, width=24, depth=3, heads=4, positions=30)


@torch.no_grad()
def randomise(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.named_parameters():
        noise = torch.randn(value.shape, generator=generator)
        value.copy_(1 + 0.3 * noise if "norm.weight" in name else noise * (0.3 if value.dim() < 2 else 0.2))


def hf_decoder(config: WhisperDecoderConfig) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    from transformers.models.whisper.modeling_whisper import WhisperDecoder as Theirs

    width = config.width
    settings = transformers.WhisperConfig(
        d_model=width, decoder_layers=config.depth, decoder_attention_heads=config.heads, pad_token_id=0,
        decoder_ffn_dim=config.ffn_width or 4 * width, max_target_positions=config.positions,
        vocab_size=config.vocab_size, encoder_layers=1, encoder_attention_heads=config.heads, encoder_ffn_dim=8,
    )  # fmt: skip
    return Theirs(settings).eval()


def pair(config: WhisperDecoderConfig = TINY) -> tuple[nn.Module, WhisperDecoder]:
    theirs = hf_decoder(config)
    randomise(theirs, seed=1)
    ours = config.build().eval()
    ours.load_state_dict(dict(HF_KEYS.apply(theirs.state_dict(), ours)))
    return theirs, ours


def tiny() -> WhisperDecoder:
    decoder = TINY.build().eval()
    randomise(decoder, seed=2)
    return decoder


def run(decoder: WhisperDecoder, ids: Tensor, features: Tensor) -> Tensor:
    return decoder(decoder.embed(ids), context=decoder.listen(features))


@torch.no_grad()
@pytest.mark.parametrize("config", [TINY, replace(TINY, width=16, heads=2, ffn_width=20)])
def test_equals_transformers(config: WhisperDecoderConfig) -> None:
    theirs, ours = pair(config)
    ids, features = torch.randint(1, config.vocab_size, (2, 11)), torch.randn(2, 13, config.width)
    expected = theirs(input_ids=ids, encoder_hidden_states=features).last_hidden_state
    hidden = run(ours, ids, features)
    assert (hidden - expected).abs().max() <= TOLERANCE
    logits = expected @ theirs.embed_tokens.weight.T
    assert (ours.head(hidden) - logits).abs().max() <= TOLERANCE


@torch.no_grad()
def test_cached_steps_equal_the_whole_pass() -> None:
    decoder, features = tiny(), torch.randn(2, 13, TINY.width)
    ids = torch.randint(0, TINY.vocab_size, (2, 12))
    whole = run(decoder, ids, features)
    context, cache = decoder.listen(features), decoder.new_cache(2, 12)
    parts = [ids[:, :4], ids[:, 4:7], *ids[:, 7:].split(1, dim=1)]
    stepped = torch.cat([decoder(decoder.embed(part), context=context, cache=cache) for part in parts], dim=1)
    assert (stepped - whole).abs().max() <= TOLERANCE


@torch.no_grad()
def test_rows_share_a_recording() -> None:
    """Three rows for each of two recordings, whole and in cached steps, equal the repeated features."""
    decoder, features = tiny(), torch.randn(2, 13, TINY.width)
    ids = torch.randint(0, TINY.vocab_size, (6, 8))
    expected = run(decoder, ids, features.repeat_interleave(3, dim=0))
    assert (run(decoder, ids, features) - expected).abs().max() <= TOLERANCE
    context, cache = decoder.listen(features), decoder.new_cache(6)
    steps = [decoder(decoder.embed(part), context=context, cache=cache) for part in ids.split(1, dim=1)]
    assert (torch.cat(steps, dim=1) - expected).abs().max() <= TOLERANCE


@torch.no_grad()
def test_reordered_rows_continue_their_new_past() -> None:
    decoder, features = tiny(), torch.randn(1, 13, TINY.width)
    ids, order = torch.randint(0, TINY.vocab_size, (3, 6)), torch.tensor([2, 2, 0])
    context, cache = decoder.listen(features), decoder.new_cache(3)
    decoder(decoder.embed(ids[:, :5]), context=context, cache=cache)
    cache.reorder(order)
    last = decoder(decoder.embed(ids[:, 5:]), context=context, cache=cache)
    expected = run(decoder, torch.cat((ids[order, :5], ids[:, 5:]), dim=1), features)[:, -1:]
    assert (last - expected).abs().max() <= TOLERANCE


@torch.no_grad()
def test_the_audio_is_read_once_and_serves_several_caches() -> None:
    decoder, features = tiny(), torch.randn(1, 13, TINY.width)
    calls: list[int] = []
    for block in decoder.blocks:
        block.cross.k_proj.register_forward_hook(lambda *_: calls.append(1))
    context, ids = decoder.listen(features), torch.randint(0, TINY.vocab_size, (1, 5))
    first = decoder(decoder.embed(ids), context=context, cache=decoder.new_cache(1))
    second = decoder(decoder.embed(ids), context=context, cache=decoder.new_cache(1))
    assert torch.equal(first, second)
    assert len(calls) == TINY.depth


@torch.no_grad()
def test_left_padding_does_not_matter() -> None:
    decoder, features = tiny(), torch.randn(1, 13, TINY.width)
    ids = torch.randint(0, TINY.vocab_size, (1, 6))
    padded = torch.cat((torch.zeros(1, 3, dtype=torch.long), ids), dim=1)
    real = torch.tensor([[0] * 3 + [1] * 6])
    mask, places = MaskSpec(attention_mask=real), position_ids_from_mask(real)
    found = decoder(decoder.embed(padded), places, mask, context=decoder.listen(features))
    assert (found[:, 3:] - run(decoder, ids, features)).abs().max() <= TOLERANCE


@pytest.mark.parametrize("name", WHISPER_DECODERS)
def test_every_size_has_the_published_parameters(name: str) -> None:
    config = WHISPER_DECODERS[name]
    with torch.device("meta"):
        ours, theirs = config.build(), hf_decoder(config)
    shapes = {key: tuple(value.shape) for key, value in theirs.state_dict().items()}
    assert HF_KEYS.check(shapes, ours.state_dict()).ok
    assert sum(v.numel() for v in ours.state_dict().values()) == sum(v.numel() for v in theirs.state_dict().values())


def test_beyond_the_last_position() -> None:
    decoder, features = tiny(), torch.randn(1, 13, TINY.width)
    with pytest.raises(PromptError, match="31 tokens exceed its 30 positions"):
        run(decoder, torch.zeros(1, 31, dtype=torch.long), features)
    with pytest.raises(PromptError, match="3 rows cannot share 2 recordings"):
        run(decoder, torch.zeros(3, 1, dtype=torch.long), features.repeat(2, 1, 1))


def test_gradients_reach_every_parameter_and_the_audio() -> None:
    decoder = TINY.build()
    features = torch.randn(2, 13, TINY.width, requires_grad=True)
    ids = torch.arange(60).view(2, 30)
    decoder.head(run(decoder, ids, features)).logsumexp(-1).sum().backward()
    assert features.grad is not None and features.grad.abs().sum() > 0
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in decoder.parameters())
