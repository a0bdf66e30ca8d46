"""Who sees which item: the rules written out token by token."""

import pytest
import torch

from polymodal.errors import PromptError
from polymodal.fusion.visibility import InterleavedContext, WithItems, visible_items

PLACES = torch.tensor([[0, 1, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 0, 1]], dtype=torch.bool)
SEGMENTS = torch.tensor([[1, 1, 1, 2, 2, 2, 3], [1, 1, 2, 2, 2, 3, 3]])


def expected(row: list[bool], segments: list[int], items: int, following: bool) -> list[list[bool]]:
    """Item n is the n-th placeholder of the row; a token sees one of its own segment only."""
    at = [place for place, here in enumerate(row) if here]
    seen = []
    for token, segment in enumerate(segments):
        own = [n for n, place in enumerate(at) if segments[place] == segment]
        if following:
            choice = next((n for n in own if at[n] >= token), None)
        else:
            choice = next((n for n in reversed(own) if at[n] <= token), None)
        seen.append([n == choice for n in range(items)])
    return seen


@pytest.mark.parametrize("following", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_each_token_sees_the_last_item_or_the_next(following: bool, packed: bool) -> None:
    segments = SEGMENTS if packed else torch.ones_like(SEGMENTS)
    found = visible_items(PLACES, 4, following=following, segments=segments if packed else None)
    wanted = [expected(row, own, 4, following) for row, own in zip(PLACES.tolist(), segments.tolist(), strict=True)]
    assert found.tolist() == wanted


def test_what_is_written_behind_the_prompt_sees_no_item_ahead() -> None:
    rule = WithItems(InterleavedContext({"image": 9}, following=True))
    batch = {"input_ids": torch.tensor([[1, 9]])}
    context = rule({"image": torch.ones(1, 2, 3)}, batch)
    assert context is not None
    mask = context.mask(0, 4, 1).visible
    assert mask is not None and mask.any(-1).tolist() == [[True, True, False, False]]
    assert rule({}, {"input_ids": torch.tensor([[1, 2]])}) is None
    mixed = {"input_ids": torch.tensor([[1, 9], [1, 2]]), "item_counts": {"image": torch.tensor([1, 0])}}
    with pytest.raises(PromptError, match="rows with and without a picture"):
        rule({"image": torch.ones(1, 2, 3)}, mixed)
    with pytest.raises(PromptError, match="collate the rows unpacked"):
        rule({"image": torch.ones(1, 2, 3)}, {**batch, "segments": torch.ones(1, 2)})
