"""The input transforms of ImageBind: images, clips of audio, clips of video, one-channel depth and thermal images.

Paper: ImageBind (arXiv 2305.05665); also what PandaGPT and NExT-GPT feed.

    image     shorter side 224 bicubic, centre crop -> [3, 224, 224]
    audio     3 clips of 2 s spread evenly -> minus mean -> 128 filter banks -> padded to 204 -> [3, 1, 128, 204]
    video     5 clips of 2 s, two frames of each -> shorter side 224 bilinear -> 3 crops -> [15, 3, 2, 224, 224]
    thermal   grey, shorter side 224 bicubic, centre crop, 0..1 -> [1, 224, 224]

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
from polymodal.data.video import frames_at

RATE = 16000
AUDIO_MEAN, AUDIO_STD = -4.268, 9.138
FRAME_RATE = 8.0
"""Frames a second at which videos are read here; the official loader reads all of them."""

image_transform: ShorterSideCrop = ShorterSideCrop(crop_rounding="even")
"""Picture -> float32 [3, 224, 224]."""


def clip_starts(seconds: float, clips: int, length: float) -> list[float]:
    """Where `clips` clips of `length` seconds begin so that the first begins at 0 and the last ends at the end."""
    space = max(seconds - length, 0.0) / max(clips - 1, 1)
    return [space * index for index in range(clips)]


def audio_values(audio: Audio, clips: int = 3, length: float = 2.0, mels: int = 128, frames: int = 204) -> Tensor:
    """Sound -> [clips, 1, mels, frames]."""
    return audio_clips(torch.from_numpy(audio.samples(RATE)), clips, length, mels, frames)


def audio_clips(samples: Tensor, clips: int = 3, length: float = 2.0, mels: int = 128, frames: int = 204) -> Tensor:
    """Mono samples [n] at 16 kHz -> [clips, 1, mels, frames]; less than a window is filled with silence."""
    if len(samples) < RATE // 40:
        samples = F.pad(samples, (0, RATE // 40 - len(samples)))
    features = []
    for start in clip_starts(len(samples) / RATE, clips, length):
        clip = samples[int(start * RATE) : int((start + length) * RATE)]
        banks = fbank(clip - clip.mean(), mels, RATE).T[:, :frames]
        features.append((F.pad(banks, (0, frames - banks.shape[1])) - AUDIO_MEAN) / AUDIO_STD)
    return torch.stack(features)[:, None]


def video_values(item: Video, clips: int = 5, length: float = 2.0) -> Tensor:
    """Video -> [3 clips, 3, 2, 224, 224]."""
    if frames_at(item.seconds, FRAME_RATE) <= item.limits.frames:
        return video_clips(*item.clip(fps=FRAME_RATE), clips, length)
    # Of a long video only the frames that are used: the first and the last of each clip.
    starts = clip_starts(item.seconds, clips, length)
    frames, _ = item.clip(times=[time for start in starts for time in (start, start + length - 1 / FRAME_RATE)])
    return crops_of_pairs(frames.reshape(clips, 2, *frames.shape[1:]))


def video_clips(frames: np.ndarray, times: np.ndarray, clips: int = 5, length: float = 2.0, side: int = 224) -> Tensor:
    """Frames uint8 [F, H, W, 3] shown at `times` seconds -> [3 clips, 3, 2, side, side]; crops of a clip in a row."""
    step = float(np.diff(times).mean()) if len(times) > 1 else length
    pairs = []
    for start in clip_starts(float(times[-1]) + step, clips, length):
        inside = np.flatnonzero((times >= start - 1e-6) & (times < start + length - 1e-6))
        first, last = (inside[0], inside[-1]) if len(inside) else (len(times) - 1,) * 2
        pairs.append(np.stack((frames[first], frames[last])))
    return crops_of_pairs(np.stack(pairs), side)


def crops_of_pairs(pairs: np.ndarray, side: int = 224) -> Tensor:
    """The two frames of each clip, uint8 [clips, 2, H, W, 3] -> [3 clips, 3, 2, side, side]."""
    pixels_of_clips = []
    for pair in pairs:
        pixels = torch.from_numpy(pair).permute(0, 3, 1, 2).float() / 255.0
        pixels_of_clips += three_crops(_shorter(pixels, side), side)
    mean, std = (torch.tensor(values)[:, None, None, None] for values in (CLIP_MEAN, CLIP_STD))
    return (torch.stack(pixels_of_clips).transpose(1, 2) - mean) / std


def _shorter(pixels: Tensor, side: int) -> Tensor:
    """[T, 3, H, W] with its shorter side at `side`."""
    height, width = pixels.shape[-2:]
    size = (math.floor(height / width * side), side) if width < height else (side, math.floor(width / height * side))
    return F.interpolate(pixels, size=size, mode="bilinear", align_corners=False)


def three_crops(pixels: Tensor, side: int) -> list[Tensor]:
    """Three squares along the longer side of [..., H, W]: its beginning, middle and end."""
    height, width = pixels.shape[-2:]
    middle = math.ceil((height - side) / 2), math.ceil((width - side) / 2)
    if height > width:
        offsets = [(0, middle[1]), middle, (height - side, middle[1])]
    else:
        offsets = [(middle[0], 0), middle, (middle[0], width - side)]
    return [pixels[..., top : top + side, left : left + side] for top, left in offsets]


def single_channel(item: Picture, side: int = 224) -> Tensor:
    """A thermal (or depth) picture -> [1, side, side] in 0..1, grey."""
    grey = as_picture(item).convert("L")
    target = shorter_side_size(*grey.size, side)
    cut = resize_crop(grey, target, centre_box(*target, side, "even"), "bicubic")
    return torch.from_numpy(np.array(resize(cut, (side, side), "bicubic")))[None].float() / 255.0


def imu_values(samples: np.ndarray | Sequence[Sequence[float]], length: int = 2000) -> Tensor:
    """Six series of an inertial sensor [6, n] -> [6, length], cut or filled with zeros at the end."""
    series = torch.as_tensor(np.asarray(samples), dtype=torch.float32)[:, :length]
    return F.pad(series, (0, length - series.shape[1]))


def imu_of(item: Any) -> Tensor:
    """The series of an array."""
    return imu_values(item.values)


INPUTS: Mapping[str, tuple[str, Callable[[Any], Tensor]]] = {
    "image": ("vision", image_transform),
    "video": ("vision", video_values),
    "audio": ("audio", audio_values),
    "depth": ("depth", single_channel),
    "thermal": ("thermal", single_channel),
    "imu": ("imu", imu_of),
}
"""Modality of an item -> the official name of its tensor, and how it is made from the item's record."""
