"""Codebooks of feature codecs: vectors of places to ids, ids to vectors (the tokenizers of 4M).

    UnitCodebook     the nearest by cosine, or by distance; codes follow what chooses them as a moving average
    MemoryCodebook   for each head the key with the largest product, whose value is handed on (Memcodes, NWT 2106.04283)

ViT-VQGAN (arXiv 2110.04627).  Traps: what is handed on is the stored vector, also where the unit one was compared;
codes that fewer chose than a threshold take the place of vectors of the batch; keys and values are made of the codes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.nn.computed import computed_buffer


@dataclass(frozen=True, kw_only=True)
class UnitCodebookConfig:
    """decay: of the moving average.  dead: average of choices below which a code is replaced."""

    size: int
    width: int
    cosine: bool = True
    decay: float = 0.99
    dead: float = 0.25

    @property
    def heads(self) -> int:
        return 1

    def build(self) -> UnitCodebook:
        return UnitCodebook(self)


@dataclass(frozen=True, kw_only=True)
class MemoryCodebookConfig:
    """heads: ids of a place.  width: of all heads together."""

    size: int
    width: int
    heads: int

    def build(self) -> MemoryCodebook:
        return MemoryCodebook(self)


class UnitCodebook(nn.Module):
    """`[N, D, h, w] <-> ids [N, h, w]`"""

    codes: Tensor
    usage: Tensor
    started: Tensor
    average: Tensor

    def __init__(self, config: UnitCodebookConfig):
        super().__init__()
        self.config = config
        # Moved by what chooses them, never by a gradient.
        computed_buffer(self, "codes", lambda: F.normalize(torch.randn(config.size, config.width), dim=-1))
        computed_buffer(self, "usage", lambda: torch.zeros(config.size))
        computed_buffer(self, "started", lambda: torch.ones(1))
        if not config.cosine:  # the moving sum that the codes are made of
            computed_buffer(self, "average", lambda: torch.zeros(config.size, config.width))

    def nearest(self, vectors: Tensor) -> Tensor:
        flat = vectors.movedim(1, -1).float()
        if self.config.cosine:
            return (F.normalize(flat, dim=-1) @ F.normalize(self.codes.float(), dim=-1).T).argmax(-1)
        codes = self.codes.float()
        distance = flat.square().sum(-1, keepdim=True) - 2 * flat @ codes.T + codes.T.square().sum(0, keepdim=True)
        return distance.argmin(-1)

    def forward(self, ids: Tensor) -> Tensor:
        """ids [N, h, w] -> [N, D, h, w]"""
        return self.codes[ids].movedim(-1, 1)

    def straight(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Codes through which gradients pass, ids, and the squared distance of vectors to their codes."""
        ids = self.nearest(vectors)
        chosen = self(ids).to(vectors.dtype)
        return vectors + (chosen - vectors).detach(), ids, F.mse_loss(vectors, chosen.detach())

    @torch.no_grad()
    def follow(self, vectors: Tensor, ids: Tensor) -> None:
        """Move the codes towards what chose them, one step of training."""
        config = self.config
        flat, chosen = vectors.movedim(1, -1).flatten(0, -2).float(), ids.flatten()
        flat = F.normalize(flat, dim=-1) if config.cosine else flat
        count = torch.bincount(chosen, minlength=config.size).to(flat.dtype)
        total = torch.zeros_like(self.codes, dtype=flat.dtype).index_add_(0, chosen, flat)
        self.usage.mul_(config.decay).add_(count, alpha=1 - config.decay)
        if config.cosine:
            mean = F.normalize(total / count.clamp_min(1)[:, None], dim=-1)
            mean = torch.where(count[:, None] > 0, mean, F.normalize(self.codes, dim=-1))
            self.codes.lerp_(mean, 1 - config.decay)
        else:
            self.average.mul_(config.decay).add_(total, alpha=1 - config.decay)
            smooth = (self.usage + 1e-5) / (self.usage.sum() + config.size * 1e-5) * self.usage.sum()
            self.codes.copy_(self.average / smooth[:, None])
        self._replace(flat)

    def _replace(self, flat: Tensor) -> None:
        """Unit vectors of the batch in place of codes that hardly any chose."""
        dead = self.usage < self.config.dead
        if not self.config.dead or not bool(dead.any()):
            return
        count = int(dead.sum())
        drawn = torch.randperm(len(flat))[:count] if len(flat) >= count else torch.randint(len(flat), (count,))
        self.codes[dead] = F.normalize(flat[drawn.to(flat.device)], dim=-1)


class MemoryCodebook(nn.Module):
    """`[N, D, h, w] <-> ids [N, heads, h, w]`"""

    def __init__(self, config: MemoryCodebookConfig):
        super().__init__()
        self.config = config
        width = config.width // config.heads
        self.codes = nn.Parameter(torch.randn(config.heads, config.size, width))
        self.keys = nn.Parameter(torch.randn(config.heads, width, width) * width**-0.5)
        self.values = nn.Parameter(torch.randn(config.heads, width, width) * width**-0.5)

    def scores(self, vectors: Tensor) -> Tensor:
        """[N, D, h, w] -> [N, heads, h, w, size]"""
        heads = vectors.unflatten(1, (self.config.heads, -1)).movedim(2, -1)
        keys = self.codes @ self.keys
        return torch.einsum("nhyxd,hsd->nhyxs", heads * heads.shape[-1] ** -0.5, keys)

    def nearest(self, vectors: Tensor) -> Tensor:
        return self.scores(vectors).argmax(-1)

    def forward(self, ids: Tensor) -> Tensor:
        values = self.codes @ self.values
        picked = torch.stack([values[head][ids[:, head]] for head in range(self.config.heads)], 1)
        return picked.movedim(-1, 2).flatten(1, 2)

    def straight(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As for the other; in training codes are drawn (Gumbel), and nothing is to be near."""
        scores = self.scores(vectors)
        hard = F.gumbel_softmax(scores, hard=True) if self.training else F.one_hot(
            scores.argmax(-1), self.config.size).to(scores.dtype)  # fmt: skip
        picked = torch.einsum("nhyxs,hsd->nhdyx", hard, self.codes @ self.values)
        return picked.flatten(1, 2), hard.argmax(-1), vectors.new_zeros(())

    def follow(self, vectors: Tensor, ids: Tensor) -> None:
        """Nothing: codes are learned by gradients."""
