"""ImageBind's encoders: image and video, audio, depth, thermal and IMU inputs as vectors in one joint space.

Paper: ImageBind (arXiv 2305.05665).  Text is CLIP's encoder (`clip_text.py`); names, sizes: `imagebind_keys.py`.

Flow
    values -> stem (tokens [N, P, D]) -> class token prepended -> + positions -> (pre_norm) -> pre-norm blocks
    -> final_norm -> class token -> proj [N, E] -> L2 normalised, times a fixed scale -> mean over clips

Traps
- Norms have eps 1e-6, those in the stems 1e-5.
- Audio, depth, thermal and IMU have an additional learned key and value in every layer; the softmax runs over S + 1
  keys.
- The image stem is a 3-D convolution over two frames; a still image is repeated to two frames.
- An input with 5 or more dimensions is [N, clips, ...]: clips are encoded separately and averaged AFTER scaling, so
  the mean does not have unit length.
- The audio stride (10) is smaller than the patch (16), so patches overlap; audio positions fit one length only.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.encoders.vit import ViTBlockConfig
from polymodal.errors import ConfigError
from polymodal.nn.attention import attend
from polymodal.nn.computed import computed_buffer
from polymodal.nn.linear import Linear
from polymodal.nn.mask import PreparedMask
from polymodal.nn.norm import NormConfig


@dataclass(frozen=True, kw_only=True)
class ExtraKeyAttentionConfig:
    """Self-attention with biases and one additional learned key and value (PyTorch's `add_bias_kv`)."""

    width: int
    heads: int

    def build(self) -> "ExtraKeyAttention":
        return ExtraKeyAttention(self)


class ExtraKeyAttention(nn.Module):
    """`[N, S, D] -> [N, S, D]`, softmax over S + 1 keys."""

    def __init__(self, config: ExtraKeyAttentionConfig) -> None:
        super().__init__()
        width = config.width
        if width % config.heads:
            raise ConfigError(f"imagebind: width must be a multiple of heads ({config.heads}), found {width}")
        self.config = config
        self.q_proj = Linear(width, width)
        self.k_proj = Linear(width, width)
        self.v_proj = Linear(width, width)
        self.o_proj = Linear(width, width)
        self.extra_key = nn.Parameter(torch.zeros(width))
        self.extra_value = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, mask: PreparedMask | None = None) -> Tensor:
        """Attention is bidirectional and inputs are never padded: raises ConfigError if a mask is passed."""
        if mask is not None:
            raise ConfigError("imagebind: attention with an extra key does not support a mask")
        shape = (x.shape[0], 1, -1)
        k = torch.cat((self.k_proj(x), self.extra_key.expand(shape)), 1)
        v = torch.cat((self.v_proj(x), self.extra_value.expand(shape)), 1)
        out = attend(self._heads(self.q_proj(x)), self._heads(k), self._heads(v), None)
        return self.o_proj(out.transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.config.heads, -1)).transpose(1, 2)


class StemConfig(Protocol):
    """Config of a stem: `build()` returns a module called as `f(values)` -> tokens [N, P, D]."""

    @property
    def width(self) -> int: ...

    @property
    def patches(self) -> int: ...

    @property
    def square(self) -> bool: ...

    def build(self) -> nn.Module: ...


@dataclass(frozen=True, kw_only=True)
class VideoStemConfig:
    """Patches that span `frames` frames; `size` and `patch` in pixels."""

    width: int
    size: int = 224
    patch: int = 14
    frames: int = 2

    @property
    def patches(self) -> int:
        return (self.size // self.patch) ** 2

    @property
    def square(self) -> bool:
        """Whether the patches form a square grid, so that positions can be resized."""
        return True

    def build(self) -> "VideoStem":
        return VideoStem(self)


class VideoStem(nn.Module):
    """[N, 3, H, W] or [N, 3, T, H, W] -> [N, P, D]"""

    def __init__(self, config: VideoStemConfig) -> None:
        super().__init__()
        self.frames = config.frames
        kernel = (config.frames, config.patch, config.patch)
        self.proj = nn.Conv3d(3, config.width, kernel, stride=kernel, bias=False)

    def forward(self, values: Tensor) -> Tensor:
        if values.dim() == 4:
            values = values[:, :, None]
        if values.shape[2] == 1:
            values = values.expand(-1, -1, self.frames, -1, -1)
        return self.proj(values.to(self.proj.weight.dtype)).flatten(2).transpose(1, 2)


@dataclass(frozen=True, kw_only=True)
class PlaneStemConfig:
    """Patches of a one-channel map (mel spectrogram, depth, thermal), then a norm; `size` is (rows, columns)."""

    width: int
    norm: NormConfig
    size: tuple[int, int] = (224, 224)
    patch: int = 16
    stride: int = 16

    @property
    def patches(self) -> int:
        rows, columns = ((side - self.patch) // self.stride + 1 for side in self.size)
        return rows * columns

    @property
    def square(self) -> bool:
        return False

    def build(self) -> "PlaneStem":
        return PlaneStem(self)


class PlaneStem(nn.Module):
    """[N, 1, H, W] -> [N, P, D]"""

    def __init__(self, config: PlaneStemConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(1, config.width, config.patch, stride=config.stride, bias=False)
        self.norm = config.norm.build(config.width)

    def forward(self, values: Tensor) -> Tensor:
        return self.norm(self.proj(values.to(self.proj.weight.dtype)).flatten(2).transpose(1, 2))


@dataclass(frozen=True, kw_only=True)
class SeriesStemConfig:
    """Non-overlapping windows of `kernel` samples over `channels` time series, then a norm."""

    width: int
    norm: NormConfig
    channels: int = 6
    samples: int = 2000
    kernel: int = 8

    @property
    def patches(self) -> int:
        return self.samples // self.kernel

    @property
    def square(self) -> bool:
        return False

    def build(self) -> "SeriesStem":
        return SeriesStem(self)


class SeriesStem(nn.Module):
    """[N, channels, samples] -> [N, P, D]; a window is flattened channel by channel."""

    def __init__(self, config: SeriesStemConfig) -> None:
        super().__init__()
        self.kernel = config.kernel
        self.proj = nn.Linear(config.channels * config.kernel, config.width, bias=False)
        self.norm = config.norm.build(config.width)

    def forward(self, values: Tensor) -> Tensor:
        windows = values.to(self.proj.weight.dtype).unfold(-1, self.kernel, self.kernel)
        return self.norm(self.proj(windows.transpose(1, 2).flatten(2)))


@dataclass(frozen=True, kw_only=True)
class ImageBindEncoderConfig:
    """The encoder of one modality; `out_width`: width of the joint space, None: neither that linear nor the norm before
    it, for systems that read the blocks' tokens."""

    stem: StemConfig
    blocks: tuple[ViTBlockConfig, ...]
    norm: NormConfig
    out_width: int | None
    pre_norm: bool = False

    @property
    def tokens(self) -> int:
        return self.stem.patches + 1

    def build(self) -> "ImageBindEncoder":
        return ImageBindEncoder(self)


class ImageBindEncoder(nn.Module):
    """`forward`: features `[N, 1 + P, D]` after the final norm; `joint`: vectors `[N, E]`, not normalised."""

    def __init__(self, config: ImageBindEncoderConfig) -> None:
        super().__init__()
        width = config.stem.width
        self.config = config
        self.stem = config.stem.build()
        self.class_token = nn.Parameter(torch.zeros(width))
        self.positions = nn.Parameter(torch.empty(config.tokens, width))
        nn.init.normal_(self.positions, std=width**-0.5)
        self.pre_norm = config.norm.build(width) if config.pre_norm else None
        self.blocks = nn.ModuleList(block.build() for block in config.blocks)
        joint = config.out_width
        self.final_norm = None if joint is None else config.norm.build(width)
        self.proj = None if joint is None else nn.Linear(width, joint, bias=False)

    def forward(self, values: Tensor) -> Tensor:
        """Raises ConfigError for an input length or size that the positions do not fit."""
        x = self.stem(values)
        x = torch.cat((self.class_token.expand(x.shape[0], 1, -1), x), 1) + self._positions(x.shape[1])
        x = x if self.pre_norm is None else self.pre_norm(x)
        for block in self.blocks:
            x = block(x)
        return x if self.final_norm is None else self.final_norm(x)

    def joint(self, values: Tensor) -> Tensor:
        """Raises ConfigError for an encoder without the linear to the joint space."""
        if self.proj is None:
            raise ConfigError("imagebind: this encoder was built for its tokens, without the joint space")
        return self.proj(self(values)[:, 0])

    def _positions(self, patches: int) -> Tensor:
        expected = self.config.stem.patches
        if patches == expected:
            return self.positions
        side = math.isqrt(expected)
        if not self.config.stem.square or math.isqrt(patches) ** 2 != patches:
            raise ConfigError(f"imagebind: expected an input of {expected} patches, found {patches}; resize it")
        plane = self.positions[1:].float().T.reshape(1, -1, side, side)
        plane = F.interpolate(plane, scale_factor=math.sqrt(patches / expected), mode="bicubic", align_corners=False)
        return torch.cat((self.positions[:1], plane[0].flatten(1).T.to(self.positions.dtype)))


class ScaledNormalize(nn.Module):
    """`[..., E]` -> L2 normalised, times exp(log_scale), which is capped at 100."""

    log_scale: nn.Parameter | Tensor

    def __init__(self, scale: float, learned: bool = False) -> None:
        super().__init__()
        if learned:
            self.log_scale = nn.Parameter(torch.tensor([math.log(scale)]))
        else:
            computed_buffer(self, "log_scale", lambda: torch.tensor([math.log(scale)]))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=-1) * self.log_scale.exp().clip(max=100.0)


class ImageBindTokens(nn.Module):
    """An encoder without head whose tokens are normalised each, scaled, and averaged over clips place by place.

    [N, clips, ...] -> [N, 1 + P, D]
    """

    def __init__(self, encoder: ImageBindEncoder, scale: ScaledNormalize) -> None:
        super().__init__()
        self.encoder = encoder
        self.scale = scale

    def forward(self, values: Tensor) -> Tensor:
        tokens = self.scale(self.encoder(values.flatten(0, 1)))
        return tokens.unflatten(0, values.shape[:2]).mean(1)


class ImageBindClips(nn.Module):
    """An encoder with `joint`, normalisation and pooling over clips: `[N, ...]` or `[N, clips, ...]` -> `[N, E]`.

    scale: module applied after the projection; None: L2 normalisation.
    """

    def __init__(self, encoder: nn.Module, scale: ScaledNormalize | None) -> None:
        super().__init__()
        self.encoder = encoder
        self.scale = scale

    def forward(self, values: Tensor) -> Tensor:
        has_clips = values.dim() >= 5
        joint = self.encoder.joint(values.flatten(0, 1) if has_clips else values)  # type: ignore[operator]
        vectors = F.normalize(joint, dim=-1) if self.scale is None else self.scale(joint)
        return vectors.unflatten(0, values.shape[:2]).mean(1) if has_clips else vectors
