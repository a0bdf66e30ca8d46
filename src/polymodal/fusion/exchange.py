"""Two streams that read each other: cross-attention both ways, then each stream by itself.

    text [B, T, D]  -> reads image --> norm(text + read)  -> block of the text stream  -> [B, T, D]
    image [B, R, D'] -> reads text --> norm(image + read) -> block of the image stream -> [B, R, D']

ViLBERT's co-attention (arXiv 1908.02265): two cross-attentions, a feed-forward part each.   LXMERT's cross-modality
layer (1908.07490): ONE cross-attention for both ways, then self-attention and a feed-forward part each.
Trap: both ways read what came into the layer, not each other's result.
"""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from polymodal.nn.attention import AttentionConfig
from polymodal.nn.mask import MaskSpec, PreparedMask
from polymodal.nn.mlp import FeedForwardConfig
from polymodal.nn.norm import NormConfig

Mask = MaskSpec | PreparedMask | None


class StreamBlockConfig(Protocol):
    """Config of what each stream does by itself: `build()` returns a module called as `f(x, mask)`."""

    def build(self) -> nn.Module: ...


@dataclass(frozen=True, kw_only=True)
class FeedForwardBlockConfig:
    """Feed-forward, residual, norm: a post-norm block without attention."""

    width: int
    mlp: FeedForwardConfig
    norm: NormConfig

    def build(self) -> "FeedForwardBlock":
        return FeedForwardBlock(self)


class FeedForwardBlock(nn.Module):
    """`[B, T, D] -> [B, T, D]`; the mask is not used."""

    def __init__(self, config: FeedForwardBlockConfig):
        super().__init__()
        self.mlp = config.mlp.build()
        self.mlp_norm = config.norm.build(config.width)

    def forward(self, x: Tensor, mask: Mask = None) -> Tensor:
        return self.mlp_norm(x + self.mlp(x))


class Reading(nn.Module):
    """Cross-attention, residual, norm: `[B, T, D]` and what it reads, `[B, S, D']` -> `[B, T, D]`."""

    def __init__(self, config: AttentionConfig, norm: NormConfig):
        super().__init__()
        self.attn = config.build()
        self.norm = norm.build(config.width)

    def forward(self, x: Tensor, source: Tensor, mask: Mask = None) -> Tensor:
        return self.norm(x + self.attn(x, mask, source=source))


@dataclass(frozen=True, kw_only=True)
class ExchangeConfig:
    """read_image: the text's cross-attention; read_text: the picture's, None: the same module for both ways."""

    read_image: AttentionConfig
    read_text: AttentionConfig | None
    text: StreamBlockConfig
    image: StreamBlockConfig
    norm: NormConfig

    def build(self) -> "Exchange":
        return Exchange(self)


class Exchange(nn.Module):
    """See the module docstring."""

    def __init__(self, config: ExchangeConfig):
        super().__init__()
        self.read_image = Reading(config.read_image, config.norm)
        self.read_text = None if config.read_text is None else Reading(config.read_text, config.norm)
        self.text = config.text.build()
        self.image = config.image.build()

    def forward(
        self, text: Tensor, image: Tensor, words: PreparedMask | None, regions: PreparedMask | None
    ) -> tuple[Tensor, Tensor]:
        """words, regions: which of the text's and of the picture's tokens are real; the same masks serve as keys of
        both readers."""
        back = self.read_image if self.read_text is None else self.read_text
        said, seen = self.read_image(text, image, regions), back(image, text, words)
        return self.text(said, words), self.image(seen, regions)
