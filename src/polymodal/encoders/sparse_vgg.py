"""MESM's VGG for faces and spectrograms (arXiv 2103.09666): dense, or kept where the words look (sparse).

    [N, C, H, W] -> conv 5 x 5, norm, ReLU, pool -> blocks of two 3 x 3 convolutions at widths a, a
    dense     -> b -> pool -> c -> pool -> d -> pool                                          [N, d, H/16, W/16]
    sparse    -> three times: attention of the text over the positions -> the likeliest kept, until their chances add up
                 to the threshold -> two submanifold convolutions -> pool                     widths b, c, d

Traps: a submanifold convolution (arXiv 1706.01307) keeps the set of active positions: it reads and writes these alone,
all others are zero, and its norm counts these alone (eps 1e-4); pooling makes a position active where any below it was.
The choice of positions passes no gradient, so that the attention's own parameters never learn, here as officially.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.weights.keytable import KeyTable, Row, rename
from polymodal.weights.operations import Reshape, Transpose

Widths = tuple[int, int, int, int]
_NORM = ("weight", "bias", "running_mean", "running_var")


class VggBlock(nn.Module):
    """Twice: 3 x 3 convolution, norm, ReLU."""

    def __init__(self, in_width: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_width, width, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class VggStem(nn.Module):
    """The beginning of both forms: `[N, C, H, W] -> [N, a, H / 2, W / 2]`."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 5, padding=2)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(F.relu(self.norm(self.conv(x))), 2)


class DenseVgg(nn.Module):
    """`[N, C, H, W] -> [N, d, H / 16, W / 16]`"""

    def __init__(self, channels: int, widths: Widths) -> None:
        super().__init__()
        a, b, c, d = widths
        self.stem = VggStem(channels, a)
        self.blocks = nn.ModuleList(VggBlock(*pair) for pair in ((a, a), (a, a), (a, b), (b, c), (c, d)))

    def forward(self, x: Tensor, text: Tensor, owners: Tensor) -> Tensor:
        """text, owners: as of SparseVgg; not looked at."""
        x = self.stem(x)
        for number, block in enumerate(self.blocks):
            x = block(x)
            x = F.max_pool2d(x, 2) if number >= 2 else x
        return x


class SparseVgg(nn.Module):
    """`[N, C, H, W] -> [N, d, H / 16, W / 16]`, zero where nothing was kept."""

    def __init__(self, channels: int, widths: Widths, text_width: int, threshold: float) -> None:
        super().__init__()
        self.stem = VggStem(channels, widths[0])
        self.blocks = nn.ModuleList(VggBlock(widths[0], widths[0]) for _ in range(2))
        self.stages = nn.ModuleList(
            SparseStage(widths[i], widths[i + 1], text_width, threshold) for i in range(len(widths) - 1)
        )

    def forward(self, x: Tensor, text: Tensor, owners: Tensor) -> Tensor:
        """text `[B, D]`: what looks at the items; owners `[N]`: which row of it looks at an item."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        active = torch.ones_like(x[:, 0], dtype=torch.bool)
        for stage in self.stages:
            x, active = stage(x, active, text[owners])
        return x


class SiteNorm(nn.Module):
    """Batch norm of rows `[M, C]`, as SparseConvNet has it: no count of batches, running statistics move by 1 %."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training and len(x) > 1, 0.01, 1e-4
        )


class SparseStage(nn.Module):
    """Choose positions, two submanifold convolutions, pool: `[N, C, H, W] -> [N, C', H / 2, W / 2]`."""

    def __init__(self, in_width: int, width: int, text_width: int, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold
        self.channel_affine = nn.Linear(in_width, in_width)
        self.y_affine = nn.Linear(text_width, in_width, bias=False)
        self.attn_weight_affine = nn.Linear(in_width, 1)
        self.conv1 = nn.Conv2d(in_width, width, 3, padding=1, bias=False)
        self.bn1 = SiteNorm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = SiteNorm(width)

    def forward(self, x: Tensor, active: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """active `[N, H, W]`; text `[N, D]`."""
        active = self.kept(x, active, text)
        x = x * active[:, None]
        for conv, norm in ((self.conv1, self.bn1), (self.conv2, self.bn2)):
            x = at_active(conv(x), active, norm)
        return F.max_pool2d(x, 2), F.max_pool2d(active[:, None].float(), 2)[:, 0] > 0

    @torch.no_grad()
    def kept(self, x: Tensor, active: Tensor, text: Tensor) -> Tensor:
        """The likeliest positions, bool `[N, H, W]`: as many as add up to the threshold, and one more."""
        seen = torch.tanh(self.channel_affine(x.permute(0, 2, 3, 1)) + self.y_affine(text)[:, None, None])
        scores = self.attn_weight_affine(seen)[..., 0].masked_fill(~active, float("-inf"))
        chances, order = scores.flatten(1).softmax(1).sort(dim=1, descending=True)
        below = chances.cumsum(1) < self.threshold
        below.scatter_(1, below.sum(1, keepdim=True).clamp(max=below.shape[1] - 1), True)
        return torch.zeros_like(below).scatter_(1, order, below).view_as(active) & active


def at_active(x: Tensor, active: Tensor, norm: nn.Module) -> Tensor:
    """Norm and ReLU of the active positions, zero elsewhere."""
    rows = F.relu(norm(x.permute(0, 2, 3, 1)[active]))
    made = x.new_zeros(x.shape[0], *x.shape[2:], x.shape[1])
    made[active] = rows.to(made.dtype)
    return made.permute(0, 3, 1, 2)


def _norm(source: str, target: str, counted: bool) -> list[Row]:
    leaves = (*_NORM, "num_batches_tracked") if counted else _NORM
    return [rename(f"{source}.{leaf}", f"{target}.{leaf}") for leaf in leaves]


def _pair(source: str, target: str, leaves: Sequence[str] = ("weight", "bias")) -> list[Row]:
    return [rename(f"{source}.{leaf}", f"{target}.{leaf}") for leaf in leaves]


def _block(source: str, target: str) -> list[Row]:
    convolutions = [row for n in "12" for row in _pair(f"{source}.conv{n}", f"{target}.conv{n}")]
    return [*convolutions, *(row for n in "12" for row in _norm(f"{source}.bn{n}", f"{target}.bn{n}", True))]


def dense_keys() -> KeyTable:
    """The official nn.Sequential -> ours."""
    rows = [*_pair("0", "stem.conv"), *_norm("1", "stem.norm", True)]
    for number, place in enumerate((4, 5, 6, 8, 10)):
        rows += _block(str(place), f"blocks.{number}")
    return KeyTable(tuple(rows))


def sparse_keys(widths: Widths) -> KeyTable:
    """The official modules with SparseConvNet's -> ours; its kernels are [9, 1, in, out], the last axis of a window
    fastest."""
    rows = [*_pair("low_level.0", "stem.conv"), *_norm("low_level.1", "stem.norm", True)]
    rows += [*_block("low_level.4", "blocks.0"), *_block("low_level.5", "blocks.1")]
    for i in range(len(widths) - 1):
        attention, layers, stage = f"attn_layers.{i}", f"sparse_layers.{i}.0", f"stages.{i}"
        for name in ("channel_affine", "attn_weight_affine"):
            rows += _pair(f"{attention}.{name}", f"{stage}.{name}")
        rows.append(rename(f"{attention}.y_affine.weight", f"{stage}.y_affine.weight"))
        for number, width in ((0, widths[i]), (1, widths[i + 1])):
            kernel = (Reshape((9, 1, width, widths[i + 1]), (3, 3, width, widths[i + 1])), Transpose(0, 3))
            turned = (*kernel, Transpose(1, 2), Transpose(2, 3))  # out, x, in, y -> out, in, y, x
            rows.append(rename(f"{layers}.{2 * number}.weight", f"{stage}.conv{number + 1}.weight", *turned))
            rows += _norm(f"{layers}.{2 * number + 1}", f"{stage}.bn{number + 1}", False)
    return KeyTable(tuple(rows))
