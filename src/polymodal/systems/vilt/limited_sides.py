"""Pictures that keep their proportions, sides rounded down to whole patches, and batches of them (ViLT, 2102.03334).

    shorter side -> `shorter`; if then the longer is above `shorter` * 1333 / 800, it becomes that instead
    -> sides rounded, then down to a multiple of `multiple` -> / 255 -> (x - mean) / std
    padded: pictures of unequal size -> zeros below and to the right, and a mask of real pixels

Trap: padding is zero AFTER the colours are shifted, so it is grey, and only the mask tells it from the picture.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from polymodal.data.hf_image import RESAMPLE
from polymodal.data.normalise import HALF, Colour, Interpolation, Picture, as_picture, resize, to_tensor
from polymodal.errors import ConfigError

LONGER, SHORTER = 1333, 800


@dataclass(frozen=True, kw_only=True)
class LimitedSides:
    """See the module docstring."""

    shorter: int = 384
    multiple: int = 32
    interpolation: Interpolation = "bicubic"
    mean: Colour = HALF
    std: Colour = HALF

    def size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) of the output for a picture of this size."""
        scale = self.shorter / min(width, height)
        sides = [float(self.shorter) if side == min(width, height) else scale * side for side in (width, height)]
        longest = int(LONGER / SHORTER * self.shorter)
        if max(sides) > longest:
            again = longest / max(sides)
            sides = [side * again for side in sides]
        wide, high = (int(side + 0.5) // self.multiple * self.multiple for side in sides)
        return wide, high

    def __call__(self, image: Picture) -> torch.Tensor:
        """Image record, RGB picture or uint8 [H, W, 3] -> float32 [3, H', W']."""
        picture = as_picture(image)
        return to_tensor(resize(picture, self.size(*picture.size), self.interpolation), self.mean, self.std)


def limited_of(settings: Mapping[str, Any]) -> LimitedSides:
    """The transform a preprocessor_config.json of ViltImageProcessor describes; raises ConfigError for other steps."""
    for name in ("do_resize", "do_rescale", "do_normalize", "do_pad"):
        if settings.get(name, True) is False:
            raise ConfigError(f"picture settings: {name} false is not supported")
    size = settings.get("size", {"shortest_edge": 384})
    return LimitedSides(
        shorter=size if isinstance(size, int) else int(size["shortest_edge"]),
        multiple=settings.get("size_divisor", 32),
        interpolation=RESAMPLE[settings.get("resample", 3)],
        mean=tuple(settings.get("image_mean", HALF)),
        std=tuple(settings.get("image_std", HALF)),
    )


def padded(pictures: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Pictures [3, H, W] of any sizes -> `pixel_values [N, 3, H, W]`, `pixel_mask [N, H, W]` int64."""
    height = max(picture.shape[1] for picture in pictures)
    width = max(picture.shape[2] for picture in pictures)
    values = torch.zeros(len(pictures), 3, height, width)
    mask = torch.zeros(len(pictures), height, width, dtype=torch.int64)
    for i, picture in enumerate(pictures):
        values[i, :, : picture.shape[1], : picture.shape[2]] = picture
        mask[i, : picture.shape[1], : picture.shape[2]] = 1
    return {"pixel_values": values, "pixel_mask": mask}
