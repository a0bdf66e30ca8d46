"""ViT-VQGAN (arXiv 2110.04627) as Unified-IO 2 keeps sound: a transformer each way, codes of length one.

    spectrogram [N, 1, H, W] -> patches -> linear + sines -> blocks -> norm -> relu -> linear -> norm
    -> nearest code by angle -> ids [N, h, w]                                                          (encode)
    ids -> code vectors of length one -> linear + sines -> blocks -> norm -> transposed convolution    (decode)

Trap: the last norm before the codes has a bias and no weight.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.generators.codebook import Codebook
from polymodal.nn.activation import activation
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.block import PreNormBlockConfig
from polymodal.nn.computed import computed_buffer
from polymodal.nn.linear import LinearConfig
from polymodal.nn.mask import PreparedMask
from polymodal.nn.mlp import MLPConfig
from polymodal.nn.norm import LayerNormConfig


@dataclass(frozen=True, kw_only=True)
class ViTSideConfig:
    """The transformer of one way."""

    width: int
    heads: int
    depth: int
    ffn_width: int
    activation: str = "relu"

    def build(self) -> ViTSide:
        return ViTSide(self)


@dataclass(frozen=True, kw_only=True)
class ViTVQCodecConfig:
    """height, width: of a spectrogram, in patches of `patch`.  codes, code_width: the codebook."""

    height: int
    width: int
    patch: int
    codes: int
    code_width: int
    encoder: ViTSideConfig
    decoder: ViTSideConfig

    @property
    def grid(self) -> tuple[int, int]:
        return self.height // self.patch, self.width // self.patch

    def build(self) -> ViTVQCodec:
        return ViTVQCodec(self)


class ViTSide(nn.Module):
    """Blocks that see both ways, and the norm after them."""

    def __init__(self, config: ViTSideConfig) -> None:
        super().__init__()
        norm = LayerNormConfig(eps=1e-6)
        block = PreNormBlockConfig(
            attention=AttentionConfig(width=config.width, heads=config.heads),
            mlp=MLPConfig(width=config.width, ffn_width=config.ffn_width, activation=config.activation),
            norm=norm,
        )
        self.blocks = nn.ModuleList(block.build() for _ in range(config.depth))
        self.norm = norm.build(config.width)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, PreparedMask())
        return self.norm(x)


class ViTVQCodec(nn.Module):
    """See the module docstring."""

    encoder_sines: Tensor
    decoder_sines: Tensor

    def __init__(self, config: ViTVQCodecConfig) -> None:
        super().__init__()
        self.config, linear = config, LinearConfig()
        self.act = activation(config.encoder.activation)
        self.embed = linear.build(config.patch**2, config.encoder.width, True)
        self.encoder, self.decoder = config.encoder.build(), config.decoder.build()
        self.encoder_proj = linear.build(config.encoder.width, config.code_width, False)
        self.code_bias = nn.Parameter(torch.zeros(config.code_width))
        self.codebook = Codebook(config.codes, config.code_width)
        self.decoder_proj = linear.build(config.code_width, config.decoder.width, False)
        self.to_pixels = nn.ConvTranspose2d(config.decoder.width, 1, config.patch, stride=config.patch, bias=False)
        for name, side in (("encoder_sines", config.encoder), ("decoder_sines", config.decoder)):
            computed_buffer(self, name, lambda side=side: sines(side.width, config.grid), persistent=False)  # type: ignore[misc]

    def encode(self, spectrograms: Tensor) -> Tensor:
        """`[N, 1, H, W] -> ids [N, h, w]` int64."""
        patches = F.unfold(spectrograms, self.config.patch, stride=self.config.patch).transpose(1, 2)
        x = self.encoder(self.embed(patches) + self.encoder_sines)
        x = self.encoder_proj(self.act(x))
        x = F.layer_norm(x, x.shape[-1:], None, self.code_bias, 1e-6)
        table = F.normalize(self.codebook.embedding.weight, dim=-1)
        distance = 2 - 2 * F.normalize(x, dim=-1) @ table.T
        return distance.argmin(-1).unflatten(1, self.config.grid)

    def decode(self, ids: Tensor) -> Tensor:
        """`ids [N, h, w] -> spectrograms [N, 1, H, W]`."""
        x = self.decoder_proj(F.normalize(self.codebook(ids.flatten(1)), dim=-1)) + self.decoder_sines
        return self.to_pixels(self.decoder(x).transpose(1, 2).unflatten(2, self.config.grid))


def sines(width: int, grid: tuple[int, int]) -> Tensor:
    """Sines and cosines of columns, then of rows, float32 [h * w, width]."""
    steps = 1.0 / 10000.0 ** (torch.arange(width // 4, dtype=torch.float32) / (width / 4.0))
    rows, columns = torch.meshgrid(*(torch.arange(each).float() for each in grid), indexing="ij")
    angles = [place.flatten()[:, None] * steps for place in (columns, rows)]
    return torch.cat([part for each in angles for part in (each.sin(), each.cos())], 1)
