"""Optimal transport distance between two sets of vectors, for training losses (IPOT, arXiv 1802.04307).

    words [B, T, D], patches [B, S, D] -> cosine cost [B, T, S] -> plan [B, T, S] -> sum of plan * cost [B]

The mass of 1 is distributed uniformly over the real words and over the real patches; proximal point iterations
approximate the cheapest plan.  UNITER (1909.11740) and ViLT (2102.03334) align words and regions with it.
Traps: no gradient flows through the plan; padding has no mass, and items without real words or patches have distance 0.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


@torch.no_grad()
def transport_plan(
    cost: Tensor, rows: Tensor, columns: Tensor, *, beta: float = 0.5, steps: int = 50, inner: int = 1
) -> Tensor:
    """Transport plan [B, M, N] for cost [B, M, N]; rows bool [B, M], columns bool [B, N]: True = not padding.

    beta: weight of the proximal term; larger converges slower but more stably.  inner: Sinkhorn iterations per step.
    """
    real = rows[:, :, None] & columns[:, None, :]
    kernel = (-cost.float() / beta).exp() * real
    mass = [mask.float() / mask.sum(1, keepdim=True).clamp_min(1) for mask in (rows, columns)]
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
    """Distances [B] between the sets [B, T, D] and [B, S, D] with cosine cost; real_*: bool [B, T], [B, S]."""
    cost = 1 - F.normalize(words.float(), dim=-1) @ F.normalize(patches.float(), dim=-1).transpose(1, 2)
    return (transport_plan(cost.detach(), real_words, real_patches) * cost).sum((1, 2))


def _ratio(mass: Tensor, total: Tensor) -> Tensor:
    """mass / total, 0 where mass is 0."""
    return torch.where(mass > 0, mass / total.clamp_min(torch.finfo(total.dtype).tiny), 0.0)
