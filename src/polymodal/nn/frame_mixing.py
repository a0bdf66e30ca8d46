"""What lets the frames of a video see each other, place by place (CoDi, arXiv 2305.11846; after Make-A-Video).

    x [P, F, D], F frames of each of P places -> + attention over the frames -> + gated MLP -> x
    attention: norm over the FRAMES -> heads, with a bias learned from the distance of two frames -> o_proj

Traps: the norm of the attention takes mean and deviation over the frames of a place, not over the channels, so that a
video of one frame gives zeros; `places` and `rates` (one row for each frame, one for each rate) count where the caller
names a rate, and are held unused where not; with `shifts` the second half of the MLP's channels comes from the frame
before.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.errors import ConfigError

MOST = 30  # frames, and frames a second


class FrameDistance(nn.Module):
    """A bias for each head from the signed logarithm of the distance: F -> [H, F, F]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(1, width), nn.Linear(width, width), nn.Linear(width, heads)

    def forward(self, frames: int) -> Tensor:
        """[H, F, F]"""
        weight = self.first.weight
        places = torch.arange(frames, device=weight.device, dtype=weight.dtype)
        far = places[:, None] - places[None]
        far = far.sign() * (far.abs() + 1).log()
        bias = F.silu(self.second(F.silu(self.first(far[..., None]))))
        return self.last(bias).movedim(-1, 0)


def normed(x: Tensor, gain: Tensor, dim: int) -> Tensor:
    """Mean 0 and deviation 1 along `dim`, times `gain`; deviations that are all but zero stay."""
    least = 1e-5 if x.dtype == torch.float32 else 1e-3
    variance, mean = torch.var_mean(x, dim, unbiased=False, keepdim=True)
    return (x - mean) * variance.clamp(min=least).rsqrt() * gain


class FrameAttention(nn.Module):
    """`[P, F, D] -> [P, F, D]`, without the residual."""

    def __init__(self, width: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads, inner = heads, heads * head_dim
        self.gain = nn.Parameter(torch.ones(width))
        self.q_proj, self.k_proj = nn.Linear(width, inner, bias=False), nn.Linear(width, inner, bias=False)
        self.v_proj, self.o_proj = nn.Linear(width, inner, bias=False), nn.Linear(inner, width, bias=False)
        nn.init.zeros_(self.o_proj.weight)
        self.places, self.rates = nn.Parameter(torch.zeros(MOST, width)), nn.Parameter(torch.zeros(MOST, width))

    def forward(self, x: Tensor, bias: Tensor, rate: int | None) -> Tensor:
        """bias [H, F, F]; rate: of the frames.  Raises ConfigError for more frames than there are places."""
        if rate is not None:
            if x.shape[1] > MOST:
                raise ConfigError(f"video: expected at most {MOST} frames, found {x.shape[1]}")
            x = x + self.places[: x.shape[1]] + self.rates[rate - 1]
        x = normed(x, self.gain, 1)
        q, k, v = (each(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
                   for each in (self.q_proj, self.k_proj, self.v_proj))  # fmt: skip
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype)[None])
        return self.o_proj(seen.transpose(1, 2).flatten(2))


class FrameMLP(nn.Module):
    """`[P, F, D] -> [P, F, D]`, without the residual; see the module docstring for `shifts`."""

    def __init__(self, width: int, shifts: bool) -> None:
        super().__init__()
        inner = int(width * 4 * 2 / 3)
        self.shifts = shifts
        self.up_proj, self.gate_proj = nn.Linear(width, inner, bias=False), nn.Linear(width, inner, bias=False)
        self.gain = nn.Parameter(torch.ones(inner))
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up_proj(x) * F.gelu(self.gate_proj(x))
        if self.shifts:
            here, before = x.chunk(2, -1)
            x = torch.cat((here, F.pad(before, (0, 0, 1, -1))), -1)
        return self.down_proj(normed(x, self.gain, -1))


class FrameMixing(nn.Module):
    """`[P, F, D] -> [P, F, D]`; see the module docstring.  rate: of the frames, None: places do not count."""

    def __init__(self, width: int, heads: int, head_dim: int, *, rate: int | None = None, shifts: bool = False) -> None:
        super().__init__()
        self.rate = rate
        self.attn = FrameAttention(width, heads, head_dim)
        self.distance = FrameDistance(width // 2, heads)
        self.mlp = FrameMLP(width, shifts)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(x, self.distance(x.shape[1]), self.rate)
        return x + self.mlp(x)
