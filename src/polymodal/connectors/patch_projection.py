"""The connector of models without an image encoder (Fuyu-8B): raw patches through one linear.

Flow
    patches of all items [P, values] -> proj -> [P, D] -> split into one tensor [p, D] per row of the batch

Trap: the patches do not say which row they belong to; `PatchCounts` counts the placeholders of each row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from polymodal.errors import PromptError
from polymodal.nn.linear import Linear


@dataclass(frozen=True, kw_only=True)
class PatchCounts:
    """Prepares a batch: `patch_counts` [B], the placeholders per row, and `image_patches` renamed to `pixel_values`."""

    placeholder: int
    input_names: frozenset[str] = frozenset({"image_patches", "image_patches_indices"})

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """New batch entries: `patch_counts`, and `pixel_values` if the batch has `image_patches`."""
        patches = batch.get("image_patches")
        extra = {} if patches is None else {"pixel_values": patches}
        if "input_ids" in batch and batch.get("patch_counts") is None:
            extra["patch_counts"] = (batch["input_ids"] == self.placeholder).sum(-1)
        return extra


@dataclass(frozen=True, kw_only=True)
class PatchProjectionConfig:
    """One linear with bias."""

    def build(self, in_width: int, out_width: int) -> "PatchProjection":
        """Build the connector with fresh weights."""
        return PatchProjection(in_width, out_width)

    def tokens(self, n_in: int) -> int:
        """Features out for `n_in` patches in."""
        return n_in


class PatchProjection(nn.Module):
    """`[P, values]` or `[N, P, values]` -> the same with D; with counts, a list of `[p, D]`, one per row."""

    def __init__(self, in_width: int, out_width: int) -> None:
        super().__init__()
        self.proj = Linear(in_width, out_width)

    def forward(self, patches: Tensor, counts: Tensor | Sequence[int] | None = None) -> Tensor | list[Tensor]:
        """Project float patches; counts: patches per row, int [B], or Python ints to avoid a device synchronisation.

        Raises PromptError unless they add up to the number of patches.
        """
        features = self.proj(patches.to(self.proj.weight.dtype))
        if counts is None:
            return features
        flat = features.reshape(-1, features.shape[-1])
        lengths = counts.tolist() if isinstance(counts, Tensor) else list(counts)
        if len(flat) != sum(lengths):
            raise PromptError(f"patches: the rows have {sum(lengths)} placeholders, found {len(flat)} patches")
        return [item for item, length in zip(flat.split(lengths), lengths, strict=True) if length]
