"""M-RoPE positions: against transformers on random mixtures, and the properties that must hold for any."""

import random

import pytest
import torch

from polymodal.errors import PromptError
from polymodal.fusion.grid_positions import grid_positions

MERGE = 2


def mixture(rng: random.Random) -> tuple[list[int], dict[int, list[tuple[int, int, int]]]]:
    """Types of one row and its grids; media are never the same kind twice in a row without text between."""
    types, grids = [0] * rng.randint(0, 4), {1: [], 2: []}
    for _ in range(rng.randint(1, 4)):
        kind = rng.choice((1, 2))
        grid = (1 if kind == 1 else rng.randint(1, 9), MERGE * rng.randint(1, 4), MERGE * rng.randint(1, 4))
        grids[kind].append(grid)
        types += [kind] * (grid[0] * grid[1] * grid[2] // MERGE**2) + [0] * rng.randint(1, 5)
    return types, grids


def batch(seed: int) -> tuple[torch.Tensor, torch.Tensor, dict[int, list[tuple[int, int, int]]]]:
    rng = random.Random(seed)
    rows = [mixture(rng) for _ in range(3)]
    length = max(len(types) for types, _ in rows)
    types = torch.tensor([[0] * (length - len(row)) + row for row, _ in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row, _ in rows])
    return types, mask, {kind: [grid for _, found in rows for grid in found[kind]] for kind in (1, 2)}


@pytest.mark.parametrize("seed", range(8))
def test_equals_transformers(seed: int) -> None:
    transformers = pytest.importorskip("transformers")
    types, mask, grids = batch(seed)
    theirs = transformers.Qwen2VLModel.get_rope_index
    holder = type("Holder", (), {"get_vision_position_ids": transformers.Qwen2VLModel.get_vision_position_ids})()
    holder.config = transformers.Qwen2VLConfig()
    tables = [torch.tensor(grids[kind]) if grids[kind] else None for kind in (1, 2)]
    wanted, _ = theirs(holder, types, types, tables[0], tables[1], attention_mask=mask)
    found = grid_positions(types, grids, MERGE, mask)
    assert torch.equal(found[:, mask.bool()], wanted[:, mask.bool()])


@pytest.mark.parametrize("seed", range(8))
def test_a_row_alone_has_the_same_positions(seed: int) -> None:
    types, mask, grids = batch(seed)
    found = grid_positions(types, grids, MERGE, mask)
    taken = {1: 0, 2: 0}
    for row in range(len(types)):
        real = types[row][mask[row].bool()]
        own = {}
        for kind in (1, 2):
            rest, count = int((real == kind).sum()), 0
            while rest:
                grid = grids[kind][taken[kind] + count]
                rest, count = rest - grid[0] * grid[1] * grid[2] // MERGE**2, count + 1
            own[kind] = grids[kind][taken[kind] : taken[kind] + count]
            taken[kind] += count
        assert torch.equal(found[:, row, mask[row].bool()], grid_positions(real[None], own, MERGE)[:, 0])


def test_text_counts_on_every_axis() -> None:
    assert torch.equal(grid_positions(torch.zeros(2, 5, dtype=torch.int64), {})[:, 1], torch.arange(5).expand(3, -1))


def test_touching_images_are_told_apart() -> None:
    types = torch.tensor([[0] + [1] * 3 + [0]])
    found = grid_positions(types, {1: [(1, 2, 4), (1, 2, 2)]}, MERGE)[:, 0]
    assert found.tolist() == [[0, 1, 1, 3, 4], [0, 1, 1, 3, 4], [0, 1, 2, 3, 4]]


def test_items_and_tokens_that_disagree_are_named() -> None:
    with pytest.raises(PromptError, match="row 0: 2 media tokens without a grid"):
        grid_positions(torch.tensor([[1, 1]]), {})
    with pytest.raises(PromptError, match="more tokens than the row"):
        grid_positions(torch.tensor([[1, 1]]), {1: [(1, 4, 4)]}, MERGE)


@pytest.mark.parametrize("seed", range(4))
def test_each_segment_of_a_packed_row_has_the_positions_it_has_alone(seed: int) -> None:
    rng = random.Random(seed)
    rows = [mixture(rng) for _ in range(4)]
    alone = [grid_positions(torch.tensor([types]), grids, MERGE)[:, 0] for types, grids in rows]
    types = torch.tensor([[kind for row, _ in rows for kind in row] + [0, 0]])
    segments = torch.tensor([[number for number, (row, _) in enumerate(rows, 1) for _ in row] + [0, 0]])
    together = {kind: [grid for _, grids in rows for grid in grids[kind]] for kind in (1, 2)}
    found = grid_positions(types, together, MERGE, (segments > 0).long(), segments)[:, 0]
    assert torch.equal(found, torch.cat((*alone, torch.zeros(3, 2, dtype=torch.int64)), 1))
