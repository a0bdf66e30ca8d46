"""CPM-Bee's trees, numbered tokens and steps with a cache; the whole is compared in `check/evidence/viscpm.py`."""

import math

import pytest
import torch
from torch import Tensor

from polymodal.backbones.cpm_bee import CPMBee, Segments, parse_config
from polymodal.backbones.cpm_bee_segments import NumberedIds, TreeContext, flat
from polymodal.check import randomise
from polymodal.errors import ConfigError
from polymodal.nn.mask import MaskSpec

BEGIN, END, ROOT, ANSWER = 6, 7, 8, 9
SMALL = {"vocab_size": 40, "dim_model": 24, "dim_ff": 36, "num_layers": 2, "num_heads": 3, "dim_head": 8,
         "position_bias_num_buckets": 12, "position_bias_num_segment_buckets": 80,
         "position_bias_max_distance": 20}  # fmt: skip
TREE = [BEGIN, ROOT, END, BEGIN, 11, END, BEGIN, 12, 13, 14, END, BEGIN, ANSWER, END, BEGIN]


def model() -> CPMBee:
    built = parse_config(SMALL, 64).build()
    randomise.fill(built)
    with torch.no_grad():  # what divides what it gives has weights of unit variance
        for name, weight in built.named_parameters():
            if weight.dim() == 2 and not name.startswith("bias"):
                weight.mul_((1 if "embed" in name else 3) * math.sqrt(weight.shape[1]))
    return built.eval()


def full(built: CPMBee, ids: Tensor, mask: Tensor | None = None) -> Tensor:
    segments = flat(ids, mask, BEGIN, ANSWER)
    return built.head(
        built(built.embed(ids), torch.arange(ids.shape[1])[None], MaskSpec(attention_mask=mask), context=segments)
    )


@torch.no_grad()
def test_sixteen_greedy_steps_with_a_cache_are_those_without() -> None:
    built, ids = model(), torch.tensor([TREE])
    segments, cache = flat(ids, None, BEGIN, ANSWER), None
    cache = built.new_cache(1, 64)
    written, row, fed = [], ids, built.embed(ids)
    for _ in range(16):
        cached = built.head(built(fed, torch.zeros(1, 1), context=segments, cache=cache))[:, -1]
        whole = full(built, row)[:, -1]
        assert (cached - whole).abs().max() < 1e-5
        written.append(int(cached.argmax()))
        step = torch.tensor([[written[-1]]])
        row, fed = torch.cat((row, step), 1), built.embed(step)
    assert len(set(written)) > 3


@torch.no_grad()
def test_padding_on_the_left_changes_nothing_and_beams_share_a_prompt() -> None:
    built, ids = model(), torch.tensor([TREE])
    padded = torch.nn.functional.pad(ids, (3, 0))
    mask = torch.nn.functional.pad(torch.ones_like(ids), (3, 0))
    assert (full(built, padded, mask)[:, 3:] - full(built, ids)).abs().max() < 1e-5
    segments = flat(ids, None, BEGIN, ANSWER)
    twice = built(built.embed(ids.repeat(2, 1)), torch.zeros(1, 1), context=segments)
    assert torch.equal(twice[0], twice[1])


def test_ways_through_a_flat_tree() -> None:
    # Official numbers of {"a": ..., "b": ...}: segments root, a, its text, b, its text.
    numbers = torch.arange(5)[None]
    found = Segments(numbers=numbers, answers=torch.zeros(1, 5, dtype=torch.bool)).way(5)[0]
    assert found.tolist() == [
        [0, 2, 3, 2, 3],
        [9, 0, 2, 10, 11],
        [17, 9, 0, 18, 19],
        [9, 10, 11, 0, 2],
        [17, 18, 19, 9, 0],
    ]


def test_what_is_asked_is_seen_by_all_and_answers_see_what_is_before() -> None:
    ids = torch.tensor([[*TREE, BEGIN, ANSWER]])  # whatever a model writes, its answer is one segment
    segments = flat(ids, None, BEGIN, ANSWER)
    assert segments.numbers[0, -4:].tolist() == [3, 4, 4, 4]
    assert segments.answers[0].nonzero().flatten().tolist() == [14, 15, 16]
    seen = segments.visible(17)[0]
    assert seen[0].tolist() == [True] * 14 + [False] * 3
    assert seen[15].tolist() == [True] * 16 + [False]


@torch.no_grad()
def test_a_numbered_token_is_turned_and_number_0_is_not() -> None:
    built = model()
    plain, turned = built.embed(torch.tensor([[5, 5 + 40 * 2]]))[0]
    assert (plain - built.embed_tokens.weight[5] / math.sqrt(24)).abs().max() < 1e-6
    angle = 2 * 16 * 10000 ** (-torch.arange(0, 24, 2).double() / 24)
    first, second = plain[:12].double(), plain[12:].double()
    expected = torch.cat((first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()))
    assert (turned - expected).abs().max() < 1e-5


def test_official_tensors_become_ids_and_a_mask() -> None:
    inputs = NumberedIds(vocab_size=40)
    batch = {"input_ids": torch.tensor([[6, 1, 1]]), "input_id_subs": torch.tensor([[0, 0, 3]]),
             "image_bound": torch.tensor([[[1, 2]]])}  # fmt: skip
    assert inputs(batch)["image_mask"].tolist() == [[False, True, False]]
    once = inputs.rewrite(batch)
    assert once["input_ids"].tolist() == [[6, 1, 121]]
    assert inputs.rewrite(once)["input_ids"].tolist() == [[6, 1, 121]]


def test_refusals_say_what_was_expected() -> None:
    built, ids = model(), torch.tensor([TREE])
    with pytest.raises(ConfigError, match="expected Segments as context, found NoneType"):
        built(built.embed(ids), torch.zeros(1, 1))
    with pytest.raises(ConfigError, match="expected all of segment_ids, context, num_segments, segment_rel or none"):
        TreeContext(BEGIN, ANSWER)({}, {"input_ids": ids, "segment_ids": ids})
    with pytest.raises(ConfigError, match="mask_modules"):
        parse_config({**SMALL, "mask_modules": [[True, False]]}, 64)
    with pytest.raises(ConfigError, match="dim_model must be even, found 23"):
        parse_config({**SMALL, "dim_model": 23}, 64)
