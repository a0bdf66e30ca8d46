"""8-bit pictures -> float tensors: the last step of every image transform, and the interpolations by name."""

from typing import Literal

import numpy as np
import torch
from PIL import Image as Pillow

from polymodal.data.media import Image
from polymodal.errors import MediaError

Picture = Image | Pillow.Image | np.ndarray
Interpolation = Literal["nearest", "box", "bilinear", "bicubic", "lanczos"]
Colour = tuple[float, float, float]
CLIP_MEAN: Colour = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Colour = (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN: Colour = (0.485, 0.456, 0.406)
IMAGENET_STD: Colour = (0.229, 0.224, 0.225)
HALF: Colour = (0.5, 0.5, 0.5)

_FILTERS = {
    "nearest": Pillow.Resampling.NEAREST,
    "bilinear": Pillow.Resampling.BILINEAR,
    "box": Pillow.Resampling.BOX,
    "bicubic": Pillow.Resampling.BICUBIC,
    "lanczos": Pillow.Resampling.LANCZOS,
}


def as_picture(image: Picture) -> Pillow.Image:
    """A Pillow image of mode RGB from an Image record, such an image, or uint8 [H, W, 3].

    Raises MediaError for anything else, and what reading the record's source raises.
    """
    if isinstance(image, Image):
        return image.picture
    if isinstance(image, Pillow.Image):
        if image.mode != "RGB":
            raise MediaError(f"a transform expects an RGB picture, found mode {image.mode}; read it with read_image")
        return image
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        return Pillow.fromarray(np.ascontiguousarray(image))
    found = f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
    raise MediaError(f"a transform expects an RGB picture or uint8 [H, W, 3], found {found}")


def resize(
    image: Pillow.Image,
    size: tuple[int, int],
    interpolation: Interpolation,
    area: tuple[float, float, float, float] | None = None,
) -> Pillow.Image:
    """Pillow's resize to (width, height), of the whole picture or of `area` (left, top, right, bottom) of it."""
    return image if area is None and image.size == size else image.resize(size, _FILTERS[interpolation], box=area)


def to_tensor(image: Pillow.Image | np.ndarray, mean: Colour, std: Colour) -> torch.Tensor:
    """RGB picture -> float32 [3, H, W] = (value / 255 - mean) / std, as one multiplication and one addition."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    scale = torch.tensor([1.0 / (255.0 * s) for s in std], dtype=torch.float32)[:, None, None]
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], dtype=torch.float32)[:, None, None]
    return torch.addcmul(shift, pixels.to(torch.float32, memory_format=torch.contiguous_format), scale)
