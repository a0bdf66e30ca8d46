"""Prompts inside attention: LLaMA-Adapter (arXiv 2303.16199) and its second version (arXiv 2304.15010).

    attention output + tanh(gate) * softmax(q K^T) V        K, V: the layer's own k and v of `prompt + features`
    features [B, length, D]: what a connector makes of the row's picture, the same in all layers (early fusion)

No token of the sequence stands for the picture; it reaches the layers as the decoder's `context`.
Traps: the prompt's keys are not rotated while the queries are; keys and values leave low-rank paths out and are made
anew at every step; a row without a picture gets a blank one, whose features are not zero.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.errors import PromptError
from polymodal.fusion.routing import RoutedDelta
from polymodal.nn.attention import attend


@dataclass(frozen=True, kw_only=True)
class GatedPrefixConfig:
    """``length`` learned prompt vectors.  ``gain``: a further learned factor on the gate (V2 with LoRA)."""

    length: int
    gain: bool = False

    def build(self, width: int, heads: int) -> "GatedPrefix":
        return GatedPrefix(width, heads, self)


class GatedPrefix(nn.Module):
    """What attention adds to its output, before the output projection: ``[B, H, T, E]``.

    Keys and values come from the attention's own k and v projections, without rotation and without the low-rank paths
    that belong to the published model; queries are the rotated ones.  ``gate`` [H] starts at zero, which adds nothing.
    """

    def __init__(self, width: int, heads: int, config: GatedPrefixConfig) -> None:
        super().__init__()
        self.prompt = nn.Parameter(torch.randn(config.length, width))
        self.gate = nn.Parameter(torch.zeros(heads))
        self.gain = nn.Parameter(torch.ones(1)) if config.gain else None

    def forward(
        self, q: Tensor, k_proj: nn.Module, v_proj: nn.Module, extra: Tensor | None, scale: float | None
    ) -> Tensor:
        """``q [B, H, T, E]``; ``extra [B, length, D]`` is added to the prompt (visual features), None adds nothing."""
        prompt = self.prompt[None] if extra is None else self.prompt + extra
        size = q.shape[-1]
        keys, values = (
            proj.plain(prompt) if isinstance(proj, RoutedDelta) else proj(prompt) for proj in (k_proj, v_proj)
        )
        k, v = (x.unflatten(-1, (-1, size)).transpose(1, 2).expand(len(q), -1, -1, -1) for x in (keys, values))
        factor = self.gate.tanh() if self.gain is None else self.gate.tanh() * self.gain
        return factor[:, None, None] * attend(q, k, v, None, scale)


class RowPrompt(nn.Module):
    """The `context` of these systems: features of one picture a row, [B, length, D], passed on as they are."""

    def forward(self, features: Mapping[str, Any], batch: Mapping[str, Any]) -> Tensor:
        """features: [N, length, D] or a list.  Raises PromptError when there are not as many pictures as rows, and for
        packed rows, whose conversations would share one picture."""
        if batch.get("segments") is not None:
            raise PromptError("segments: the picture of this model belongs to a whole row; collate the rows unpacked")
        found, rows = features.get("image", ()), len(batch["input_ids"])
        if len(found) != rows:
            raise PromptError(f"this model takes exactly one picture a row; found {len(found)} for {rows} rows")
        return found if isinstance(found, Tensor) else torch.stack(tuple(found))


@dataclass(frozen=True)
class BlankPicture:
    """`prepare_inputs`: a batch without pictures gets a black (all zero) one of `size` x `size` in every row."""

    size: int

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        if batch.get("pixel_values") is not None:
            return {}
        ids = batch["input_ids"]
        return {"pixel_values": torch.zeros(len(ids), 3, self.size, self.size, device=ids.device)}
