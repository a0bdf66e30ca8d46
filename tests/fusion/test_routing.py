"""Routing by kind of token: text-only equals the bare decoder, forms agree, each kind meets its own weights."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from polymodal.backbones.decoder import DecoderConfig
from polymodal.backbones.llama import LlamaShape
from polymodal.check import randomise
from polymodal.errors import ConfigError
from polymodal.fusion.routing import (
    ExpertRoutes,
    PlaceholderRoutes,
    Routed,
    RoutedDeltaConfig,
    RoutedLinearConfig,
    RoutedMLPConfig,
    RoutedNormConfig,
    copy_text_branches,
)
from polymodal.nn.attention import AttentionLinears
from polymodal.nn.linear import Linear, LinearConfig
from polymodal.nn.norm import RMSNormConfig
from polymodal.nn.token_types import TokenTypes

BARE = LlamaShape(width=48, depth=2, heads=6, kv_heads=2, ffn_width=40, vocab_size=50).config()
POSITIONS = torch.arange(7)[None]


def routed(dense: bool = False) -> DecoderConfig:
    """BARE with every slot of every block routed."""
    block = BARE.blocks[0]
    linear = RoutedLinearConfig(dense=dense)
    norms = (RMSNormConfig(eps=1e-5), RMSNormConfig(eps=1e-5))
    block = replace(
        block,
        attention=replace(block.attention, linears=AttentionLinears(q=linear, k=linear, v=linear, o=linear)),
        mlp=RoutedMLPConfig(branches=(block.mlp, block.mlp), dense=dense),
        norm=RoutedNormConfig(branches=norms, dense=dense),
    )
    return replace(BARE, blocks=(block,) * BARE.depth)


def bare_of(model: torch.nn.Module, branch: int) -> torch.nn.Module:
    """The bare decoder that holds one branch of every Routed of ``model``."""
    state = {name: value for name, value in model.state_dict().items() if ".branches." not in name}
    for name, value in model.state_dict().items():
        if f".branches.{branch}." in name:
            state[name.replace(f".branches.{branch}", "")] = value
    bare = BARE.build()
    bare.load_state_dict(state)
    return bare


@torch.no_grad()
def test_text_only_batches_equal_the_bare_decoder_exactly():
    model = routed().build()
    randomise.fill(model)
    x = randomise.values("x", (2, 7, 48))
    want = bare_of(model, 0)(x, POSITIONS)
    assert torch.equal(model(x, POSITIONS), want)
    assert torch.equal(model(x, POSITIONS, token_types=torch.zeros(2, 7, dtype=torch.int64)), want)


@torch.no_grad()
@pytest.mark.parametrize("kind", [0, 1])
def test_a_single_token_of_a_kind_meets_that_kinds_weights(kind: int):
    model = routed().build()
    randomise.fill(model)
    x = randomise.values("x", (1, 1, 48))
    got = model(x, POSITIONS[:, :1], token_types=torch.tensor([[kind]]))
    torch.testing.assert_close(got, bare_of(model, kind)(x, POSITIONS[:, :1]))


@torch.no_grad()
def test_dense_and_gathered_agree_on_mixed_rows():
    gathered, dense = routed().build(), routed(dense=True).build()
    randomise.fill(gathered)
    dense.load_state_dict(gathered.state_dict())
    x = randomise.values("x", (3, 7, 48))
    types = torch.tensor([[0, 1, 1, 0, 1, 0, 0], [1] * 7, [0] * 7])
    got = gathered(x, POSITIONS, token_types=types)
    torch.testing.assert_close(got, dense(x, POSITIONS, token_types=types))
    assert not torch.allclose(got[:2], gathered(x, POSITIONS)[:2])
    torch.testing.assert_close(got[2], gathered(x, POSITIONS)[2])


def test_every_branch_gets_its_gradient_and_no_other():
    part = Routed([Linear(4, 3), Linear(4, 3)])
    types = torch.tensor([[0, 0, 1]])
    part(torch.ones(1, 3, 4), types)[:, :2].sum().backward()
    assert part.branches[0].weight.grad.abs().sum() > 0
    assert part.branches[1].weight.grad.abs().sum() == 0


def test_three_kinds_may_share_two_branches():
    part = Routed([Linear(4, 3), Linear(4, 3)], routes=(0, 1, 1))
    x = torch.randn(1, 3, 4)
    got = part(x, torch.tensor([[2, 0, 1]]))
    torch.testing.assert_close(got[:, [0, 2]], part.branches[1](x[:, [0, 2]]))
    torch.testing.assert_close(got[:, 1], part.branches[0](x[:, 1]))


def test_kinds_and_routes_that_do_not_exist_are_refused():
    with pytest.raises(ConfigError, match="routes"):
        Routed([Linear(4, 3)], routes=(0, 1))
    with pytest.raises(ConfigError, match=r"0\.\.1"):
        Routed([Linear(4, 3), Linear(4, 3)])(torch.ones(1, 2, 4), torch.tensor([[0, 2]]))


@torch.no_grad()
def test_branches_start_as_copies_on_request():
    model = routed().build()
    randomise.fill(model)
    assert copy_text_branches(model) == 2 * 7
    x = randomise.values("x", (1, 7, 48))
    types = torch.tensor([[0, 1, 1, 1, 0, 0, 1]])
    torch.testing.assert_close(model(x, POSITIONS, token_types=types), model(x, POSITIONS))
    odd = Routed([Linear(4, 3), Linear(4, 3, bias=False)])
    with pytest.raises(ConfigError, match="shape"):
        copy_text_branches(odd)


@torch.no_grad()
def test_delta_changes_only_its_kinds():
    for dense in (False, True):
        part = RoutedDeltaConfig(rank=2, scale=0.5, dense=dense).build(6, 5, bias=True)
        x = torch.randn(2, 4, 6)
        types = torch.tensor([[0, 1, 0, 1], [0, 0, 0, 0]])
        plain = torch.nn.functional.linear(x, part.weight, part.bias)
        torch.testing.assert_close(part(x, types), plain)  # B starts at zero
        randomise.fill(part)
        plain = torch.nn.functional.linear(x, part.weight, part.bias)
        delta = 0.5 * x @ part.lora_A.weight.T @ part.lora_B.weight.T
        torch.testing.assert_close(part(x, types), plain + delta * types[..., None])
        torch.testing.assert_close(part(x), plain)
    always = RoutedDeltaConfig(rank=2, kinds=None).build(6, 5)
    randomise.fill(always)
    torch.testing.assert_close(always(x), x @ (always.weight + always.lora_B.weight @ always.lora_A.weight).T)


def test_linear_branches_may_differ_in_bias():
    config = RoutedLinearConfig(branches=(LinearConfig(bias=False), LinearConfig(bias=True)))
    part = config.build(4, 3)
    assert part.branches[0].bias is None and part.branches[1].bias is not None


def test_expert_routes_leave_the_end_marker_to_the_text_branch():
    types = torch.tensor([[0, 0, 1, 1, 1, 1, 0, 1, 1, 1, 0], [0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0]])
    mask = torch.tensor([[1] * 11, [0, 0, 0] + [1] * 8])
    made = ExpertRoutes()({"token_type_ids": types, "attention_mask": mask})
    assert made["token_types"].tolist() == [[0, 0, 1, 1, 1, 0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0]]
    assert made["position_ids"].tolist() == [[0, 1, 2, 3, 3, 4, 5, 6, 7, 8, 9], [0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8]]
    assert torch.equal(made["image_mask"], types == 1)
    for texts in ({"token_type_ids": types * 0}, {"input_ids": types}):
        made = ExpertRoutes()(texts)
        assert list(made) == ["image_mask"] and not made["image_mask"].any(), "padding is no placeholder"


def test_placeholder_routes():
    made = PlaceholderRoutes(-200)({"input_ids": torch.tensor([[1, -200, -200, 4]])})
    assert made["token_types"].tolist() == [[0, 1, 1, 0]]
    assert PlaceholderRoutes(-200)({"input_ids": torch.tensor([[1, 4]])}) == {}


@pytest.mark.parametrize("types", [None, [[0, 0, 0]], [[1, 1, 1]], [[0, 1, 0]]])
def test_in_training_every_branch_takes_part_if_only_with_no_token(types: list | None) -> None:
    kinds = None if types is None else torch.tensor(types)
    for part in (Routed([Linear(4, 3), Linear(4, 3)]), RoutedDeltaConfig(rank=2).build(4, 3)):
        randomise.fill(part)
        x = torch.randn(1, 3, 4)
        found = part.train()(x, kinds)
        found.sum().backward()
        assert all(parameter.grad is not None for parameter in part.parameters())
        torch.testing.assert_close(part.eval()(x, kinds), found)


def test_text_alone_in_training_equals_the_text_branch_to_the_bit() -> None:
    part = Routed([Linear(4, 3), Linear(4, 3)]).train()
    x = torch.randn(2, 3, 4)
    assert torch.equal(part(x), part.branches[0](x))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=20), st.integers(1, 4))
def test_places_of_each_kind_are_found_once(kinds: list[int], count: int) -> None:
    row = torch.tensor([kinds])
    by_kind = TokenTypes(row).split(count, row.device)
    for kind, places in enumerate(by_kind):
        assert places.tolist() == [i for i, found in enumerate(kinds) if found == kind]


def test_known_numbers_of_each_kind_ask_no_device() -> None:
    """On the meta device every read of a value is an error."""
    kinds = torch.zeros(2, 3, dtype=torch.int64, device="meta")
    assert [len(places) for places in TokenTypes(kinds, (4, 2)).split(2, kinds.device)] == [4, 2]
    for unusable in (None, (4, 1)):  # none are said, or those of another batch
        with pytest.raises(NotImplementedError):
            TokenTypes(kinds, unusable).split(2, kinds.device)
    here = torch.tensor([[0, 1, 1]])
    assert [len(places) for places in TokenTypes(here, (2, 1)).split(2, here.device)] == [1, 2], "counted on the host"


def test_routes_and_positions_begin_anew_in_each_segment() -> None:
    types = torch.tensor([[0, 1, 1, 1, 1, 1, 1, 0, 0]])
    segments = torch.tensor([[1, 1, 1, 1, 2, 2, 2, 2, 2]])
    made = ExpertRoutes()({"token_type_ids": types, "segments": segments})
    assert made["token_types"].tolist() == [[0, 1, 1, 0, 1, 1, 0, 0, 0]]
    assert made["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1, 2, 3, 4]]
    assert ExpertRoutes()({**made, "token_type_ids": types}) == {}, "what was prepared stays"
