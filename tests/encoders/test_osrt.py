"""OSRT: what slots do; numbers against stelzner/osrt are compared by `polymodal check palm-e`."""

from dataclasses import replace

import pytest
import torch

from polymodal.check.randomise import fill, values
from polymodal.encoders import osrt
from polymodal.errors import ConfigError

SMALL = osrt.OSRTConfig(image_size=(8, 16), channels=(8, 12), width=24, depth=1, heads=3, ffn_width=30, octaves=3,
                        slots=4, slot_width=20, slot_ffn_width=26, iterations=2)  # fmt: skip


@torch.no_grad()
def test_slots_follow_their_starts_and_views_have_no_order_but_their_rays() -> None:
    encoder = SMALL.build().eval()
    fill(encoder)
    views = values("views", (2, 3, 8, 16, 9))
    slots = encoder(views)
    assert slots.shape == (2, 4, 20) and encoder.scene(views).shape == (2, 3 * 2 * 4, 24)
    torch.testing.assert_close(encoder(views[:, [2, 0, 1]]), slots, atol=1e-5, rtol=0)
    moved = views.clone()
    moved[..., 3:6] += 0.1
    assert (encoder(moved) - slots).abs().max() > 1e-3
    encoder.slot_attention.slots.copy_(encoder.slot_attention.slots[[1, 0, 3, 2]].clone())
    torch.testing.assert_close(encoder(views), slots[:, [1, 0, 3, 2]], atol=1e-5, rtol=0)


def test_sides_that_cannot_be_halved_and_fields_that_are_not_there() -> None:
    with pytest.raises(ConfigError, match=r"image_size \(10, 16\): expected multiples of 4"):
        replace(SMALL, image_size=(10, 16))
    with pytest.raises(ConfigError, match=r"osrt_config: \['views'\] is not supported"):
        osrt.parse_config({"views": 3})
    assert osrt.parse_config({"image_size": [240, 320], "slots": 32}).slots == 32
