"""The offset of "Yes" that mini is released with."""

import pytest
import torch
from calibrate import offset


@pytest.mark.parametrize(("scale", "shift"), [(1.0, -2.0), (0.5, 1.5), (3.0, 0.0)])
def test_the_offset_is_where_yes_becomes_the_likelier_answer(scale: float, shift: float) -> None:
    torch.manual_seed(0)
    margins = 3 * torch.randn(20_000)
    right = torch.rand(20_000) < (scale * margins + shift).sigmoid()
    assert offset(margins, right, torch.ones(20_000)) == pytest.approx(shift / scale, abs=0.15)


def test_questions_count_as_their_weights_say() -> None:
    torch.manual_seed(0)
    margins = 3 * torch.randn(20_000)
    first = torch.arange(20_000) < 10_000
    right = torch.rand(20_000) < (margins + torch.where(first, 1.0, -1.0)).sigmoid()
    shares = [offset(margins, right, torch.where(first, weight, 1.0)) for weight in (1e-6, 1.0, 1e6)]
    assert shares == pytest.approx([-1.0, 0.0, 1.0], abs=0.15)
