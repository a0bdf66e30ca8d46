"""What begins anew in each segment of a packed row, against the same said with loops."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from polymodal.nn.rope import LongRopeScaling, NTKScaling, RopeConfig
from polymodal.nn.segments import counted_within, largest_within, segment_starts

LENGTHS = st.lists(st.integers(1, 5), min_size=1, max_size=5)


def numbered(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([[i + 1 for i, length in enumerate(lengths) for _ in range(length)]])


@given(LENGTHS, st.data())
def test_counts_and_maxima_are_those_of_each_segment_alone(lengths: list[int], data: st.DataObject) -> None:
    segments, total = numbered(lengths), sum(lengths)
    steps = torch.tensor([data.draw(st.lists(st.integers(0, 2), min_size=total, max_size=total))])
    counted = counted_within(steps.cumsum(-1), steps, segments)
    largest = largest_within(steps, segments)
    starts = segment_starts(segments)[0].tolist()
    for mine, want, most, first in zip(
        counted[0].split(lengths), steps[0].split(lengths), largest[0].split(lengths), _firsts(lengths), strict=True
    ):
        assert torch.equal(mine, want.cumsum(-1)) and (most == want.max()).all() and starts[first]
    assert sum(starts) == len(lengths)


def _firsts(lengths: list[int]) -> list[int]:
    return [sum(lengths[:i]) for i in range(len(lengths))]


@given(LENGTHS)
def test_ropes_whose_frequencies_depend_on_the_length_take_each_segments_own(lengths: list[int]) -> None:
    scalings = (
        NTKScaling(factor=3.0, trained_length=2),
        LongRopeScaling(short=(1.0, 1.5, 2.0, 3.0), long=(2.0, 3.0, 4.0, 9.0), trained_length=3),
    )
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    for scaling in scalings:
        rope = RopeConfig(head_dim=8, scaling=scaling).build()
        cos, sin = rope(positions, segments=numbered(lengths))
        alone = [rope(torch.arange(length)[None]) for length in lengths]
        assert torch.equal(cos, torch.cat([each[0] for each in alone], 2))
        assert torch.equal(sin, torch.cat([each[1] for each in alone], 2))
