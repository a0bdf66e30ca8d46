"""What Unified-IO 2 is asked with, and what its pictures, videos and sounds become.

    "[Text] [S] " + the question </s>, a picture, earlier pictures, sound, earlier sounds
    pictures: the last is read whole (576 patches), up to eight before it as 32 latents each; a video is five frames
    sound: 4.08 s windows of 128 mels; the last is read whole (128 patches), up to eight before it as 16 latents each

Traps: pictures are padded on both sides; a window counts where more than half of it (and a tenth of a second) is sound;
silent cells of a spectrogram are hidden and zero.  Pictures are resized by torch, official code has TensorFlow do it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from polymodal.data.encoder_decoder_processor import EncoderDecoderProcessor
from polymodal.data.item_rules import SameCount
from polymodal.data.media import Audio, Image, Media, Text, Video
from polymodal.data.mel import MelConfig, mel_filters
from polymodal.data.messages import Message
from polymodal.data.normalise import CLIP_MEAN, CLIP_STD, as_picture
from polymodal.data.padded_patches import patches_of, resized
from polymodal.data.processor import Modality
from polymodal.data.template import Special, Template, Turn
from polymodal.data.transforms import stack_views
from polymodal.errors import MediaError, PromptError
from polymodal.models.unified_io_2 import SEEN, UnifiedIO2
from polymodal.systems import CheckpointFiles, LoadedModel
from polymodal.systems.unified_io_2.painting import PREFIX, CodePainter
from polymodal.systems.unified_io_2.places import Square, ground
from polymodal.systems.unified_io_2.vocabulary import vocabulary
from polymodal.systems.unified_io_2.vocoder import Voice

FRAMES, PATCH = 5, 16  # of a video: one picture and four before it
RATE, WINDOW, HOP = 16_000, 4.08, 256
MEL = MelConfig(mels=128, rate=RATE, window=1024, hop=HOP, high=8000.0, seconds=None)
AUDIO_MEAN, AUDIO_STD = -4.26, 9.14
TEMPLATE = Template(
    turns={
        "user": Turn(after=(Special(name="</s>"),)),
        "media": Turn(),
        "assistant": Turn(after=(Special(name="</s>", loss_mask=True),), loss_mask=True),
    }
)


@dataclass(frozen=True, repr=False)
class Piece(Media):
    """A frame (uint8 [H, W, 3]) or a window of samples, as part of something longer."""

    values: np.ndarray
    modality: str = field(default="image_history", kw_only=True)


def prompted(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The question with its prefix, then its media, then the answer where there is one.

    Raises PromptError for several questions, and for media that do not fit.
    """
    asked = [message for message in messages if message.role == "user"]
    rest = [message for message in messages if message.role != "user"]
    if len(asked) != 1 or messages[0].role != "user" or len(rest) > 1:
        raise PromptError(f"Unified-IO 2 answers one question at a time; found {len(asked)} of them in "
                          f"{len(messages)} messages")  # fmt: skip
    words = asked[0].text.strip()
    if not words and not asked[0].media:
        raise PromptError("messages: expected a question or something to look at or hear, found neither")
    begun = words if words.startswith(tuple(PREFIX.values())) else PREFIX["text"] + words
    media = tuple(pieces(asked[0].media))
    return (replace(asked[0], parts=(Text(begun),)), *([Message(role="media", parts=media)] if media else []), *rest)


def pieces(media: Sequence[Media]) -> list[Media]:
    """Pictures or a video, and sounds, as the last of each and what came before it."""
    seen = [each for each in media if isinstance(each, Image | Video)]
    videos = [each for each in seen if isinstance(each, Video)]
    if videos and len(seen) > 1:
        raise PromptError(f"Unified-IO 2 sees pictures or one video; found {len(videos)} videos among {len(seen)}")
    frames: list[Any] = [np.asarray(as_picture(each)) for each in seen if isinstance(each, Image)]
    if videos:
        frames = list(videos[0].clip(frames=FRAMES).frames)
    sounds = [each for each in media if isinstance(each, Audio)]
    if len(sounds) > 1:
        raise PromptError(f"Unified-IO 2 hears one recording; found {len(sounds)}")
    windows = split(sounds[0].samples(RATE)) if sounds else []
    found: list[Media] = []
    for name, values in (("image", frames), ("audio", windows)):
        if len(values) > 9:
            raise PromptError(f"Unified-IO 2 takes 9 {name} items ({9 * WINDOW:.2f} s of sound), found {len(values)}")
        found += [Piece(each, modality=name) for each in values[-1:]]
        found += [Piece(each, modality=f"{name}_history") for each in values[:-1]]
    return found


def split(samples: np.ndarray) -> list[np.ndarray]:
    """A recording in windows of 4.08 s, the last filled up with silence."""
    length = int(RATE * WINDOW)
    seconds = len(samples) / RATE
    count = int(seconds // WINDOW) + (seconds % WINDOW - 0.1 > WINDOW / 2)
    if not len(samples):
        raise MediaError("the recording is empty")
    count = max(count, 1)
    whole = np.zeros(count * length, dtype=np.float32)
    whole[: len(samples)] = samples[: len(whole)]
    return [whole[index * length : (index + 1) * length] for index in range(count)]


def picture_patches(piece: Any, grid: tuple[int, int], values: str, masks: str) -> dict[str, Tensor]:
    """A frame or picture, padded on both sides -> patches of CLIP's values, and which are real."""
    size = grid[0] * PATCH
    picture = as_picture(piece.values)
    square = Square(picture.size, size)
    (width, height), (left, top) = square.scaled, square.border
    pixels = resized(picture, width, height)
    pixels = F.pad(pixels, (left, size - width - left, top, size - height - top))
    mean, std = (torch.tensor(each, dtype=torch.float64)[:, None, None] for each in (CLIP_MEAN, CLIP_STD))
    centre = torch.arange(grid[0]) * PATCH + PATCH // 2  # where TensorFlow's nearest neighbour looks
    seen = ((centre >= top) & (centre < top + height))[:, None] & (centre >= left) & (centre < left + width)
    return {values: patches_of(((pixels - mean) / std).float(), PATCH), masks: seen.long().flatten()}


def sound_patches(piece: Any, grid: tuple[int, int], values: str, masks: str) -> dict[str, Tensor]:
    """A window of samples -> patches of its spectrogram, time by time, and which are no silence."""
    mel = spectrogram(torch.from_numpy(np.ascontiguousarray(piece.values)))[:, : grid[0] * PATCH].T
    mask = mel != 0
    logs = mel.clamp(1e-5, 1e5).log() * mask
    patches = patches_of(((logs - AUDIO_MEAN) / AUDIO_STD)[None].float(), PATCH)
    centre = [torch.arange(each) * PATCH + PATCH // 2 for each in grid]
    return {values: patches, masks: mask[centre[0][:, None], centre[1]].long().flatten()}


def spectrogram(samples: Tensor) -> Tensor:
    """float32 [n] -> power of 128 mels [128, frames]."""
    hann = torch.hann_window(MEL.window)
    power = torch.stft(samples, MEL.window, HOP, window=hann, center=True, return_complex=True).abs().square()
    return mel_filters(MEL) @ power


def assembled(module: UnifiedIO2, files: CheckpointFiles) -> LoadedModel:
    """The processor, and what writes pictures and sounds."""
    tokenizer = vocabulary(files, module.tables.text)
    kinds = {each.name: each for each in module.backbone.config.encoder_kinds}
    transforms = {"image": picture_patches, "audio": sound_patches}
    modalities = []
    for name, (values, masks, side) in SEEN.items():
        grid = module.grids[name]
        history = name.endswith("history")
        modalities.append(Modality(
            name=name, placeholder=f"<{name}>", placeholder_id=module.placeholders[name], media=Piece,
            collate=stack_views,
            transform=partial(transforms[side], grid=grid, values=values, masks=masks),
            tokens=SameCount(kinds[name].columns if history else kinds[name].count),
        ))  # fmt: skip
    processor = EncoderDecoderProcessor(
        tokenizer=tokenizer, template=TEMPLATE, modalities=modalities, rewrite=prompted,
        start_id=module.backbone.config.start_id, max_length=sum(each.count for each in kinds.values()))  # fmt: skip
    return LoadedModel(model=module, processor=processor, ground=partial(ground, side=module.grids["image"][0] * PATCH),
                       paint=CodePainter(model=module, processor=processor, voice=Voice(files.folder)))  # fmt: skip
