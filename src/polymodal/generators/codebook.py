"""A codebook: latents to the ids of the nearest code vectors, and ids to code vectors.

    latents [..., D] -> squared distance to every row -> id of the nearest [...]        ids [...] -> vectors [..., D]

Trap: the distance is computed as |z|^2 + |e|^2 - 2 z.e in that order, as in the published codecs; another order
gives other ids when two rows are almost equally near.
"""

import torch
from torch import Tensor, nn

_CHUNK = 1 << 26  # distances in memory at a time


class Codebook(nn.Module):
    """`size` code vectors of `width` values."""

    def __init__(self, size: int, width: int):
        super().__init__()
        self.embedding = nn.Embedding(size, width)
        nn.init.uniform_(self.embedding.weight, -1 / size, 1 / size)

    def nearest(self, latents: Tensor) -> Tensor:
        """`[..., D] -> ids [...]` int64."""
        table = self.embedding.weight
        squared_norms = table.square().sum(1)
        rows = latents.reshape(-1, latents.shape[-1])
        ids = [
            (chunk.square().sum(1, keepdim=True) + squared_norms - 2 * (chunk @ table.T)).argmin(1)
            for chunk in rows.split(max(1, _CHUNK // table.shape[0]))
        ]
        return torch.cat(ids).view(latents.shape[:-1])

    def forward(self, ids: Tensor) -> Tensor:
        """`ids [...] -> vectors [..., D]`"""
        return self.embedding(ids)
