"""Faces and spectrograms as MESM takes them.

    a face, cut out -> 48 x 48 -> (value of 0 .. 255 - mean) / deviation                        [3, 48, 48]
    sound [n] at any rate -> |STFT|^2 of 25 ms, half as far apart -> 128 mel bands -> pieces of 32 frames

The official code finds faces with MTCNN, and takes 48 x 48 pixels near the middle where it finds none.
Traps: spectrograms are powers, without a logarithm; the bands follow HTK's mel scale and are not of equal area; the
last piece is padded with zeros.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from PIL.Image import Image
from torch import Tensor

from polymodal.errors import MediaError

MEAN, DEVIATION = (159.0, 111.0, 102.0), (37.0, 33.0, 32.0)
SIDE, BANDS, FRAMES = 48, 128, 32


def face_values(picture: Image, side: int = SIDE) -> Tensor:
    """A picture that holds one face and little else -> `[3, side, side]`."""
    pixels = torch.from_numpy(np.asarray(picture.convert("RGB").resize((side, side)), dtype=np.float32).copy())
    return ((pixels - torch.tensor(MEAN)) / torch.tensor(DEVIATION)).permute(2, 0, 1)


def spectrogram_pieces(samples: Tensor, rate: int) -> Tensor:
    """float32 `[n]` -> `[pieces, 1, 128, 32]`.  Raises MediaError for less than half a window of sound."""
    window = rate * 400 // 16_000
    if samples.dim() != 1 or len(samples) <= window // 2:
        raise MediaError(f"spectrogram: expected more than {window // 2} samples, found {list(samples.shape)}")
    spectrum = torch.stft(
        samples.float(), window, window // 2, window=torch.hann_window(window), return_complex=True
    ).abs()
    bands = mel_filters(window // 2 + 1, rate) @ spectrum.square()
    bands = F.pad(bands, (0, -bands.shape[1] % FRAMES))
    return bands.unflatten(1, (-1, FRAMES)).transpose(0, 1)[:, None].contiguous()


@lru_cache(maxsize=8)
def mel_filters(bins: int, rate: int) -> Tensor:
    """Triangles on the mel scale 2595 log10(1 + f / 700), from 0 to half the rate, `[128, bins]`; do not write."""
    frequencies = torch.linspace(0, rate // 2, bins)
    top = 2595.0 * np.log10(1.0 + (rate // 2) / 700.0)
    edges = 700.0 * (10.0 ** (torch.linspace(0.0, float(top), BANDS + 2) / 2595.0) - 1.0)
    rising = (frequencies - edges[:-2, None]) / edges.diff()[:-1, None]
    falling = (edges[2:, None] - frequencies) / edges.diff()[1:, None]
    return torch.minimum(rising, falling).clamp(min=0.0)
