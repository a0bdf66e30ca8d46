"""Cross-attention to two pictures at once, for texts about a pair of them: BLIP's NLVR2 model (arXiv 2201.12086, 4.4).

    x [B, T, D], source [B, 2, S, D'] -> an attention to each picture -> their mean, or a linear over both joined

Trap: in the published model the lower six blocks take the mean and the upper six the linear, whose input is
[first ; second].
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from polymodal.errors import PromptError
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.cache import LayerCache
from polymodal.nn.mask import MaskSpec, PreparedMask
from polymodal.weights.keytable import KeyTable, Row, rename


@dataclass(frozen=True, kw_only=True)
class PicturePairConfig:
    """`attention`: cross-attention built once for each picture.  `joined`: merge by a linear, not by the mean."""

    attention: AttentionConfig
    joined: bool = False

    def build(self) -> "PicturePair":
        return PicturePair(self)


class PicturePair(nn.Module):
    """Fills the `cross` slot of a PostNormBlock; `[B, T, D] -> [B, T, D]`."""

    def __init__(self, config: PicturePairConfig):
        super().__init__()
        width = config.attention.width
        self.first = config.attention.build()
        self.second = config.attention.build()
        self.merge = nn.Linear(2 * width, width) if config.joined else None

    def forward(
        self,
        x: Tensor,
        mask: MaskSpec | PreparedMask | None = None,
        *,
        source: Tensor | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        """`source [B, 2, S, D']`; raises PromptError for another number of pictures.  Nothing is cached."""
        if source is None or source.dim() != 4 or source.shape[1] != 2:
            found = None if source is None else list(source.shape)
            raise PromptError(f"two pictures for each text expected, source [B, 2, S, D]; found {found}")
        one = self.first(x, mask, source=source[:, 0])
        two = self.second(x, mask, source=source[:, 1])
        return (one + two) / 2 if self.merge is None else self.merge(torch.cat((one, two), -1))


def _pair(source: str, target: str) -> list[Row]:
    return [rename(f"{source}.{leaf}", f"{target}.{leaf}") for leaf in ("weight", "bias")]


PAIR_KEYS = KeyTable(
    tuple(
        row
        for number, name in enumerate(("first", "second"))
        for source, target in (
            (f"self{number}.query", f"{name}.q_proj"),
            (f"self{number}.key", f"{name}.k_proj"),
            (f"self{number}.value", f"{name}.v_proj"),
            (f"output.dense{number}", f"{name}.o_proj"),
        )
        for row in _pair(source, target)
    )
    + tuple(_pair("output.merge_layer", "merge"))
)
"""The official names below `crossattention.` -> ours below `cross.`; the norm is the block's `cross_norm`."""
