"""Media as ImageBind takes them: pictures, clips of sound, clips of video, planes of heat or depth.

Paper: ImageBind (arXiv 2305.05665); also what PandaGPT and NExT-GPT feed.

    picture   shorter side 224 bicubic, centre crop -> [3, 224, 224]
    sound     3 clips of 2 s spread evenly -> minus mean -> 128 filter banks -> padded to 204 -> [3, 1, 128, 204]
    video     5 clips of 2 s, two frames of each -> shorter side 224 bilinear -> 3 crops -> [15, 3, 2, 224, 224]
    heat      grey, shorter side 224 bicubic, centre crop, 0..1 -> [1, 224, 224]

Traps: an odd rest of the centre crop is rounded to even; video is resized in float without antialiasing and cut with
offsets rounded up; silence added behind a short sound is zero BEFORE the shift and scale.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from polymodal.data.kaldi import fbank
from polymodal.data.media import Audio, Video
from polymodal.data.normalise import CLIP_MEAN, CLIP_STD, Picture, as_picture, resize
from polymodal.data.transforms import ShorterSideCrop, centre_box, resize_crop, shorter_side_size

RATE = 16000
SOUND_MEAN, SOUND_STD = -4.268, 9.138
FRAME_RATE = 8.0
"""Frames a second at which videos are read here; the official loader reads all of them."""

picture: ShorterSideCrop = ShorterSideCrop(crop_rounding="even")
"""Picture -> float32 [3, 224, 224]."""


def starts(seconds: float, clips: int, length: float) -> list[float]:
    """Where `clips` clips of `length` seconds begin so that the first begins at 0 and the last ends at the end."""
    space = max(seconds - length, 0.0) / max(clips - 1, 1)
    return [space * index for index in range(clips)]


def sound(audio: Audio, clips: int = 3, length: float = 2.0, mels: int = 128, frames: int = 204) -> Tensor:
    """Sound -> [clips, 1, mels, frames]."""
    return sound_clips(torch.from_numpy(audio.samples(RATE)), clips, length, mels, frames)


def sound_clips(samples: Tensor, clips: int = 3, length: float = 2.0, mels: int = 128, frames: int = 204) -> Tensor:
    """Mono samples [n] at 16 kHz -> [clips, 1, mels, frames]; less than a window is filled with silence."""
    if len(samples) < RATE // 40:
        samples = F.pad(samples, (0, RATE // 40 - len(samples)))
    found = []
    for start in starts(len(samples) / RATE, clips, length):
        clip = samples[int(start * RATE) : int((start + length) * RATE)]
        banks = fbank(clip - clip.mean(), mels, RATE).T[:, :frames]
        found.append((F.pad(banks, (0, frames - banks.shape[1])) - SOUND_MEAN) / SOUND_STD)
    return torch.stack(found)[:, None]


def video(item: Video, clips: int = 5, length: float = 2.0) -> Tensor:
    """Video -> [3 clips, 3, 2, 224, 224]."""
    frames, times = item.clip(fps=FRAME_RATE)
    return video_clips(frames, times, clips, length)


def video_clips(frames: np.ndarray, times: np.ndarray, clips: int = 5, length: float = 2.0, side: int = 224) -> Tensor:
    """Frames uint8 [F, H, W, 3] shown at `times` seconds -> [3 clips, 3, 2, side, side]; crops of a clip in a row."""
    step = float(np.diff(times).mean()) if len(times) > 1 else length
    found = []
    for start in starts(float(times[-1]) + step, clips, length):
        inside = np.flatnonzero((times >= start - 1e-6) & (times < start + length - 1e-6))
        first, last = (inside[0], inside[-1]) if len(inside) else (len(times) - 1,) * 2
        pixels = torch.from_numpy(np.stack((frames[first], frames[last]))).permute(0, 3, 1, 2).float() / 255.0
        found += crops(_shorter(pixels, side), side)
    mean, std = (torch.tensor(values)[:, None, None, None] for values in (CLIP_MEAN, CLIP_STD))
    return (torch.stack(found).transpose(1, 2) - mean) / std


def _shorter(pixels: Tensor, side: int) -> Tensor:
    """[T, 3, H, W] with its shorter side at `side`."""
    height, width = pixels.shape[-2:]
    size = (math.floor(height / width * side), side) if width < height else (side, math.floor(width / height * side))
    return F.interpolate(pixels, size=size, mode="bilinear", align_corners=False)


def crops(pixels: Tensor, side: int) -> list[Tensor]:
    """Three squares along the longer side of [..., H, W]: its beginning, middle and end."""
    height, width = pixels.shape[-2:]
    middle = math.ceil((height - side) / 2), math.ceil((width - side) / 2)
    if height > width:
        places = [(0, middle[1]), middle, (height - side, middle[1])]
    else:
        places = [(middle[0], 0), middle, (middle[0], width - side)]
    return [pixels[..., top : top + side, left : left + side] for top, left in places]


def plane(item: Picture, side: int = 224) -> Tensor:
    """A picture of heat (or depth) -> [1, side, side] in 0..1, grey."""
    grey = as_picture(item).convert("L")
    target = shorter_side_size(*grey.size, side)
    cut = resize_crop(grey, target, centre_box(*target, side, "even"), "bicubic")
    return torch.from_numpy(np.array(resize(cut, (side, side), "bicubic")))[None].float() / 255.0


def motion(samples: np.ndarray | Sequence[Sequence[float]], length: int = 2000) -> Tensor:
    """Six series of an inertial sensor [6, n] -> [6, length], cut or filled with zeros at the end."""
    series = torch.as_tensor(np.asarray(samples), dtype=torch.float32)[:, :length]
    return F.pad(series, (0, length - series.shape[1]))


INPUTS: Mapping[str, tuple[str, Callable[[Any], Tensor]]] = {
    "image": ("vision", picture),
    "video": ("vision", video),
    "audio": ("audio", sound),
    "depth": ("depth", plane),
    "thermal": ("thermal", plane),
    "imu": ("imu", lambda item: motion(item.values)),
}
"""Modality of an item -> the official name of its tensor, and how it is made from the item's record."""
