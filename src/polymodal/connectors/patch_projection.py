"""The connector of models without an image encoder (Fuyu-8B): raw patches through one linear.

Flow
    patches of all items [P, values] -> proj -> [P, D] -> cut into one tensor [p, D] for each row of the batch

Trap: nothing in the patches says which picture they belong to; `PatchCounts` reads it off the placeholders.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from polymodal.errors import PromptError
from polymodal.nn.linear import Linear


@dataclass(frozen=True, kw_only=True)
class PatchCounts:
    """What a batch lacks: `patch_counts` [B], placeholders in each row; and its patches under their newer name."""

    placeholder: int
    reads: frozenset[str] = frozenset({"image_patches", "image_patches_indices"})

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Adds `patch_counts`, and `pixel_values` where the batch calls them `image_patches`."""
        patches = batch.get("image_patches")
        found = {} if patches is None else {"pixel_values": patches}
        if "input_ids" in batch and batch.get("patch_counts") is None:
            found["patch_counts"] = (batch["input_ids"] == self.placeholder).sum(-1)
        return found


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
    """`[P, values]` or `[N, P, values]` -> the same with D; with counts a list of `[p, D]`, one for each row."""

    def __init__(self, in_width: int, out_width: int) -> None:
        super().__init__()
        self.proj = Linear(in_width, out_width)

    def forward(self, patches: Tensor, counts: Tensor | Sequence[int] | None = None) -> Tensor | list[Tensor]:
        """Project float patches; counts int [B], or numbers, for which no device is asked.

        Raises PromptError when their sum is another number of patches.
        """
        features = self.proj(patches.to(self.proj.weight.dtype))
        if counts is None:
            return features
        flat = features.reshape(-1, features.shape[-1])
        lengths = counts.tolist() if isinstance(counts, Tensor) else list(counts)
        if len(flat) != sum(lengths):
            raise PromptError(f"patches: the rows hold {sum(lengths)} placeholders, found {len(flat)} patches")
        return [item for item, length in zip(flat.split(lengths), lengths, strict=True) if length]
