"""The sockets of the decoder: cross child, routed linears and norms, masks, fused and int8 forms, dtypes, errors."""

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from decoder_parity import TOLERANCE, logits, randomise, stepwise
from torch import Tensor, nn

from polymodal.backbones.decoder import Decoder, DecoderConfig
from polymodal.backbones.llama import LlamaShape
from polymodal.errors import ConfigError, PromptError
from polymodal.nn.attention import AttentionConfig, AttentionLinears
from polymodal.nn.cache import LayerCache
from polymodal.nn.fuse import fuse_projections
from polymodal.nn.linear import Linear
from polymodal.nn.mask import MaskSpec
from polymodal.nn.token_types import TokenTypes

SHAPE = LlamaShape(width=32, depth=3, heads=4, kv_heads=2, ffn_width=48, vocab_size=61, qkv_bias=True)


def decoder(config: DecoderConfig | None = None) -> Decoder:
    model = (config or SHAPE.config()).build().eval()
    randomise(model)
    return model


@dataclass(frozen=True)
class Gated:
    """A cross child as Flamingo has it: attention to the context under a tanh gate."""

    def build(self) -> nn.Module:
        return GatedCross()


class GatedCross(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = AttentionConfig(width=32, heads=4, source_width=20).build()
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, context: Any, cache: LayerCache | None) -> Tensor:
        features, visible = context
        return self.gate.tanh() * self.attn(x, MaskSpec(causal=False, visible=visible), None, cache, features)


def with_cross() -> Decoder:
    plain = SHAPE.config()
    return decoder(replace(plain, blocks=(plain.blocks[0], replace(plain.blocks[1], cross=Gated()), plain.blocks[2])))


def context(rows: int) -> tuple[Tensor, Tensor]:
    """Two features, visible from position 4 on: the text before them must not notice."""
    visible = torch.zeros(2, rows, 2, dtype=torch.bool)
    visible[:, 4:] = True
    return torch.randn(2, 2, 20, generator=torch.Generator().manual_seed(3)), visible


@torch.no_grad()
def test_cross_child_is_silent_at_gate_zero_and_before_its_item() -> None:
    model = with_cross()
    ids = torch.randint(0, 61, (2, 9))
    x, positions = model.embed(ids), torch.arange(9)[None]
    bare = model(x, positions)
    model.blocks[1].cross.gate.zero_()
    assert torch.equal(model(x, positions, context=context(9)), bare)
    model.blocks[1].cross.gate.fill_(0.9)
    seeing = model(x, positions, context=context(9))
    assert torch.equal(seeing[:, :4], bare[:, :4])
    assert (seeing[:, 4:] - bare[:, 4:]).abs().max() > 0.1


@torch.no_grad()
def test_cross_child_in_chunks_reads_its_features_once() -> None:
    model = with_cross()
    ids = torch.randint(0, 61, (2, 9))
    x, positions = model.embed(ids), torch.arange(9)[None]
    features, visible = context(9)
    expected = model(x, positions, context=(features, visible))
    cache, out = model.new_cache(2, 9), []
    for start, end in ((0, 3), (3, 6), (6, 7), (7, 8), (8, 9)):
        seen = (features if start == 0 else None, visible[:, start:end])
        out.append(model(x[:, start:end], positions[:, start:end], context=seen, cache=cache))
    assert (torch.cat(out, 1) - expected).abs().max() <= TOLERANCE


@dataclass(frozen=True)
class RoutedConfig:
    """Two branches chosen per token, standing in a linear slot or a norm slot."""

    def build(self, in_width: int, out_width: int = 0, bias: bool = False) -> nn.Module:
        return Routed([Linear(in_width, out_width or in_width, bias=bias) for _ in range(2)])


class Routed(nn.Module):
    def __init__(self, branches: list[nn.Module]):
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor, token_types: TokenTypes | None = None) -> Tensor:
        text, image = self.branches[0](x), self.branches[1](x)
        return text if token_types is None else torch.where((token_types.kinds == 1)[..., None], image, text)


@torch.no_grad()
def test_routed_children_need_no_flag() -> None:
    plain = SHAPE.config()
    block = plain.blocks[0]
    slots = RoutedConfig()
    attention = replace(block.attention, linears=AttentionLinears(q=slots, k=slots, v=slots, o=slots))
    mlp = replace(block.mlp, linear=slots)
    routed = replace(block, attention=attention, mlp=mlp, norm=slots)
    model = decoder(replace(plain, blocks=(routed,) * 3))
    ids = torch.randint(0, 61, (2, 7))
    x, positions = model.embed(ids), torch.arange(7)[None]
    text = model(x, positions)
    types = torch.zeros_like(ids)
    assert torch.equal(model(x, positions, token_types=types), text)
    types[:, 3] = 1
    mixed = model(x, positions, token_types=types)
    assert torch.equal(mixed[:, :3], text[:, :3])
    assert (mixed[:, 3:] - text[:, 3:]).abs().amax((0, 2)).min() > 0.1


@torch.no_grad()
def test_two_way_span_sees_itself_both_ways_and_nothing_else_changes() -> None:
    model = decoder()
    ids = torch.randint(0, 61, (1, 8))
    x, positions = model.embed(ids), torch.arange(8)[None]
    spans = torch.tensor([[0, 0, 1, 1, 1, 0, 0, 0]])
    other = x.clone()
    other[:, 4] += 1
    a, b = (model(y, positions, MaskSpec(two_way=spans)) for y in (x, other))
    change = (a - b).abs().amax(-1)[0]
    assert (change[:2] == 0).all() and (change[2:] > 1e-3).all()
    prefix = model(x[:, :2], positions[:, :2])
    assert (a[:, :2] - prefix).abs().max() <= TOLERANCE


@torch.no_grad()
def test_packed_segments_equal_single_rows() -> None:
    model = decoder()
    ids = torch.randint(0, 61, (1, 9))
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4]])
    spec = MaskSpec(segments=torch.tensor([[1, 1, 1, 1, 2, 2, 2, 2, 2]]))
    packed = model.head(model(model.embed(ids), positions, spec))
    single = torch.cat((logits(model, ids[:, :4]), logits(model, ids[:, 4:])), 1)
    assert (packed - single).abs().max() <= TOLERANCE


@torch.no_grad()
def test_fused_decoder_equals_itself() -> None:
    model = decoder()
    ids = torch.randint(0, 61, (2, 11))
    expected = logits(model, ids)
    assert fuse_projections(model) == 15
    assert (logits(model, ids) - expected).abs().max() <= TOLERANCE
    assert (stepwise(model, ids, [5, 3, 1, 1, 1]) - expected).abs().max() <= TOLERANCE


@pytest.mark.parametrize("tied", [True, False])
@torch.no_grad()
def test_int8_decoder_answers_alike(tied: bool) -> None:
    model = decoder(replace(SHAPE, tied=tied).config())
    ids = torch.randint(0, 61, (2, 11))
    expected = logits(model, ids).log_softmax(-1)
    fuse_projections(model)
    model.quantise()
    model.quantise()  # a second time changes nothing
    found = stepwise(model, ids, [5, 3, 1, 1, 1]).log_softmax(-1)
    assert (expected.exp() * (expected - found)).sum(-1).mean() <= 5e-3


@torch.no_grad()
def test_bfloat16_stays_near_float32() -> None:
    model = decoder(replace(SHAPE, tied=True).config())
    ids = torch.randint(0, 61, (1, 9))
    expected = logits(model, ids)
    model.bfloat16()
    cache = model.new_cache(1, 9)
    assert cache.layer(0).update(*[torch.zeros(1, 2, 1, 8).bfloat16()] * 2)[0].dtype == torch.bfloat16
    found = logits(model, ids)
    assert found.dtype == torch.bfloat16
    assert (found.float() - expected).abs().mean() <= 0.05 * expected.std()


def test_gradients_reach_every_parameter() -> None:
    model = with_cross()
    ids = torch.randint(0, 61, (2, 9))
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    hidden = model(model.embed(ids), torch.arange(9)[None], MaskSpec(attention_mask=mask), context=context(9))
    model.head(hidden).square().mean().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0, name


def test_bad_configs_and_full_caches_say_what_is_wrong() -> None:
    plain = SHAPE.config()
    wide = replace(plain.blocks[0], attention=AttentionConfig(width=64, heads=4))
    with pytest.raises(ConfigError, match="block 1 has width 64"):
        replace(plain, blocks=(plain.blocks[0], wide))
    with pytest.raises(ConfigError, match="interleaved"):
        replace(plain, rope=replace(plain.rope, interleaved=True))
    with pytest.raises(ConfigError, match="at least one"):
        replace(plain, blocks=())
    more = replace(plain.blocks[0], attention=replace(plain.blocks[0].attention, kv_heads=4))
    with pytest.raises(ConfigError, match="kv_heads"):
        replace(plain, blocks=(plain.blocks[0], more))
    model = decoder()
    cache = model.new_cache(1, 4)
    with torch.no_grad(), pytest.raises(PromptError, match="5 tokens"):
        model(model.embed(torch.zeros(1, 5, dtype=torch.long)), torch.arange(5)[None], cache=cache)
    assert cache.length == 0


def test_log_scaled_queries_equal_scaled_projections_and_cached_steps() -> None:
    """One layer without rope: multiplying a query by log(place) / log(n) is multiplying its row of q."""
    shape = replace(SHAPE, depth=1).config()
    scaled, plain = decoder(replace(shape, rope=None, log_scaled_from=4)), decoder(replace(shape, rope=None))
    plain.load_state_dict(scaled.state_dict())
    ids = torch.arange(9)[None] % 61
    hidden = scaled(scaled.embed(ids), torch.arange(9)[None])
    places = torch.tensor([1.0] * 4 + [math.log(place) / math.log(4) for place in range(5, 10)])
    plain.blocks[0].attn.q_proj.register_forward_hook(lambda module, given, out: out * places[None, :, None])
    torch.testing.assert_close(hidden, plain(plain.embed(ids), torch.arange(9)[None]), atol=TOLERANCE, rtol=0)
    cache = scaled.new_cache(1, 9)
    steps = [scaled(scaled.embed(ids[:, i : i + 1]), torch.tensor([[i]]), cache=cache) for i in range(9)]
    torch.testing.assert_close(torch.cat(steps, 1), hidden, atol=TOLERANCE, rtol=0)


def test_cross_between_the_steps_of_a_block_needs_them_in_sequence() -> None:
    block = SHAPE.config().blocks[0]
    for changes in ({"order": "post"}, {"parallel": True}):
        with pytest.raises(ConfigError, match="cross_at 'middle'"):
            replace(block, cross_at="middle", **changes)
