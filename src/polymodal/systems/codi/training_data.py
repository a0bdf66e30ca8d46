"""What data files become for CoDi's objectives: conditions, and latents that its own codecs make of media and captions.

    ComposedDenoising    a medium with its caption -> the words and its latents; for texts the medium and the caption's
    BridgingAlignment    a sound or a video with its caption -> both as conditions
    LatentAlignment      a video with a sound track and its caption -> the words, latents of pictures and of the sound

Traps: latents are drawn as surely as the codec is; a sound is brought to half of full
scale and cut or padded with silence to 10.24 s, as AudioLDM's code does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from polymodal.data.datasets.sample import Sample
from polymodal.data.media import Audio, Image, Media, Video
from polymodal.data.mel import MelConfig, mel_filters
from polymodal.data.normalise import HALF
from polymodal.data.tokenizer import Tokenizer
from polymodal.data.transforms import ShorterSideCrop
from polymodal.errors import ConfigError
from polymodal.models.joint_diffusion import CONDITIONS, JointDiffusion
from polymodal.systems.codi.loading import FRAMES, RATE, Conditions
from polymodal.train.collator import Collator, MicroBatch, WrongKind, counted
from polymodal.train.joint_diffusion import BridgingAlignment, ComposedDenoising, LatentAlignment
from polymodal.train.pairs import captioned
from polymodal.train.row_draws import RowDraws, seed_from

SPECTRUM = MelConfig(rate=RATE, window=1024, hop=160, mels=64, low=0.0, high=8000.0, seconds=None)
LENGTH = 1024  # frames of a spectrogram
SEED = "seed"  # of an item's random numbers
GRID = 32  # latents of a picture along a side
TYPES = {"image": Image, "video": Video, "audio": Audio}


def spectrogram(samples: np.ndarray, length: int = LENGTH) -> Tensor:
    """Natural logarithms of the mel magnitudes of samples at 16 kHz, float32 [length, 64]."""
    wave = torch.from_numpy(np.ascontiguousarray(samples, np.float32))
    wave = wave - wave.mean()
    wave = wave / (wave.abs().max() + 1e-8) * 0.5
    wave = F.pad(wave[: length * SPECTRUM.hop], (0, max(0, length * SPECTRUM.hop - len(wave)))).clamp(-1, 1)
    spectrum = torch.stft(wave, SPECTRUM.window, SPECTRUM.hop, window=torch.hann_window(SPECTRUM.window),
                          center=True, return_complex=True)  # fmt: skip
    return (mel_filters(SPECTRUM) @ spectrum.abs()).clamp(min=1e-5).log()[:, :length].T


@dataclass(frozen=True, kw_only=True)
class ComposedData(Collator):
    """outputs: whose latents are made.  learned: BERT's vocabulary, for captions that are."""

    expects: ClassVar[str] = "pictures, videos or sounds with a caption each"

    model: JointDiffusion
    conditions: Conditions
    outputs: tuple[str, ...]
    learned: Tokenizer | None = None

    def item(self, sample: Sample) -> dict[str, Tensor]:
        """Condition tensors, and what the codecs take as `raw_<output>`."""
        media, caption = captioned(sample)
        if self.outputs == ("text",):
            return {CONDITIONS[media.modality]: self.conditions.item(media)[0], "raw_text": self.ids(caption)}
        found = {"input_ids": self.conditions.words(caption)}
        for name in self.outputs:
            found[f"raw_{name}"] = self.raw(name, media)
        return found

    def raw(self, name: str, media: Media) -> Tensor:
        """What the codec of an output takes [1, ...].  Raises WrongKind."""
        if name == "audio" and isinstance(media, Video):
            media = media.sound or media
        if not isinstance(media, TYPES[name]):
            raise WrongKind(f"has {media.modality} where {' with '.join(self.outputs)} is expected")
        if isinstance(media, Audio):
            return spectrogram(media.samples(RATE))[None, None]
        side = GRID * self.codec("image").config.stack.factor
        crop = ShorterSideCrop(size=side, crop=side, mean=HALF, std=HALF)
        if isinstance(media, Image):
            return crop(media)[None]
        assert isinstance(media, Video)
        return torch.stack([crop(frame) for frame in media.clip(frames=FRAMES).frames])[None]

    def ids(self, caption: str) -> Tensor:
        """BERT's ids of a caption in small letters [1, T]."""
        assert self.learned is not None
        begin, end = (self.learned.special(name) for name in ("[CLS]", "[SEP]"))
        most = self.codec("text").config.encoder.positions
        return torch.tensor([[begin, *self.learned.encode(caption.lower())[: most - 2], end]])

    def codec(self, name: str) -> Any:
        return self.model.codecs[name]

    def drawn(self, sample: Sample, generator: torch.Generator) -> dict[str, Any]:
        """And the seed of its random numbers."""
        return {**self.item(sample), SEED: seed_from(generator)}

    def batch(self, items: Sequence[dict[str, Any]], generator: torch.Generator) -> MicroBatch:
        """The conditions, `latents_<output>`, and the `noise_<output>` at `timesteps` that is to be seen in them."""
        found = {name: joined([each[name] for each in items], name) for name in items[0] if name != SEED}
        draws = RowDraws([each[SEED] for each in items])
        weight = next(self.model.codecs.parameters())
        with torch.no_grad():
            for name in self.outputs:
                raw = found.pop(f"raw_{name}")
                raw = raw.to(weight.device, weight.dtype if raw.is_floating_point() else None)
                found[f"latents_{name}"] = latents = self.encoded(name, raw, draws)
                found[f"noise_{name}"] = draws.normal(*latents.shape[1:]).to(latents)
        if self.outputs:
            found["timesteps"] = draws.whole(self.model.schedule.trained)
        return counted(found, len(items))

    def encoded(self, name: str, raw: Tensor, draws: RowDraws) -> Tensor:
        """Latents of a whole batch."""
        if name == "text":
            vectors: Tensor = self.codec("text").encode(raw, (raw > 0).long())
            return vectors
        codec = self.codec("audio").mel if name == "audio" else self.codec("image")
        flat = raw.flatten(0, 1) if name == "video" else raw
        grid = [side // codec.config.stack.factor for side in flat.shape[-2:]]
        each = (len(flat) // len(raw), codec.config.stack.latent, *grid)
        latents: Tensor = codec.encode(flat, draws.normal(*each).flatten(0, 1).to(flat))
        return latents.unflatten(0, raw.shape[:2]).transpose(1, 2) if name == "video" else latents


@dataclass(frozen=True, kw_only=True)
class BridgedData(ComposedData):
    """modality: what stands beside the captions, which are compared with it."""

    compares: ClassVar[bool] = True

    modality: str

    def item(self, sample: Sample) -> dict[str, Tensor]:
        """Both as conditions."""
        media, caption = captioned(sample)
        if not isinstance(media, TYPES[self.modality]):
            raise WrongKind(f"has {media.modality} where {self.modality} is expected")
        return {"input_ids": self.conditions.words(caption), CONDITIONS[self.modality]: self.conditions.item(media)[0]}


def joined(rows: Sequence[Tensor], name: str) -> Tensor:
    """Rows [1, ...] as a batch; texts are filled up: CLIP's with their end, which it sees first, BERT's with 0.

    Raises WrongKind for media of several kinds.
    """
    if rows[0].dim() == 2:
        most = max(row.shape[1] for row in rows)
        fill = int(rows[0][0, -1]) if name == "input_ids" else 0
        rows = [F.pad(row, (0, most - row.shape[1]), value=fill) for row in rows]
    return torch.cat(list(rows))


def collator_of(
    objective: Any, model: JointDiffusion, conditions: Conditions, learned: Tokenizer | None
) -> Collator | None:
    """None for another objective.  Raises ConfigError for captions to be learned without a vocabulary of BERT's."""
    common: dict[str, Any] = {"model": model, "conditions": conditions, "learned": learned}
    if isinstance(objective, BridgingAlignment):
        return BridgedData(outputs=(), modality=objective.modality, **common)
    if isinstance(objective, LatentAlignment):
        return ComposedData(outputs=objective.makes, **common)
    if not isinstance(objective, ComposedDenoising):
        return None
    if objective.makes == "text" and learned is None:
        raise ConfigError(
            "codi: captions are learned with BERT's vocabulary: put its tokenizer files into optimus_encoder"
        )
    return ComposedData(outputs=(objective.makes,), **common)
