"""Rotary position embedding (arXiv 2104.09864) with the published ways to stretch it.

    rope = RopeConfig(head_dim=64, theta=10000.0).build()
    cos, sin = rope(position_ids)                  # once per forward, shared by all layers: [B, 1, T, R]
    q = apply_rope(q, cos, sin, interleaved=False) # q [B, H, T, E], R <= E dims are rotated

Two layouts of the rotated pairs exist: half-split (dims i and i + R/2; Hugging Face checkpoints) and
interleaved (dims 2i and 2i + 1; Meta, GGUF, ChatGLM).  They differ by a permutation of the rows of q_proj and
k_proj, so a checkpoint of one layout read as the other runs and is wrong.
M-RoPE (arXiv 2409.12191): ``sections`` says how many frequencies each axis of ``position_ids [axes, B, T]``
takes; with ``restart`` each section counts its frequencies anew (2-D rotary of vision encoders).
Trap: ``sin`` carries the sign of the rotation (minus on a pair's first member), which saves an operation.
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


class RopeScaling(Protocol):
    """Changes the frequencies of a trained rope so that it reaches further."""

    @property
    def border(self) -> int | None:
        """Sequences longer than this have frequencies of their own; None: all lengths share theirs."""
        ...

    def frequencies(self, dim: int, theta: float, length: Tensor) -> tuple[Tensor, float]:
        """Frequencies ``[..., dim / 2]`` for sequences of ``length`` int [...] and the factor on cos and sin.

        Where there is a border they lie on the device of ``length``, which is not read back to the host; those of
        other scalings are ``[dim / 2]``.
        """
        ...


def base_frequencies(dim: int, theta: float | Tensor) -> Tensor:
    """``theta ** (-2i / dim)`` for i < dim / 2, float64 (float32 on devices without it); theta may be ``[..., 1]``."""
    like = theta if isinstance(theta, Tensor) else torch.empty((), dtype=torch.float64, device="cpu")
    return theta ** -(torch.arange(0, dim, 2, dtype=like.dtype, device=like.device) / dim)


def _wide(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


@dataclass(frozen=True, kw_only=True)
class LinearScaling:
    """Position interpolation (arXiv 2306.15595): positions divided by ``factor``."""

    border: ClassVar[None] = None
    factor: float

    def frequencies(self, dim: int, theta: float, length: Tensor) -> tuple[Tensor, float]:
        return base_frequencies(dim, theta) / self.factor, 1.0


@dataclass(frozen=True, kw_only=True)
class NTKScaling:
    """NTK-aware scaling: a larger theta.  Fixed when ``trained_length`` is None; otherwise dynamic: nothing
    changes up to ``trained_length`` and theta grows with the sequence beyond it.

    Trap: with the dynamic form a cached step beyond ``trained_length`` differs from the full pass, because
    earlier keys were rotated with a smaller theta; that is how the published models run, too.
    """

    factor: float
    trained_length: int | None = None

    @property
    def border(self) -> int | None:
        return self.trained_length

    def frequencies(self, dim: int, theta: float, length: Tensor) -> tuple[Tensor, float]:
        if self.trained_length is None:
            return base_frequencies(dim, theta * self.factor ** (dim / (dim - 2))), 1.0
        longest = length[..., None].to(_wide(length.device)).clamp_min(self.trained_length)
        stretch = self.factor * longest / self.trained_length - (self.factor - 1)
        return base_frequencies(dim, theta * stretch ** (dim / (dim - 2))), 1.0


@dataclass(frozen=True, kw_only=True)
class YarnScaling:
    """YaRN (arXiv 2309.00071): fast frequencies kept, slow ones interpolated, a ramp between, logits warmed.

    ``attention_factor`` None means the paper's ``0.1 ln(factor) + 1``.
    """

    border: ClassVar[None] = None
    factor: float
    trained_length: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    truncate: bool = True

    def frequencies(self, dim: int, theta: float, length: Tensor) -> tuple[Tensor, float]:
        def turning_dim(turns: float) -> float:
            return dim * math.log(self.trained_length / (turns * 2 * math.pi)) / (2 * math.log(theta))

        low, high = turning_dim(self.beta_fast), turning_dim(self.beta_slow)
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
    """Llama 3.1's rule (arXiv 2407.21783): by wavelength, long ones divided by ``factor``, a ramp between."""

    border: ClassVar[None] = None
    factor: float
    trained_length: int
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0

    def frequencies(self, dim: int, theta: float, length: Tensor) -> tuple[Tensor, float]:
        base = base_frequencies(dim, theta)
        turns = self.trained_length * base / (2 * math.pi)
        low, high = self.low_frequency_factor, self.high_frequency_factor
        keep = ((turns - low) / (high - low)).clamp(0, 1)
        return base * keep + base / self.factor * (1 - keep), 1.0


@dataclass(frozen=True, kw_only=True)
class LongRopeScaling:
    """LongRoPE (arXiv 2402.13753): a divisor for each frequency, `long` ones beyond ``trained_length``.

    attention_factor: on cos and sin.
    """

    short: tuple[float, ...]
    long: tuple[float, ...]
    trained_length: int
    attention_factor: float = 1.0

    @property
    def border(self) -> int | None:
        return self.trained_length

    def frequencies(self, dim: int, theta: float, length: Tensor) -> tuple[Tensor, float]:
        near, far = (_divided(dim, theta, divisors, length.device) for divisors in (self.short, self.long))
        return torch.where(length[..., None] > self.trained_length, far, near), self.attention_factor


@lru_cache(maxsize=64)
def _divided(dim: int, theta: float, divisors: tuple[float, ...], device: torch.device) -> Tensor:
    if len(divisors) != dim // 2:
        raise ConfigError(f"longrope needs {dim // 2} divisors, one for each frequency; found {len(divisors)}")
    made = base_frequencies(dim, theta) / torch.tensor(divisors, dtype=torch.float64, device="cpu")
    return made.to(device, _wide(device))


@dataclass(frozen=True, kw_only=True)
class ProportionalScaling:
    """The first ``share`` of the frequencies, divided by ``factor``; the other dims of a head do not turn."""

    border: ClassVar[None] = None
    share: float
    factor: float = 1.0

    def frequencies(self, dim: int, theta: float, length: Tensor) -> tuple[Tensor, float]:
        turning = int(self.share * dim // 2)
        frequencies = base_frequencies(dim, theta) / self.factor
        return torch.cat((frequencies[:turning], torch.zeros(dim // 2 - turning, dtype=torch.float64))), 1.0


@dataclass(frozen=True, kw_only=True)
class RopeConfig:
    """``rotary_dim`` (default ``head_dim``) leading dims of each head are rotated, the rest pass through."""

    head_dim: int
    theta: float = 10000.0
    interleaved: bool = False
    scaling: RopeScaling | None = None
    sections: tuple[int, ...] | None = None
    restart: bool = False
    rotary_dim: int | None = None

    def __post_init__(self) -> None:
        dim = self.dim
        if dim % 2 or not 0 < dim <= self.head_dim:
            raise ConfigError(f"rope needs an even rotary_dim within head_dim {self.head_dim}; found {dim}")
        if self.sections is not None and sum(self.sections) != dim // 2:
            raise ConfigError(f"rope sections {self.sections} must add up to {dim // 2} frequencies")
        if self.restart and (self.sections is None or self.scaling is not None):
            raise ConfigError("rope with restart needs sections and takes no scaling")

    @property
    def dim(self) -> int:
        return self.head_dim if self.rotary_dim is None else self.rotary_dim

    def build(self) -> "Rope":
        return Rope(self)


class Rope:
    """Positions -> cos and sin.  Holds no parameters and no buffers, so casting a model to bfloat16 cannot
    round the frequencies; they are kept in float32 once per device."""

    def __init__(self, config: RopeConfig):
        self.config = config
        self.interleaved = config.interleaved
        self._tables: dict[torch.device, tuple[Tensor, float]] = {}

    def __call__(
        self, position_ids: Tensor, dtype: torch.dtype = torch.float32, segments: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """``position_ids [B, T]`` (with sections also ``[axes, B, T]``) -> cos, sin ``[B, 1, T, R]``.

        Plain positions given to a rope with sections count for every axis alike (pure text).  segments ``[B, T]``:
        the sequences of packed rows, each of which has a length of its own where frequencies depend on it; without
        them the longest of the batch counts for all, as published.
        """
        frequencies, factor = self._frequencies(position_ids, segments)
        angles = self._per_frequency(position_ids) * frequencies
        cos, sin = angles.cos() * factor, angles.sin() * factor
        if self.interleaved:
            cos, sin = cos.repeat_interleave(2, -1), torch.stack((-sin, sin), -1).flatten(-2)
        else:
            cos, sin = torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)
        return cos.unsqueeze(1).to(dtype), sin.unsqueeze(1).to(dtype)

    def _per_frequency(self, position_ids: Tensor) -> Tensor:
        sections = self.config.sections
        if position_ids.dim() == 2:
            return position_ids[..., None].float()
        if sections is None or position_ids.shape[0] != len(sections):
            raise ValueError(
                f"position_ids {list(position_ids.shape)} do not fit a rope with sections {sections}; "
                "expected [B, T] or [axes, B, T] with one axis per section"
            )
        owners = tuple(axis for axis, count in enumerate(sections) for _ in range(count))
        axes = constant(owners, torch.int64, position_ids.device)
        return position_ids[axes].movedim(0, -1).float()

    def _frequencies(self, position_ids: Tensor, segments: Tensor | None) -> tuple[Tensor, float]:
        config, device = self.config, position_ids.device
        scaling = config.scaling
        if scaling is not None and scaling.border is not None:
            # The length stays on its device: what depends on it is computed there.
            last = position_ids if position_ids.dim() == 2 else position_ids.amax(0)
            last = last.max() if segments is None else largest_within(last, segments)
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
