"""Gated cross-attention against flamingo-pytorch and IDEFICS, all parameters random; visibility, cache and gates."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from polymodal.backbones.llama import LlamaShape
from polymodal.check.randomise import fill, tensor, values
from polymodal.errors import ConfigError, PromptError
from polymodal.fusion.cross_attention import (
    OPEN_FLAMINGO_KEYS,
    CrossContext,
    GatedCrossAttentionConfig,
    idefics_keys,
    with_cross_attention,
)
from polymodal.fusion.visibility import InterleavedContext, visible_items
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.mask import MaskSpec
from polymodal.nn.mlp import GatedMLPConfig, MLPConfig
from polymodal.nn.norm import RMSNormConfig

TOLERANCE = 1e-4  # float32, absolute, on outputs of order one
MARK = 9
IDS = torch.tensor([[1, 2, MARK, 3, MARK, 4, 5, 6], [1, 1, 1, MARK, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6, 7, 8]])


def open_flamingo(width: int, source: int, heads: int = 4, head_dim: int = 8) -> GatedCrossAttentionConfig:
    return GatedCrossAttentionConfig(
        attention=AttentionConfig(width=width, heads=heads, head_dim=head_dim, source_width=source),
        mlp=MLPConfig(width=width, ffn_width=4 * width, bias=False),
    )


def random(module: nn.Module) -> nn.Module:
    fill(module)
    return module.eval()


def context_of(features: Tensor, ids: Tensor = IDS) -> CrossContext:
    return InterleavedContext({"image": MARK})({"image": features}, {"input_ids": ids})


@torch.no_grad()
@pytest.mark.parametrize("every", [False, True])
def test_equals_flamingo_pytorch(every: bool) -> None:
    flamingo = pytest.importorskip("flamingo_pytorch")
    width = 20
    theirs = random(
        flamingo.GatedCrossAttentionBlock(dim=width, dim_head=8, heads=4, only_attend_immediate_media=not every)
    )
    ours = open_flamingo(width, width).build().eval()
    ours.load_state_dict(dict(OPEN_FLAMINGO_KEYS.apply(dict(theirs.state_dict()), ours)))
    ids = IDS[:2] if every else IDS  # theirs lets text before the first item see everything when `every`
    media, x = values("media", (len(ids), 2, 5, width)), values("x", (*ids.shape, width))
    expected = theirs(x, media, media_locations=ids == MARK)
    visible = visible_items(ids == MARK, 2, every=every)
    items = torch.arange(2).repeat_interleave(5).expand(len(ids), -1)
    found = x + ours(x, CrossContext(features=media.flatten(1, 2), items=items, visible=visible))
    sees = visible.any(-1) if every else torch.ones_like(ids, dtype=torch.bool)
    torch.testing.assert_close(found[sees], expected[sees], atol=TOLERANCE, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize(("norms", "vector"), [(True, True), (False, False)])
def test_equals_idefics(norms: bool, vector: bool) -> None:
    transformers = pytest.importorskip("transformers")
    modeling = pytest.importorskip("transformers.models.idefics.modeling_idefics")
    config = transformers.IdeficsConfig(
        hidden_size=24, intermediate_size=40, num_attention_heads=3, num_hidden_layers=1, qk_layer_norms=norms,
        alpha_type="vector" if vector else "float", vision_config={"embed_dim": 20}, rms_norm_eps=1e-4,
    )  # fmt: skip
    config._attn_implementation = "eager"
    theirs = random(modeling.IdeficsGatedCrossAttentionLayer(config, layer_idx=0))
    norm = RMSNormConfig(eps=1e-4)
    head_norm = norm if norms else None
    ours = GatedCrossAttentionConfig(
        attention=AttentionConfig(width=24, heads=3, source_width=20, q_norm=head_norm, k_norm=head_norm),
        mlp=GatedMLPConfig(width=24, ffn_width=40),
        norm=norm,
        gate_width=24 if vector else 1,
    ).build()
    table = idefics_keys(vector)
    ours.load_state_dict(dict(table.apply(dict(theirs.state_dict()), ours)))
    back = dict(table.inverse().apply(ours.state_dict()))
    assert {k: tuple(v.shape) for k, v in back.items()} == {k: tuple(v.shape) for k, v in theirs.state_dict().items()}
    features, x = values("media", (3, 2 * 5, 20)), values("x", (3, 8, 24))
    visible = visible_items(IDS == MARK, 2)
    mask = torch.where(visible.repeat_interleave(5, -1)[:, None], 0.0, torch.finfo(torch.float32).min)
    expected = theirs(
        x, image_hidden_states=features, image_attention_mask=mask, cross_attention_gate=visible.any(-1).float()
    )
    items = torch.arange(2).repeat_interleave(5).expand(3, -1)
    found = x + ours(x, CrossContext(features=features, items=items, visible=visible))
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)


@torch.no_grad()
def test_a_row_that_sees_nothing_gets_exactly_zero_from_attention() -> None:
    config = open_flamingo(16, 12)
    for bias in (False, True):
        block = random(replace(config, attention=replace(config.attention, out_bias=bias)).build())
        branch = block.look(values("x", (3, 8, 16)), context_of(values("media", (3, 4, 12))))
        assert branch is not None
        blind = IDS.eq(MARK).cumsum(-1) == 0
        assert bool((branch[blind] == 0).all()) and bool(blind.any())
        assert bool((branch[~blind].abs().amax(-1) > 0).all())


@torch.no_grad()
def test_without_any_item_only_the_feed_forward_acts() -> None:
    block = random(open_flamingo(16, 12).build())
    x = values("x", (3, 8, 16))
    context = InterleavedContext({"image": MARK})({}, {"input_ids": IDS.clamp_max(8)})
    assert context.features is None
    torch.testing.assert_close(block(x, context), block.mlp(block.mlp_norm(x)) * block.mlp_gate.tanh())


def decoder(every: int = 2) -> nn.Module:
    config = LlamaShape(width=16, depth=4, heads=4, kv_heads=2, ffn_width=24, vocab_size=12).config()
    cross = open_flamingo(16, 12)
    return random(replace(config, blocks=with_cross_attention(config.blocks, cross, range(1, 4, every))).build())


@torch.no_grad()
def test_closed_gates_leave_the_bare_decoder_bit_for_bit() -> None:
    model = decoder()
    x, positions = values("x", (3, 8, 16)), torch.arange(8)[None]
    bare = model(x, positions)
    context = context_of(values("media", (3, 4, 12)))
    assert not torch.equal(model(x, positions, context=context), bare)
    for name, gate in model.named_parameters():
        if name.endswith("_gate"):
            gate.zero_()
    assert torch.equal(model(x, positions, context=context), bare)


@torch.no_grad()
@pytest.mark.parametrize("chunks", [[8, 1, 1, 1], [3, 5, 1, 1, 1], [1] * 11, [2, 2, 2, 2, 3]])
def test_chunks_and_cached_steps_see_the_item_the_whole_pass_sees(chunks: list[int]) -> None:
    model = decoder()
    context = context_of(values("media", (3, 4, 12)))
    x = values("x", (3, 11, 16))
    ids = torch.nn.functional.pad(IDS, (0, 3), value=1)
    whole = model(x, torch.arange(11)[None], context=context_of(values("media", (3, 4, 12)), ids))
    cache = model.new_cache(3, 11)
    parts, start = [], 0
    for count in chunks:
        step = slice(start, start + count)
        parts.append(model(x[:, step], torch.arange(11)[None, step], context=context, cache=cache))
        start += count
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-5, rtol=0)
    sources = [cache.layer(i).source for i in range(4)]
    assert [source is not None for source in sources] == [False, True, False, True]


@torch.no_grad()
def test_more_rows_than_the_context_are_copies() -> None:
    model = decoder()
    context = context_of(values("media", (3, 4, 12)))
    x = values("x", (3, 8, 16))
    alone = model(x, torch.arange(8)[None], context=context)
    wide = replace(context, features=context.features.repeat_interleave(2, 0))
    torch.testing.assert_close(model(x.repeat_interleave(2, 0), torch.arange(8)[None], context=wide)[::2], alone)


@torch.no_grad()
def test_a_row_does_not_depend_on_the_others_or_their_items() -> None:
    model = decoder()
    media = values("media", (3, 4, 12))
    x = values("x", (3, 8, 16))
    together = model(x, torch.arange(8)[None], context=context_of(media))
    for row, items in ((0, media[:2]), (1, media[2:]), (2, media[:0])):
        context = InterleavedContext({"image": MARK})({"image": items}, {"input_ids": IDS[row : row + 1]})
        alone = model(x[row : row + 1], torch.arange(8)[None], context=context)
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=0)


def test_last_item_or_every_item_until_an_end() -> None:
    marks = torch.tensor([[0, 1, 0, 0, 1, 0, 0]]).bool()
    ends = torch.tensor([[0, 0, 1, 0, 0, 0, 0]]).bool()
    assert visible_items(marks, 2)[0].int().tolist() == [[0, 0], [1, 0], [1, 0], [1, 0], [0, 1], [0, 1], [0, 1]]
    assert visible_items(marks, 2, every=True)[0, -1].tolist() == [True, True]
    assert visible_items(marks, 2, ends=ends)[0].int().tolist()[2:5] == [[1, 0], [0, 0], [0, 1]]


def test_end_rule_equals_the_idefics_processor() -> None:
    processing = pytest.importorskip("transformers.models.idefics.processing_idefics")

    class Names:
        eos_token_id = 2

        def convert_tokens_to_ids(self, token: str) -> int:
            return MARK

    ids = torch.tensor([[1, 5, MARK, 5, 2, 5, MARK, MARK, 6, 2, 2, 7], [1, 2, 5, 5, MARK, 2, 4, MARK, 1, 1, 1, 1]])
    incremental, _ = processing.image_attention_mask_for_packed_input_ids_pt(ids, Names())
    expected = processing.incremental_to_binary_attention_mask(incremental, "pt", num_classes=3)
    assert torch.equal(visible_items(ids == MARK, 3, ends=ids == 2).long(), expected)


def test_items_of_two_modalities_and_unequal_length_come_in_order_of_appearance() -> None:
    ids = torch.tensor([[8, 1, 9, 1], [1, 9, 1, 1]])
    features = {"image": [torch.full((2, 3), 1.0), torch.full((1, 3), 3.0)], "video": [torch.full((3, 3), 2.0)]}
    context = InterleavedContext({"image": 9, "video": 8})(features, {"input_ids": ids})
    assert context.features is not None
    assert context.features[:, :, 0].tolist() == [[2, 2, 2, 1, 1], [3, 0, 0, 0, 0]]
    assert context.items.tolist() == [[0, 0, 0, 1, 1], [0, 2, 2, 2, 2]]
    seen = context.mask(0, 4, 2).visible
    assert seen is not None and seen[1].int().tolist() == [[0] * 5, [1, 0, 0, 0, 0], [1, 0, 0, 0, 0], [1, 0, 0, 0, 0]]


def test_wrong_numbers_are_named() -> None:
    make = InterleavedContext({"image": MARK}, given="image_attention_mask")
    with pytest.raises(PromptError, match="row 1: 1 image placeholders, 0 items"):
        make({"image": tensor("f", (2, 4, 3))}, {"input_ids": IDS})
    with pytest.raises(PromptError, match=r"without a placeholder token.*'image': 1"):
        make({"image": tensor("f", (4, 4, 3))}, {"input_ids": IDS})
    with pytest.raises(PromptError, match="3 rows of 2 items are announced, found 5"):
        make({"image": tensor("f", (5, 4, 3))}, {"input_ids": IDS, "image_attention_mask": torch.ones(3, 8, 2)})
    with pytest.raises(ConfigError, match="source_width"):
        GatedCrossAttentionConfig(attention=AttentionConfig(width=8, heads=2), mlp=MLPConfig(width=8, ffn_width=8))
    with pytest.raises(ConfigError, match="blocks \\[4\\] do not exist"):
        with_cross_attention(LlamaShape(width=8, depth=4, heads=2, ffn_width=8).config().blocks, None, [4])


def test_mask_of_later_tokens_repeats_the_last_one() -> None:
    context = context_of(values("media", (3, 4, 12)))
    spec = context.mask(6, 4, 3)
    assert isinstance(spec, MaskSpec) and spec.visible is not None
    assert torch.equal(spec.visible[:, 1:], spec.visible[:, 1:2].expand(-1, 3, -1))


@given(
    st.lists(st.lists(st.sampled_from(".*e"), min_size=1, max_size=6), min_size=1, max_size=4),
    st.booleans(),
    st.booleans(),
)
def test_in_packed_rows_each_segment_sees_what_it_sees_alone(parts: list[list[str]], every: bool, ended: bool) -> None:
    """Rows of text `.`, pictures `*` and end tokens `e`."""

    def seen(row: list[str], segments: Tensor | None = None) -> Tensor:
        marks, ends = (torch.tensor([[sign == letter for sign in row]]) for letter in "*e")
        return visible_items(marks, row.count("*"), every=every, ends=ends if ended else None, segments=segments)[0]

    row = [sign for part in parts for sign in part]
    segments = torch.tensor([[number for number, part in enumerate(parts, 1) for _ in part]])
    assert torch.equal(seen(row, segments), torch.block_diag(*(seen(part).int() for part in parts)).bool())
