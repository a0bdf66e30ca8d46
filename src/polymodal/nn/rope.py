"""Rotary position embedding (arXiv 2104.09864) with the published context extensions.

    rope = RopeConfig(head_dim=64, theta=10000.0).build()
    cos, sin = rope(position_ids)                  # once per forward, shared by all layers: [B, 1, T, R]
    q = apply_rope(q, cos, sin, interleaved=False) # q [B, H, T, E], R <= E dims are rotated

There are two layouts of the rotated pairs: half-split (dims i and i + R/2; Hugging Face checkpoints) and
interleaved (dims 2i and 2i + 1; Meta, GGUF, ChatGLM).  They differ by a permutation of the rows of q_proj and
k_proj, so a checkpoint loaded with the wrong layout runs and gives wrong results.
M-RoPE (arXiv 2409.12191): ``sections`` is the number of frequencies of each axis of ``position_ids [axes, B, T]``;
with ``restart`` each section starts at the highest frequency (2-D rotary of vision encoders).
xPos (arXiv 2212.10554): ``xpos_base``; queries shrink with their position and keys grow, so that scores of what is far
are smaller.
Trap: ``sin`` includes the sign of the rotation (minus for the first member of a pair), which saves an operation.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from polymodal.errors import ConfigError
from polymodal.nn.constant import constant
from polymodal.nn.segments import largest_within

Rotation = tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Tensor, Tensor]
"""cos, sin ``[B, 1, T, R]`` of queries and keys; with xPos those of the queries, then those of the keys."""


class RopeScaling(Protocol):
    """A context extension: modifies the frequencies of a trained rope.

    by_row: frequencies that depend on the length take that of each row, not of the longest one in the batch.
    """

    by_row: ClassVar[bool]

    @property
    def threshold(self) -> int | None:
        """Frequencies depend on the length for sequences longer than this; None: they never do."""
        ...

    def frequencies(self, dim: int, theta: float, length: Tensor) -> tuple[Tensor, float]:
        """Frequencies ``[..., dim / 2]`` for sequences of ``length`` int [...], and the factor for cos and sin.

        With a threshold they are on the device of ``length``, without synchronisation with the host; without one they
        are ``[dim / 2]``.
        """
        ...


def base_frequencies(dim: int, theta: float | Tensor) -> Tensor:
    """``theta ** (-2i / dim)`` for i < dim / 2, in float64 (float32 if the device has none); theta: ``[..., 1]``."""
    like = theta if isinstance(theta, Tensor) else torch.empty((), dtype=torch.float64, device="cpu")
    return theta ** -(torch.arange(0, dim, 2, dtype=like.dtype, device=like.device) / dim)


def _wide(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


@dataclass(frozen=True, kw_only=True)
class LinearScaling:
    """Position interpolation (arXiv 2306.15595): positions divided by ``factor``."""

    by_row: ClassVar[bool] = False
    threshold: ClassVar[None] = None
    factor: float

    def frequencies(self, dim: int, theta: float, length: Tensor) -> tuple[Tensor, float]:
        return base_frequencies(dim, theta) / self.factor, 1.0


@dataclass(frozen=True, kw_only=True)
class NTKScaling:
    """NTK-aware scaling: a larger theta.  Fixed if ``trained_length`` is None; otherwise dynamic: theta is unchanged
    up to ``trained_length`` and grows with longer sequences.

    Trap: with the dynamic form, cached decoding beyond ``trained_length`` differs from the full forward, because
    earlier keys were rotated with a smaller theta; the published models do the same.
    """

    by_row: ClassVar[bool] = False
    factor: float
    trained_length: int | None = None

    @property
    def threshold(self) -> int | None:
        return self.trained_length

    def frequencies(self, dim: int, theta: float, length: Tensor) -> tuple[Tensor, float]:
        if self.trained_length is None:
            return base_frequencies(dim, theta * self.factor ** (dim / (dim - 2))), 1.0
        longest = length[..., None].to(_wide(length.device)).clamp_min(self.trained_length)
        stretch = self.factor * longest / self.trained_length - (self.factor - 1)
        return base_frequencies(dim, theta * stretch ** (dim / (dim - 2))), 1.0


@dataclass(frozen=True, kw_only=True)
class StepNTKScaling:
    """NTK-aware scaling whose theta grows in steps: by 2 ** s - 1 where the length needs s doublings beyond half of
    ``trained_length`` (Qwen, arXiv 2309.16609).

    Trap: cached decoding across a step differs from the full forward, as for `NTKScaling`.
    """

    by_row: ClassVar[bool] = True
    trained_length: int

    @property
    def threshold(self) -> int:
        return self.trained_length

    def frequencies(self, dim: int, theta: float, length: Tensor) -> tuple[Tensor, float]:
        longest = length[..., None].to(_wide(length.device)).clamp_min(self.trained_length)
        stretch = 2.0 ** ((longest / self.trained_length).log2() + 1).ceil() - 1
        return base_frequencies(dim, theta * stretch ** (dim / (dim - 2))), 1.0


@dataclass(frozen=True, kw_only=True)
class YarnScaling:
    """YaRN (arXiv 2309.00071): keeps high frequencies, interpolates low ones, with a ramp between; scales the logits.

    ``attention_factor`` None means the paper's ``0.1 ln(factor) + 1``.
    """

    by_row: ClassVar[bool] = False
    threshold: ClassVar[None] = None
    factor: float
    trained_length: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    truncate: bool = True

    def frequencies(self, dim: int, theta: float, length: Tensor) -> tuple[Tensor, float]:
        def dim_of(rotations: float) -> float:
            return dim * math.log(self.trained_length / (rotations * 2 * math.pi)) / (2 * math.log(theta))

        low, high = dim_of(self.beta_fast), dim_of(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, dim - 1)
        ramp = (torch.arange(dim // 2, dtype=torch.float64) - low) / (high - low or 1e-3)
        interpolated = ramp.clamp(0, 1)
        base = base_frequencies(dim, theta)
        frequencies = base / self.factor * interpolated + base * (1 - interpolated)
        default = 0.1 * math.log(self.factor) + 1.0 if self.factor > 1 else 1.0
        return frequencies, default if self.attention_factor is None else self.attention_factor


@dataclass(frozen=True, kw_only=True)
class Llama3Scaling:
    """Llama 3.1 (arXiv 2407.21783): frequencies with long wavelengths are divided by ``factor``, with a ramp."""

    by_row: ClassVar[bool] = False
    threshold: ClassVar[None] = None
    factor: float
    trained_length: int
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0

    def frequencies(self, dim: int, theta: float, length: Tensor) -> tuple[Tensor, float]:
        base = base_frequencies(dim, theta)
        rotations = self.trained_length * base / (2 * math.pi)
        low, high = self.low_frequency_factor, self.high_frequency_factor
        keep = ((rotations - low) / (high - low)).clamp(0, 1)
        return base * keep + base / self.factor * (1 - keep), 1.0


@dataclass(frozen=True, kw_only=True)
class LongRopeScaling:
    """LongRoPE (arXiv 2402.13753): one divisor per frequency, those of ``long`` beyond ``trained_length``.

    attention_factor: factor for cos and sin.
    """

    by_row: ClassVar[bool] = False
    short: tuple[float, ...]
    long: tuple[float, ...]
    trained_length: int
    attention_factor: float = 1.0

    @property
    def threshold(self) -> int | None:
        return self.trained_length

    def frequencies(self, dim: int, theta: float, length: Tensor) -> tuple[Tensor, float]:
        short, long = (_divided(dim, theta, divisors, length.device) for divisors in (self.short, self.long))
        return torch.where(length[..., None] > self.trained_length, long, short), self.attention_factor


@lru_cache(maxsize=64)
def _divided(dim: int, theta: float, divisors: tuple[float, ...], device: torch.device) -> Tensor:
    if len(divisors) != dim // 2:
        raise ConfigError(f"longrope: expected {dim // 2} divisors, one per frequency, found {len(divisors)}")
    frequencies = base_frequencies(dim, theta) / torch.tensor(divisors, dtype=torch.float64, device="cpu")
    return frequencies.to(device, _wide(device))


@dataclass(frozen=True, kw_only=True)
class ProportionalScaling:
    """Rotates with the first ``share`` of the frequencies, divided by ``factor``; the other dims are not rotated."""

    by_row: ClassVar[bool] = False
    threshold: ClassVar[None] = None
    share: float
    factor: float = 1.0

    def frequencies(self, dim: int, theta: float, length: Tensor) -> tuple[Tensor, float]:
        rotated = int(self.share * dim // 2)
        frequencies = base_frequencies(dim, theta) / self.factor
        return torch.cat((frequencies[:rotated], torch.zeros(dim // 2 - rotated, dtype=torch.float64))), 1.0


@dataclass(frozen=True, kw_only=True)
class RopeConfig:
    """The leading ``rotary_dim`` (default ``head_dim``) dims of each head are rotated, the others are not.

    xpos_base: positions over which pair i of a score shrinks to its share (2i + 0.4 R) / 1.4 R (xPos); None: never.
    """

    head_dim: int
    theta: float = 10000.0
    interleaved: bool = False
    scaling: RopeScaling | None = None
    sections: tuple[int, ...] | None = None
    restart: bool = False
    rotary_dim: int | None = None
    xpos_base: float | None = None

    def __post_init__(self) -> None:
        dim = self.dim
        if dim % 2 or not 0 < dim <= self.head_dim:
            raise ConfigError(f"rope: rotary_dim must be even and at most head_dim {self.head_dim}; found {dim}")
        if self.sections is not None and sum(self.sections) != dim // 2:
            raise ConfigError(f"rope: sections must add up to {dim // 2} frequencies, found {self.sections}")
        if self.restart and (self.sections is None or self.scaling is not None):
            raise ConfigError("rope: restart needs sections and does not support scaling")
        if self.xpos_base is not None and (self.xpos_base <= 0 or self.sections is not None):
            raise ConfigError(f"rope: xpos_base must be above 0 and stands without sections; found {self.xpos_base}")

    @property
    def dim(self) -> int:
        return self.head_dim if self.rotary_dim is None else self.rotary_dim

    def build(self) -> "Rope":
        return Rope(self)


class Rope:
    """Positions -> cos and sin.

    It has no parameters and no buffers, so casting a model to bfloat16 does not round the frequencies; they are cached
    in float32 per device.
    """

    def __init__(self, config: RopeConfig):
        self.config = config
        self.interleaved = config.interleaved
        self._tables: dict[torch.device, tuple[Tensor, float]] = {}

    def __call__(
        self, position_ids: Tensor, dtype: torch.dtype = torch.float32, segments: Tensor | None = None
    ) -> Rotation:
        """``position_ids [B, T]`` (with sections also ``[axes, B, T]``) -> cos, sin ``[B, 1, T, R]``.

        With xPos four of them: the queries' cos and sin times the decay at their place, and the keys' divided by it.

        With sections, positions ``[B, T]`` are used for all axes (text).  segments ``[B, T]``: sequence numbers of
        packed rows; if frequencies depend on the length, that of each sequence is used.  Without segments it is the
        length of the longest sequence in the batch, as published, or that of each row (``RopeScaling.by_row``).
        """
        frequencies, factor = self._frequencies(position_ids, segments)
        angles = self._per_frequency(position_ids) * frequencies
        cos, sin = angles.cos() * factor, angles.sin() * factor
        if self.interleaved:
            cos, sin = cos.repeat_interleave(2, -1), torch.stack((-sin, sin), -1).flatten(-2)
        else:
            cos, sin = torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)
        cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
        if self.config.xpos_base is None:
            return cos.to(dtype), sin.to(dtype)
        decay = self._decay(position_ids, self.config.xpos_base).unsqueeze(1)
        return (cos * decay).to(dtype), (sin * decay).to(dtype), (cos / decay).to(dtype), (sin / decay).to(dtype)

    def _decay(self, position_ids: Tensor, base: float) -> Tensor:
        """``[B, T, R]``, the share of each pair to the power of position / base."""
        dim = self.config.dim
        shares = (torch.arange(0, dim, 2, device=position_ids.device).float() + 0.4 * dim) / (1.4 * dim)
        decay = shares ** (position_ids[..., None].float() / base)
        return decay.repeat_interleave(2, -1) if self.interleaved else torch.cat((decay, decay), -1)

    def _per_frequency(self, position_ids: Tensor) -> Tensor:
        sections = self.config.sections
        if position_ids.dim() == 2:
            return position_ids[..., None].float()
        if sections is None or position_ids.shape[0] != len(sections):
            raise ValueError(
                f"rope with sections {sections}: expected position_ids [B, T] or [axes, B, T] with one axis per "
                f"section, found {list(position_ids.shape)}"
            )
        owners = tuple(axis for axis, count in enumerate(sections) for _ in range(count))
        axes = constant(owners, torch.int64, position_ids.device)
        return position_ids[axes].movedim(0, -1).float()

    def _frequencies(self, position_ids: Tensor, segments: Tensor | None) -> tuple[Tensor, float]:
        config, device = self.config, position_ids.device
        scaling = config.scaling
        if scaling is not None and scaling.threshold is not None:
            # The length stays on its device, so the frequencies are computed there.
            last = position_ids if position_ids.dim() == 2 else position_ids.amax(0)
            if segments is not None:
                last = largest_within(last, segments)
            else:
                last = last.amax(-1, keepdim=True) if scaling.by_row else last.max()
            frequencies, factor = scaling.frequencies(config.dim, config.theta, last + 1)
            return frequencies.float(), factor
        if device not in self._tables:
            frequencies, factor = self._initial()
            self._tables[device] = frequencies.float().to(device), factor
        return self._tables[device]

    def _initial(self) -> tuple[Tensor, float]:
        config = self.config
        if config.restart:
            assert config.sections is not None
            return torch.cat([base_frequencies(2 * n, config.theta) for n in config.sections]), 1.0
        if config.scaling is None:
            return base_frequencies(config.dim, config.theta), 1.0
        return config.scaling.frequencies(config.dim, config.theta, torch.zeros((), device="cpu"))


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False) -> Tensor:
    """Rotate the leading ``R`` dims of ``x [B, H, T, E]`` by ``cos, sin [B, 1, T, R]``."""
    rotary = cos.shape[-1]
    if rotary < x.shape[-1]:
        head = apply_rope(x[..., :rotary], cos, sin, interleaved)
        return torch.cat((head, x[..., rotary:]), -1)
    swapped = x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2) if interleaved else x.roll(rotary // 2, -1)
    return torch.addcmul(x * cos, swapped, sin)
