"""mini's boxes: from the padded square back to the picture, kinds as words, the surest first."""

import torch
from PIL import Image as Pillow
from torch import Tensor, nn

from polymodal.data.media import Image
from polymodal.systems.mini.components import SCENE
from polymodal.systems.mini.finder import Finder


class Told(nn.Module):
    """A detector that finds the same three things everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(1))

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        assert pixel_values.shape == (1, 3, 512, 512)
        heat, sides = torch.zeros(1, 2, 128, 128), torch.zeros(1, 4, 128, 128)
        for kind, row, column, score, reach in ((0, 64, 64, 0.9, 64.0), (1, 64, 32, 0.5, 32.0), (1, 10, 10, 0.2, 20.0)):
            heat[0, kind, row, column] = score
            sides[0, :, row, column] = reach
        return heat * self.one, sides


def test_boxes_lie_in_the_picture_and_not_in_its_padding() -> None:
    finder = Finder(Told(), ["dog", "ball"], SCENE)
    wide = Image(Pillow.new("RGB", (800, 400)))  # padded above and below by a quarter of the square
    found = finder.find(wide, 3)
    assert [(thing.label, round(thing.score, 4), thing.picture) for thing in found] == [
        ("dog", 0.9, 3),
        ("ball", 0.5, 3),
    ]
    assert torch.allclose(torch.tensor(found[0].box), torch.tensor([0.375, 0.25, 0.625, 0.75]), atol=1e-6)
    assert torch.allclose(torch.tensor(found[1].box), torch.tensor([0.1875, 0.375, 0.3125, 0.625]), atol=1e-6)
    grounding = finder.ground("A dog.", [wide, wide])
    assert grounding.text == "A dog." and [thing.picture for thing in grounding.things] == [0, 0, 1, 1]
