"""CLIP's image encoder with the head applied to every token instead of the class token only (LLaMA-Adapter V2).

pixel_values [N, 3, H, W] -> ViT -> [N, S, D] -> head.norm -> head.proj -> [N, S, E], class token first
"""

from dataclasses import dataclass

from torch import Tensor, nn

from polymodal.encoders.vit import ViTConfig
from polymodal.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ClipTokensConfig:
    """`vit` needs a head with norm and out_width, as `clip_vit.clip_vit` builds it."""

    vit: ViTConfig

    def __post_init__(self) -> None:
        head = self.vit.head
        if head is None or head.norm is None or head.out_width is None or head.hidden_width is not None:
            raise ConfigError("clip tokens: the ViT needs a head with a norm and a projection, and no dense layer")

    @property
    def width(self) -> int:
        """Width of the features, which is that of the joint space."""
        assert self.vit.head is not None and self.vit.head.out_width is not None
        return self.vit.head.out_width

    def build(self) -> "ClipTokens":
        """Build the encoder with fresh weights."""
        return ClipTokens(self)


class ClipTokens(nn.Module):
    """`[N, 3, H, W] -> [N, S, E]`"""

    def __init__(self, config: ClipTokensConfig) -> None:
        super().__init__()
        self.vit = config.vit.build()

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Normalised pixels -> projected tokens."""
        head = self.vit.head
        assert head is not None and head.norm is not None and head.proj is not None
        features: Tensor = head.proj(head.norm(self.vit(pixel_values)))
        return features
