"""Optimal transport between two sets of vectors, as a distance that a model can learn by (IPOT, arXiv 1802.04307).

    words [B, T, D], patches [B, S, D] -> cosine cost [B, T, S] -> plan [B, T, S] -> sum of plan * cost [B]

Every real word and every real patch holds an equal share of a mass of one; the plan moves the words' mass onto the
patches as cheaply as a number of proximal steps finds.  UNITER (1909.11740) and ViLT (2102.03334) align words and
regions by it.
Traps: no gradient flows through the plan; padding has no mass, and an item without real words or patches no distance.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.no_grad()
def transport_plan(
    cost: Tensor, rows: Tensor, columns: Tensor, *, beta: float = 0.5, steps: int = 50, inner: int = 1
) -> Tensor:
    """The plan [B, M, N] of cost [B, M, N]; rows bool [B, M], columns bool [B, N]: what is real.

    beta: weight of the proximal term; larger is slower and safer.  inner: Sinkhorn steps in each of `steps`.
    """
    real = rows[:, :, None] & columns[:, None, :]
    kernel = (-cost.float() / beta).exp() * real
    mass = [each.float() / each.sum(1, keepdim=True).clamp_min(1) for each in (rows, columns)]
    left = mass[0].clone()
    plan = real.float()
    for _ in range(steps):
        scaled = kernel * plan
        for _ in range(inner):
            right = _ratio(mass[1], torch.einsum("bmn,bm->bn", scaled, left))
            left = _ratio(mass[0], torch.einsum("bmn,bn->bm", scaled, right))
        plan = left[:, :, None] * scaled * right[:, None, :]
    return plan


def transport_distance(words: Tensor, patches: Tensor, real_words: Tensor, real_patches: Tensor) -> Tensor:
    """[B] distances of the sets [B, T, D] and [B, S, D] under the cosine cost; real_*: bool [B, T], [B, S]."""
    cost = 1 - F.normalize(words.float(), dim=-1) @ F.normalize(patches.float(), dim=-1).transpose(1, 2)
    return (transport_plan(cost.detach(), real_words, real_patches) * cost).sum((1, 2))


def _ratio(mass: Tensor, found: Tensor) -> Tensor:
    """mass / found, zero where there is no mass."""
    return torch.where(mass > 0, mass / found.clamp_min(torch.finfo(found.dtype).tiny), 0.0)
