"""The encoder of DALL-E's discrete VAE (arXiv 2102.12092): images -> image tokens, the targets of FLAVA and BEiT.

    pixel_values [N, 3, H, W] -> 7x7 convolution -> 4 groups of residual blocks, 2x max-pooling after the first three
    -> ReLU -> 1x1 convolution -> logits [N, V, H/8, W/8] -> argmax: ids [N, H/8, W/8]

A block: x + gain * conv1(relu(conv3(relu(conv3(relu(conv3(relu(x)))))))), hidden width C'/4, gain 1 / layers ** 2;
if the width changes, the shortcut is a 1x1 convolution.
Traps: pixels are mapped to 0.1 .. 0.9 (`map_pixels`), not normalised by mean and standard deviation, and have their
own size (112 -> 14 x 14 tokens for a 224-pixel ViT-B/16); the gain counts the blocks of all groups.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.weights.keytable import KeyTable, Row, rename

_GROUPS = (1, 2, 4, 8)


@dataclass(frozen=True, kw_only=True)
class DalleCodecConfig:
    """`width`: of the first group; `groups`: affects only the gain, there are always four groups."""

    vocab_size: int = 8192
    width: int = 256
    blocks: int = 2
    groups: int = 4
    channels: int = 3

    def build(self) -> "DalleCodec":
        return DalleCodec(self)


class DalleBlock(nn.Module):
    """One residual block, `[N, C, H, W] -> [N, C', H, W]`."""

    def __init__(self, source: int, target: int, gain: float):
        super().__init__()
        hidden = target // 4
        self.gain = gain
        self.skip = nn.Conv2d(source, target, 1) if source != target else None
        self.convs = nn.ModuleList(
            (
                nn.Conv2d(source, hidden, 3, padding=1),
                nn.Conv2d(hidden, hidden, 3, padding=1),
                nn.Conv2d(hidden, hidden, 3, padding=1),
                nn.Conv2d(hidden, target, 1),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for conv in self.convs:
            y = conv(F.relu(y))
        return (x if self.skip is None else self.skip(x)) + self.gain * y


class DalleCodec(nn.Module):
    """See the module docstring."""

    def __init__(self, config: DalleCodecConfig):
        super().__init__()
        self.config = config
        gain = 1 / (config.groups * config.blocks) ** 2
        self.stem = nn.Conv2d(config.channels, config.width, 7, padding=3)
        self.groups = nn.ModuleList()
        source = config.width
        for factor in _GROUPS:
            target = factor * config.width
            widths = [source] + [target] * config.blocks
            pairs = pairwise(widths)
            self.groups.append(nn.ModuleList(DalleBlock(a, b, gain) for a, b in pairs))
            source = target
        self.out = nn.Conv2d(source, config.vocab_size, 1)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Logits `[N, V, H/8, W/8]`; raises ConfigError for another number of channels."""
        if pixel_values.dim() != 4 or pixel_values.shape[1] != self.config.channels:
            expected = f"[N, {self.config.channels}, H, W]"
            raise ConfigError(f"DALL-E codec: pixel_values must be {expected}, found {list(pixel_values.shape)}")
        x = self.stem(pixel_values)
        for i, group in enumerate(self.groups.children()):
            for block in group.children():
                x = block(x)
            if i + 1 < len(self.groups):
                x = F.max_pool2d(x, 2)
        return self.out(F.relu(x))

    def encode(self, pixel_values: Tensor) -> Tensor:
        """Image tokens `[N, H/8, W/8]` int64 in 0 .. V - 1."""
        return self(pixel_values).argmax(1)


def map_pixels(pixels: Tensor) -> Tensor:
    """Pixels in 0..1 -> 0.1 .. 0.9."""
    return 0.8 * pixels + 0.1


def parse_config(config: Mapping[str, Any]) -> DalleCodecConfig:
    """The codec of a `FlavaImageCodebookConfig` dict; absent keys take transformers' defaults."""
    return DalleCodecConfig(
        vocab_size=config.get("vocab_size", 8192),
        width=config.get("hidden_size", 256),
        blocks=config.get("num_blocks_per_group", 2),
        groups=config.get("num_groups", 4),
        channels=config.get("input_channels", 3),
    )


def hf_keys(config: DalleCodecConfig) -> KeyTable:
    """FlavaImageCodebook's names -> ours."""
    rows: list[Row] = [*_pair("blocks.input", "stem"), *_pair("blocks.output.conv", "out")]
    for group in range(4):
        for block in range(config.blocks):
            source = f"blocks.group_{group + 1}.group.block_{block + 1}"
            target = f"groups.{group}.{block}"
            rows += _pair(f"{source}.id_path", f"{target}.skip")
            for conv in range(4):
                rows += _pair(f"{source}.res_path.path.conv_{conv + 1}", f"{target}.convs.{conv}")
    return KeyTable(tuple(rows))


def _pair(source: str, target: str) -> list[Row]:
    return [rename(f"{source}.{leaf}", f"{target}.{leaf}") for leaf in ("weight", "bias")]
