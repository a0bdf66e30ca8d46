"""What was found and seen, in front of the grid features; each network gets its own view."""

import torch

from polymodal.data.transforms import PadToSquare, Views, stack_views
from polymodal.encoders.centernet import CenterNetConfig
from polymodal.encoders.efficientnet_grid import EfficientNetGridConfig
from polymodal.encoders.seen_and_found import SeenAndFoundConfig, surest


def test_facts_come_before_the_features() -> None:
    torch.manual_seed(0)
    config = SeenAndFoundConfig(grid=EfficientNetGridConfig(taps=(7, 15), grid=2), detector=CenterNetConfig(kinds=7))
    model = config.build().eval()
    for parameter in model.grid.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    pixels, centre, scene = torch.randn(2, 3, 64, 96), torch.randn(2, 3, 64, 64), 255 * torch.rand(2, 3, 128, 128)
    with torch.no_grad():
        features = model(pixels, centre_values=centre, scene_values=scene)
        trunk = model.grid.trunk
        seen = trunk.classify(trunk(centre).mean(1)).softmax(-1)
        found = surest(*model.detector(scene), config.least)
        plain = model.grid(pixels)
    assert features.shape == (2, config.tokens, config.width) == (2, 4, 7 + 1000 + 1280 + 80 + 320)
    for cell in range(4):
        assert torch.allclose(features[:, cell, :7], found) and torch.allclose(features[:, cell, 7:1007], seen)
    assert torch.allclose(features[..., 1007:], plain)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model(pixels, centre_values=centre, scene_values=scene), features)


def test_views_of_a_picture_are_stacked_by_name() -> None:
    views = Views({"small": PadToSquare(size=8), "large": PadToSquare(size=16)})
    pictures = [torch.randint(0, 256, (9, 7, 3), dtype=torch.uint8).numpy() for _ in range(2)]
    batch = stack_views([views(picture) for picture in pictures])
    assert {name: tuple(x.shape) for name, x in batch.items()} == {"small": (2, 3, 8, 8), "large": (2, 3, 16, 16)}
    assert torch.equal(batch["small"][1], PadToSquare(size=8)(pictures[1]))
