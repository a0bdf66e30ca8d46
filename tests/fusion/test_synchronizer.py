"""Deformable attention against the library's own sampling in plain torch, and the synchroniser against its formula."""

import pytest
import torch
from torch import Tensor
from transformers.models.deformable_detr.modeling_deformable_detr import MultiScaleDeformableAttention

from polymodal.check import randomise
from polymodal.errors import PromptError
from polymodal.fusion.cross_attention import CrossContext
from polymodal.fusion.synchronizer import FeatureSynchronizerConfig
from polymodal.nn.deformable import DeformableAttentionConfig, sample_levels


def library(values: Tensor, sides: tuple[int, ...], places: Tensor, weights: Tensor) -> Tensor:
    shapes = [(side, side) for side in sides]
    return MultiScaleDeformableAttention()(values, torch.tensor(shapes), shapes, None, places, weights, 64)


def test_samples_as_the_library_does_also_outside_the_maps() -> None:
    torch.manual_seed(0)
    sides = (4, 2, 1)
    values, places = torch.randn(2, 21, 3, 5), torch.randn(2, 7, 3, 3, 4, 2)
    weights = torch.rand(2, 7, 3, 3, 4)
    assert (sample_levels(values, sides, places, weights) - library(values, sides, places, weights)).abs().max() < 1e-5


def test_a_query_looks_around_its_own_place() -> None:
    attention = DeformableAttentionConfig(width=8, heads=2, levels=1, points=1).build()
    randomise.fill(attention)
    with torch.no_grad():
        for part in (attention.offsets.weight, attention.offsets.bias):
            part.zero_()
        features = torch.randn(1, 4, 8)
        middles = torch.tensor([[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]])
        found = attention(torch.randn(1, 4, 8), middles, features, (2,))
        assert (found - attention.o_proj(attention.v_proj(features))).abs().max() < 1e-6


@pytest.fixture
def synchronizer():
    made = FeatureSynchronizerConfig(width=12, source_width=8, sides=(4, 2), heads=4, points=3, grid=4, ranks=4).build()
    randomise.fill(made)
    return made


def plain(part, x: Tensor, maps: Tensor, seen: Tensor) -> Tensor:
    """The published formula for one row: x [T, D], maps [N, S, D'], seen [T, N]."""
    h = part.attn_norm(x) @ part.q_proj.weight.T + part.q_proj.bias
    out = []
    for step, state in enumerate(h):
        visible = [i for i, here in enumerate(seen[step].tolist()) if here]
        logits, values = [torch.zeros(4, 1)], [part.nothing.view(4, 1, 2)]
        for i in visible:
            query = state + part.ranks.weight[len(visible) - visible.index(i)]
            offsets = part.offsets(query).view(4, 3, 2)
            weights = part.weights(query).view(4, 2, 4)[..., :3]
            v = part.v_proj(part.source_norm(maps[i])).view(20, 4, 2)
            for level, (side, first) in enumerate(((4, 0), (2, 16))):
                scaled = offsets * (side / 4)
                places = 0.5 + scaled / side
                points = [
                    library(
                        v[None, first : first + side * side],
                        (side,),
                        places[None, None, :, None, p : p + 1],
                        torch.ones(1, 1, 4, 1, 1),
                    )
                    for p in range(3)
                ]
                logits.append(weights[:, level])
                values.append(torch.stack([each.view(4, 2) for each in points], 1))
        shares = torch.cat(logits, 1).softmax(1)
        out.append((torch.cat(values, 1) * shares[..., None]).sum(1).flatten())
    return part.o_proj(torch.stack(out)) * part.gate.tanh()


def context(maps: Tensor, seen: Tensor) -> CrossContext:
    count = maps.shape[1]
    items = torch.arange(count).repeat_interleave(20).expand(len(maps), -1)
    return CrossContext(features=maps.flatten(1, 2), items=items, visible=seen)


def test_the_synchronizer_is_the_published_formula_and_ignores_what_is_not_seen(synchronizer) -> None:
    torch.manual_seed(0)
    x, maps = torch.randn(2, 5, 12), torch.randn(2, 3, 20, 8)
    seen = torch.tensor([[[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1], [0, 0, 1]]] * 2).bool()
    seen[1, 3:] = torch.tensor([True, False, False])
    found = synchronizer(x, context(maps, seen))
    for row in range(2):
        assert (found[row] - plain(synchronizer, x[row], maps[row], seen[row])).abs().max() < 1e-5
    bias = (synchronizer.o_proj(synchronizer.nothing) * synchronizer.gate.tanh()).detach()
    assert (found[:, 0] - bias).abs().max() < 1e-6
    alone = synchronizer(x[1:], context(maps[1:, :1], seen[1:, :, :1]))
    assert (alone[0, 3:] - found[1, 3:]).abs().max() < 1e-6
    nothing = CrossContext(features=None, items=torch.zeros(2, 0, dtype=torch.int64), visible=seen[..., :0])
    assert (synchronizer(x, nothing) - bias).abs().max() < 1e-6


def test_tokens_behind_the_prompt_see_what_its_last_one_saw(synchronizer) -> None:
    torch.manual_seed(0)
    x, maps, seen = torch.randn(1, 4, 12), torch.randn(1, 2, 20, 8), torch.tensor([[[0, 0], [1, 0], [1, 1]]]).bool()
    longer = torch.cat((seen, seen[:, -1:]), 1)
    whole = synchronizer(x, context(maps, longer))
    assert (synchronizer(x, context(maps, seen)) - whole).abs().max() < 1e-6


def test_too_many_pictures_are_refused(synchronizer) -> None:
    maps, seen = torch.randn(1, 4, 20, 8), torch.ones(1, 1, 4).bool()
    with pytest.raises(PromptError, match="may see 3 pictures; found 4"):
        synchronizer(torch.randn(1, 1, 12), context(maps, seen))
