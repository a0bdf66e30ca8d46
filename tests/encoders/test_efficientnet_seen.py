"""What the classifier sees at each cell, in front of the grid features."""

import torch
import torch.nn.functional as F

from polymodal.encoders.efficientnet_grid import EfficientNetGridConfig
from polymodal.encoders.efficientnet_seen import EfficientNetSeenConfig


def test_probabilities_of_cells_come_before_the_features() -> None:
    torch.manual_seed(0)
    config, grid = EfficientNetSeenConfig(taps=(7, 15), grid=2), EfficientNetGridConfig(taps=(7, 15), grid=2).build()
    model = config.build().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    grid.load_state_dict(model.state_dict())
    pixels = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        found, plain = model(pixels), grid.eval()(pixels)
        cells = model.trunk.classify(model.trunk(pixels)).softmax(-1)  # [2, 2 * 3, 1000]
    assert found.shape == (2, config.tokens, config.width) == (2, 4, 1000 + 1280 + 80 + 320)
    assert (found[..., 1000:] - plain).abs().max() <= 1e-5
    expected = F.adaptive_avg_pool2d(cells.transpose(1, 2).unflatten(-1, (2, 3)), 2).flatten(2).transpose(1, 2)
    assert (found[..., :1000] - expected).abs().max() <= 1e-6
    assert torch.allclose(found[..., :1000].sum(-1), torch.ones(2, 4), atol=1e-5)
