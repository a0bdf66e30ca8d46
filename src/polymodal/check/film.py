"""Short films of real pictures: files for headlines of systems that watch videos, tensors for their training checks."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor


def film(pictures: Sequence[Image], rate: int = 4) -> bytes:
    """A Matroska file of these pictures, each one a frame, without loss; needs PyAV."""
    import av

    target = io.BytesIO()
    with av.open(target, "w", format="matroska") as output:
        stream = output.add_stream("ffv1", rate=rate)
        stream.width, stream.height, stream.pix_fmt = *pictures[0].size, "bgr0"
        for picture in pictures:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(picture.convert("RGB")), format="rgb24")))
        output.mux(stream.encode(None))
    return target.getvalue()


def zoomed(picture: Image, frames: int = 5) -> list[Image]:
    """A picture that comes nearer, frame by frame, from the whole of it to three quarters."""
    made = []
    for index in range(frames):
        cut = round(min(picture.size) / 8 * index / max(1, frames - 1))
        made.append(picture.crop((cut, cut, picture.width - cut, picture.height - cut)).resize(picture.size))
    return made


def two_frames(pixels: Tensor) -> Callable[[list[int]], dict[str, Any]]:
    """Rows of pictures [N, 3, H, W] -> in their place films of two frames, each picture and the next one."""

    def films(rows: list[int]) -> dict[str, Any]:
        later = [(row + 1) % len(pixels) for row in rows]
        return {"video_values": torch.stack((pixels[rows], pixels[later]), 1), "pixel_values": None}

    return films
