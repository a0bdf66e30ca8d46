import pytest
import torch
import torch.nn.functional as F

from polymodal.encoders.efficientnet import LITE0
from polymodal.encoders.efficientnet_grid import EfficientNetGridConfig
from polymodal.errors import ConfigError


def test_features_are_the_pooled_maps_of_top_and_taps() -> None:
    torch.manual_seed(0)
    config = EfficientNetGridConfig(taps=(7, 15), grid=2)
    model = config.build().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    pixels = torch.randn(2, 3, 64, 96)
    maps = {}
    for index in (7, 15):
        model.trunk.blocks[index].register_forward_hook(lambda m, i, o, index=index: maps.update({index: o}))
    with torch.no_grad():
        found = model(pixels)
        top = model.trunk(pixels).transpose(1, 2).unflatten(2, (2, 3))
    assert found.shape == (2, config.tokens, config.width) == (2, 4, 1280 + 80 + 320)
    expected = torch.cat([F.adaptive_avg_pool2d(m, 2) for m in (top, maps[7], maps[15])], 1)
    # cell (row 1, column 0) is feature 2
    assert (found[:, 2] - expected[:, :, 1, 0]).abs().max() <= 1e-5
    assert (found.transpose(1, 2) - expected.flatten(2)).abs().max() <= 1e-5


@pytest.mark.parametrize("taps", [(10, 7), (7, 7), (len(LITE0.blocks),)])
def test_taps_out_of_order_or_range_are_refused(taps: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="taps must be ascending"):
        EfficientNetGridConfig(taps=taps)
