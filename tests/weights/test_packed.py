import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polymodal.errors import WeightsError
from polymodal.weights.packed import pack, unpack


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 8), st.integers(1, 40), st.floats(1e-3, 1e3), st.integers(0, 10**6))
def test_a_packed_number_is_within_half_a_step(rows: int, width: int, size: float, seed: int) -> None:
    matrix = torch.randn(rows, width, generator=torch.Generator().manual_seed(seed)) * size
    index = torch.arange(rows)
    packed = pack({"m": matrix, "i": index, "v": matrix[0]}, rows=("m",))
    assert packed["m"].dtype == torch.int8 and packed["v"].dtype == torch.float16
    found = unpack(packed)
    assert ((found["m"] - matrix).abs() <= packed["m.scale"] * 0.5001).all()
    assert torch.equal(found["i"], index) and found["v"].dtype == torch.float32


def test_a_lost_matrix_is_noticed() -> None:
    packed = pack({"m": torch.ones(2, 3)}, rows=("m",))
    del packed["m"]
    with pytest.raises(WeightsError, match=r"'m\.scale' is a scale without 'm'"):
        unpack(packed)
