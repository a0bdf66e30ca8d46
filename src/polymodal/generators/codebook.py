"""A table of code vectors: the nearest one for a latent, and the vector of an id.

    latents [..., D] -> squared distance to every row -> id of the nearest [...]        ids [...] -> vectors [..., D]

Trap: the distance is computed as |z|^2 + |e|^2 - 2 z.e in that order, as the published codecs were run; another
order gives other ids where two rows are almost equally near.
"""

import torch
from torch import Tensor, nn

_AT_ONCE = 1 << 26  # distances in memory at a time


class Codebook(nn.Module):
    """``size`` vectors of ``width`` numbers."""

    def __init__(self, size: int, width: int):
        super().__init__()
        self.embedding = nn.Embedding(size, width)
        nn.init.uniform_(self.embedding.weight, -1 / size, 1 / size)

    def nearest(self, latents: Tensor) -> Tensor:
        """``[..., D] -> ids [...]`` int64."""
        table = self.embedding.weight
        lengths = table.square().sum(1)
        rows = latents.reshape(-1, latents.shape[-1])
        ids = [
            (part.square().sum(1, keepdim=True) + lengths - 2 * (part @ table.T)).argmin(1)
            for part in rows.split(max(1, _AT_ONCE // table.shape[0]))
        ]
        return torch.cat(ids).view(latents.shape[:-1])

    def forward(self, ids: Tensor) -> Tensor:
        """``ids [...] -> vectors [..., D]``"""
        return self.embedding(ids)
