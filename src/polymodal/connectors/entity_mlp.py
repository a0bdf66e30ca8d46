"""An MLP that turns a vector for each entity (an object, a robot's state) into embeddings, several for each (PaLM-E).

[..., S] -> linear -> GELU -> linear -> [..., m * D] -> m embeddings one after another
objects of scenes [N, K, S] -> [N, K * m, D];   items of unequal length, [sum of n_i, S] -> a list of [n_i * m, D]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.nn.mlp import MLPConfig


@dataclass(frozen=True, kw_only=True)
class EntityMLPConfig:
    """embeddings: for each entity."""

    hidden_width: int
    embeddings: int = 1

    def __post_init__(self) -> None:
        if self.embeddings < 1:
            raise ConfigError(f"entity mlp: an entity needs one embedding at least, found {self.embeddings}")

    def build(self, in_width: int, out_width: int) -> EntityMLP:
        return EntityMLP(self, in_width, out_width)

    def tokens(self, n_in: int) -> int:
        """Features out for `n_in` entities in."""
        return n_in * self.embeddings


class EntityMLP(nn.Module):
    """See the module docstring."""

    def __init__(self, config: EntityMLPConfig, in_width: int, out_width: int) -> None:
        super().__init__()
        self.width = out_width
        self.mlp = MLPConfig(
            width=in_width, ffn_width=config.hidden_width, out_width=config.embeddings * out_width
        ).build()
        for name, parameter in self.mlp.named_parameters():
            if name.endswith("bias"):  # fresh ones would say more of themselves than of the entity
                nn.init.zeros_(parameter)

    def forward(self, entities: Tensor, counts: Sequence[int] | None = None) -> Tensor | list[Tensor]:
        """counts: how many entities each item has, for [sum of n_i, S]; without them each of those is an item."""
        x = self.mlp(entities).unflatten(-1, (-1, self.width))
        if counts is None:
            return x if x.dim() == 3 else x.flatten(1, 2)
        return [each.flatten(0, 1) for each in x.split([int(count) for count in counts])]
