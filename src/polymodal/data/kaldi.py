"""Log-mel filter banks as Kaldi computes them, the input of AST-like sound encoders (ImageBind, LTU) and of VITA's.

samples [n] -> frames of 25 ms every 10 ms, only whole ones -> minus their mean -> x[t] - 0.97 x[t-1] -> Hann window
-> |FFT of 512|^2 -> triangles on the mel scale 1127 ln(1 + f / 700) from 20 Hz -> natural logarithm

Traps: the window is symmetric; the first sample of a frame is emphasised against itself; nothing is padded, so 2 s give
198 frames, not 200; values are floored at the epsilon of float32 before the logarithm; in float32 a bank without
sound beside a loud one has the rounding of the loud one (3e-4), which differs from machine to machine.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

from polymodal.errors import MediaError

POVEY = 0.85  # Kaldi's own window: Hann's to that power


def fbank(samples: Tensor, mels: int = 128, rate: int = 16000, window: float = 0.025, hop: float = 0.010,
          power: float = 1.0) -> Tensor:  # fmt: skip
    """float `[n]` -> float32 `[frames, mels]`, computed in float64 where the samples are.  power: of the Hann window.

    Raises MediaError for less than one window of sound.
    """
    size, step = int(rate * window), int(rate * hop)
    if samples.dim() != 1 or len(samples) < size:
        raise MediaError(f"filter banks: expected at least {size} samples, found {list(samples.shape)}")
    exact = torch.float64 if samples.dtype == torch.float64 else torch.float32
    frames = samples.to(exact).unfold(0, size, step)
    frames = frames - frames.mean(1, keepdim=True)
    before = torch.cat((frames[:, :1], frames[:, :-1]), 1)
    frames = (frames - 0.97 * before) * torch.hann_window(size, periodic=False, dtype=exact) ** power
    points = 1 << (size - 1).bit_length()
    spectrum = torch.fft.rfft(frames, n=points).abs().square()
    banks = spectrum[:, : points // 2] @ filters(mels, rate, points).T.to(exact)
    return banks.clamp_min(torch.finfo(torch.float32).eps).log().float()


@lru_cache(maxsize=8)
def filters(mels: int, rate: int, points: int, low: float = 20.0) -> Tensor:
    """Triangles float64 `[mels, points / 2]`, evenly spaced on the mel scale.

    In float32 a logarithm's last bit, which differs from processor to processor, is 1e-5 of a triangle's width.
    """
    bottom, top = _mel(low), _mel(rate / 2)
    edges = bottom + torch.arange(mels + 2, dtype=torch.float64) * ((top - bottom) / (mels + 1))
    left, centre, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    bins = 1127.0 * torch.log(1.0 + torch.arange(points // 2, dtype=torch.float64) * (rate / points) / 700.0)
    return torch.minimum((bins - left) / (centre - left), (right - bins) / (right - centre)).clamp_min(0.0)


def _mel(hertz: float) -> float:
    return 1127.0 * math.log(1.0 + hertz / 700.0)
