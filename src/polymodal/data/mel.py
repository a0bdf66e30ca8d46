"""Log-mel spectrogram, the input of Whisper-like encoders (arXiv 2212.04356).

samples [n] -> zero-pad to the window -> |STFT|^2 -> mel filters -> log10 -> floor 8 below the peak -> (x + 4)
/ 4.

Traps: the Hann window is periodic and the frames are centred with reflected edges; the last frame of the STFT
is dropped; the floor is relative to the loudest value of the *padded* window; large-v3 models use 128 mels.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from polymodal.errors import ConfigError, MediaError

# Slaney's mel scale: linear below 1 kHz (3 mels per 200 Hz), logarithmic above (27 mels per factor 6.4).
_HZ_PER_MEL = 200.0 / 3.0
_BREAK_HZ = 1000.0
_BREAK_MEL = _BREAK_HZ / _HZ_PER_MEL
_LOG_STEP = np.log(6.4) / 27.0


@dataclass(frozen=True, kw_only=True)
class MelConfig:
    """Shape of a log-mel spectrogram; the defaults are Whisper's.

    rate in Hz, window and hop in samples, low and high in Hz.  `seconds` is the fixed length that shorter
    audio is padded to; None keeps the length of the audio.
    """

    mels: int = 80
    rate: int = 16_000
    window: int = 400
    hop: int = 160
    low: float = 0.0
    high: float = 8000.0
    seconds: float | None = 30.0

    def __post_init__(self) -> None:
        if min(self.mels, self.rate, self.window, self.hop) < 1 or not 0 <= self.low < self.high <= self.rate / 2:
            raise ConfigError(f"mel settings out of range (high must not exceed rate / 2): {self}")

    @property
    def samples(self) -> int | None:
        """Samples in the fixed length, or None."""
        return None if self.seconds is None else round(self.seconds * self.rate)

    def frames(self, samples: int) -> int:
        """Frames that `samples` samples give, after padding."""
        return max(samples, self.samples or 0) // self.hop


def hz_to_mel(hz: np.ndarray) -> np.ndarray:
    """Slaney mel scale, float64."""
    high = _BREAK_MEL + np.log(np.maximum(hz, _BREAK_HZ) / _BREAK_HZ) / _LOG_STEP
    return np.where(hz < _BREAK_HZ, hz / _HZ_PER_MEL, high)


def mel_to_hz(mel: np.ndarray) -> np.ndarray:
    """Inverse of `hz_to_mel`, float64."""
    high = _BREAK_HZ * np.exp((np.maximum(mel, _BREAK_MEL) - _BREAK_MEL) * _LOG_STEP)
    return np.where(mel < _BREAK_MEL, mel * _HZ_PER_MEL, high)


@lru_cache(maxsize=16)
def mel_filters(config: MelConfig) -> torch.Tensor:
    """Triangular filters of equal area on the Slaney scale, float32 [mels, window // 2 + 1].

    The result is cached: do not write into it.
    """
    bins = np.linspace(0.0, config.rate / 2, config.window // 2 + 1)
    ends = hz_to_mel(np.array([config.low, config.high], dtype=np.float64))
    edges = mel_to_hz(np.linspace(ends[0], ends[1], config.mels + 2))
    rising = (bins[None, :] - edges[:-2, None]) / np.diff(edges)[:-1, None]
    falling = (edges[2:, None] - bins[None, :]) / np.diff(edges)[1:, None]
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    return torch.from_numpy((triangles * (2.0 / (edges[2:] - edges[:-2]))[:, None]).astype(np.float32))


def pad_or_trim(audio: torch.Tensor, samples: int) -> torch.Tensor:
    """Cut [..., n] to `samples`, or extend it with silence."""
    return torch.nn.functional.pad(audio[..., :samples], (0, max(0, samples - audio.shape[-1])))


def log_mel(audio: np.ndarray | torch.Tensor, config: MelConfig | None = None) -> torch.Tensor:
    """Log-mel spectrogram of mono audio.

    audio: float [n] or [N, n] at `config.rate`, in [-1, 1].  Returns float32 [mels, frames] or [N, mels,
    frames]. Raises MediaError when the audio is longer than the fixed length (cut it first: nothing is
    dropped silently) or too short for one window.  Equal to openai-whisper's `log_mel_spectrogram` after its
    `pad_or_trim`.
    """
    config = config or MelConfig()
    wave = torch.as_tensor(audio, dtype=torch.float32)
    if wave.ndim not in (1, 2):
        raise MediaError(f"log_mel expects mono audio [n] or [N, n], found shape {list(wave.shape)}")
    if config.samples is not None:
        if wave.shape[-1] > config.samples:
            raise MediaError(
                f"recording of {wave.shape[-1] / config.rate:.2f} s is longer than the window of "
                f"{config.seconds:g} s; cut it into windows first"
            )
        wave = pad_or_trim(wave, config.samples)
    if wave.shape[-1] <= config.window // 2:
        raise MediaError(f"recording of {wave.shape[-1]} samples is shorter than half a window ({config.window // 2})")
    # The last frame of the centred transform is dropped.
    logs = log_power(wave, config, center=True)[..., :-1]
    return normalise_log_power(logs, logs.amax(dim=(-2, -1), keepdim=True))


def log_power(wave: torch.Tensor, config: MelConfig, center: bool) -> torch.Tensor:
    """log10 of the mel power of each frame, float32 [..., mels, frames].

    center: frames are centred on multiples of the hop, with reflected edges; else frame t begins at t * hop.
    """
    hann = torch.hann_window(config.window, device=wave.device)
    spectrum = torch.stft(wave, config.window, config.hop, window=hann, center=center, return_complex=True)
    power = spectrum.abs().square().contiguous()
    return (mel_filters(config).to(wave.device) @ power).clamp(min=1e-10).log10()


def normalise_log_power(logs: torch.Tensor, peak: torch.Tensor | float) -> torch.Tensor:
    """What a model takes: nothing more than 8 below the peak of the recording, scaled to about -1..1."""
    floor = peak - 8.0
    logs = torch.maximum(logs, floor) if isinstance(floor, torch.Tensor) else logs.clamp(min=floor)
    return (logs + 4.0) / 4.0
