"""The connector of InternVL-Chat from 1.1 on (arXiv 2404.16821): neighbours joined, norm, two linears.

Flow
    features of a square grid [N, S, Din] -> factor x factor neighbours as one, [N, S / factor^2, factor^2 * Din]
    -> norm -> linear -> GELU -> linear -> [N, S / factor^2, Dout]; the tiles of a picture behind each other

Trap: the first releases ("v1") leave rows and columns of the joined grid swapped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from polymodal.errors import ConfigError, PromptError
from polymodal.nn.linear import Linear
from polymodal.nn.norm import LayerNormConfig, NormConfig
from polymodal.weights.keytable import KeyTable


@dataclass(frozen=True, kw_only=True)
class ShuffleMLPConfig:
    """`factor`: neighbours along a side.  `swapped`: rows and columns of the joined grid are exchanged.

    norm: of the joined features, None: none.  scale: by which features are multiplied before they are joined (VITA).
    """

    factor: int = 2
    swapped: bool = False
    norm: NormConfig | None = field(default_factory=LayerNormConfig)
    scale: float = 1.0

    def build(self, in_width: int, out_width: int) -> ShuffleMLP:
        """Build the connector with fresh weights."""
        return ShuffleMLP(self, in_width, out_width)

    def tokens(self, n_in: int) -> int:
        """Features out for `n_in` of one tile; ConfigError unless they lie on a square grid that the factor divides."""
        side = math.isqrt(n_in)
        if side * side != n_in or side % self.factor:
            raise ConfigError(f"shuffle: {n_in} features are no square grid whose side {self.factor} divides")
        return n_in // self.factor**2


class ShuffleMLP(nn.Module):
    """`[N, S, Din] -> [N, S / factor^2, Dout]`, or N of `[tiles * S / factor^2, Dout]`"""

    def __init__(self, config: ShuffleMLPConfig, in_width: int, out_width: int) -> None:
        super().__init__()
        self.config = config
        joined = in_width * config.factor**2
        self.norm = None if config.norm is None else config.norm.build(joined)
        self.up_proj, self.down_proj = Linear(joined, out_width), Linear(out_width, out_width)

    def forward(self, features: Tensor, tile_counts: Sequence[int] | None = None) -> Tensor | list[Tensor]:
        """tile_counts: tiles of each picture, on the host; None: every tile is an item.

        Raises PromptError when they do not add up to the tiles.
        """
        x = self.joined(features if self.config.scale == 1.0 else features * self.config.scale)
        x = x if self.norm is None else self.norm(x)
        x = self.down_proj(nn.functional.gelu(self.up_proj(x)))
        if tile_counts is None:
            return x
        if sum(tile_counts) != len(x):
            raise PromptError(f"tiles: pictures of {sum(tile_counts)} tiles are announced, found {len(x)}")
        return [item.flatten(0, 1) for item in x.split(list(tile_counts))]

    def joined(self, features: Tensor) -> Tensor:
        """[N, S, D] -> [N, S / factor^2, factor^2 * D]: of each cell row by row, and in a row column by column."""
        factor, (count, places, width) = self.config.factor, features.shape
        side = self.config.factor * math.isqrt(self.config.tokens(places))
        cells = features.view(count, side // factor, factor, side // factor, factor, width)
        grid = cells.permute(0, 3, 1, 2, 4, 5) if self.config.swapped else cells.permute(0, 1, 3, 2, 4, 5)
        return grid.reshape(count, places // factor**2, factor**2 * width)


PUBLISHED_KEYS = KeyTable.of(
    {
        f"{source}.{leaf}": f"{target}.{leaf}"
        for source, target in (("0", "norm"), ("1", "up_proj"), ("3", "down_proj"))
        for leaf in ("weight", "bias")
    }
)
"""The published names (under `mlp1.`) -> ours."""
