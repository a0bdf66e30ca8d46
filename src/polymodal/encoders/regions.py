"""Regions of a picture as tokens: what a detector says of each box, and where the box is.

    features [N, R, F] -> linear (-> norm) --+
    positions [N, R, P] -> linear (-> norm) -+-> sum or mean (+ a type) (-> norm) -> [N, R, D]

ViLBERT (arXiv 1908.02265): sum, norm of the sum; P = 5.   LXMERT (1908.07490): mean of two norms, P = 4.
UNITER (1909.11740): sum of two norms and a type, norm of the sum, P = 7; a learned vector is added to hidden features.
`region_positions` makes the P numbers of normalised boxes.
Traps: ViLBERT's area is of the picture's, LXMERT has none, UNITER adds width and height before it.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.nn.norm import NormConfig

POSITIONS = (4, 5, 7)


def region_positions(boxes: Tensor, numbers: int) -> Tensor:
    """Boxes [..., 4] (x1, y1, x2, y2 as shares of the picture) -> [..., numbers]: 4 themselves, 5 with the area, 7 with
    width, height and area."""
    if numbers not in POSITIONS:
        raise ConfigError(f"region positions: expected one of {POSITIONS} numbers a box, found {numbers}")
    size = boxes[..., 2:] - boxes[..., :2]
    area = size[..., :1] * size[..., 1:]
    parts = {4: (boxes,), 5: (boxes, area), 7: (boxes, size, area)}[numbers]
    return torch.cat(parts, -1)


@dataclass(frozen=True, kw_only=True)
class RegionEmbeddingConfig:
    """features: numbers a region.  positions: numbers a box.  part_norms: a norm behind each of the two linears.  norm:
    behind their sum (or mean).  mask: hidden regions are marked by a learned vector that is added to their features.
    """

    width: int
    features: int = 2048
    positions: int = 4
    join: Literal["sum", "mean"] = "sum"
    part_norms: NormConfig | None = None
    norm: NormConfig | None = None
    mask: bool = False

    def __post_init__(self) -> None:
        if self.positions not in POSITIONS:
            raise ConfigError(f"regions: positions must be one of {POSITIONS} numbers a box, found {self.positions}")

    def build(self) -> "RegionEmbedding":
        return RegionEmbedding(self)


class RegionEmbedding(nn.Module):
    """See the module docstring."""

    def __init__(self, config: RegionEmbeddingConfig):
        super().__init__()
        width, norms = config.width, config.part_norms
        self.config = config
        self.feature_proj = nn.Linear(config.features, width)
        self.position_proj = nn.Linear(config.positions, width)
        self.feature_norm = None if norms is None else norms.build(width)
        self.position_norm = None if norms is None else norms.build(width)
        self.norm = None if config.norm is None else config.norm.build(width)
        # Row 0 stands for a region that is seen: always zero, kept since files hold it.
        self.mask = nn.Embedding(2, config.features) if config.mask else None
        if self.mask is not None:
            nn.init.zeros_(self.mask.weight[:1].detach())

    def forward(
        self, features: Tensor, positions: Tensor, kind: Tensor | None = None, hidden: Tensor | None = None
    ) -> Tensor:
        """kind [D]: the type of pictures.  hidden bool [N, R]: regions whose features were set to zero.

        Raises ConfigError for features or positions of another width.
        """
        for name, found, width in (
            ("visual_feats", features, self.config.features),
            ("visual_pos", positions, self.config.positions),
        ):
            if found.dim() != 3 or found.shape[-1] != width:
                raise ConfigError(f"regions: expected {name} [N, R, {width}], found {list(found.shape)}")
        if hidden is not None and self.mask is not None:
            features = features + hidden[..., None].to(features.dtype) * self.mask(hidden.long())
        parts = [self.feature_proj(features), self.position_proj(positions)]
        norms = (self.feature_norm, self.position_norm)
        parts = [part if norm is None else norm(part) for part, norm in zip(parts, norms, strict=True)]
        x = parts[0] + parts[1]
        x = x / 2 if self.config.join == "mean" else x
        x = x if kind is None else x + kind
        return x if self.norm is None else self.norm(x)
