"""One vector of a picture as several tokens of the backbone: `[N, V] -> linear [N, k * D] -> [N, k, D]`.

GILL (arXiv 2305.17216), whose encoder is a `PooledViT`.
"""

from __future__ import annotations

from torch import Tensor, nn


class PooledTokens(nn.Module):
    """`[N, V] -> [N, tokens, D]`"""

    def __init__(self, in_width: int, width: int, tokens: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.proj = nn.Linear(in_width, tokens * width)

    def forward(self, pooled: Tensor) -> Tensor:
        """Vectors as tokens."""
        return self.proj(pooled).unflatten(-1, (self.tokens, -1))
