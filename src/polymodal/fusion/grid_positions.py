"""Three-axis positions of M-RoPE (Qwen2-VL, arXiv 2409.12191): time, row and column of every token.

Flow
    token types [B, T] (0 text, 1 image, 2 video), grids of the items -> position_ids [3, B, T]
    text at p:    (p, p, p), the next token at p + 1
    an item at p: (p + frame, p + row, p + column) on the grid of merged patches; what follows stands at
                  p + max(rows, columns)

Traps
- The published processor ignores the frames when it goes on after a video: with more frames than rows and columns
  the next token stands before the last frame. Up to version 4 of the transformers library it went on behind them.
- Padding gets 0 and counts for nothing; a generated token stands one behind the last on every axis.
- Positions begin at 0 again with every segment of a packed row.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from polymodal.errors import PromptError

Grid = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class GridPositions:
    """A batch -> its three-axis `position_ids`, for batches with pictures or videos.

    image, video: their placeholder ids, by which tokens are told apart where the batch has no `mm_token_type_ids`.
    """

    image: int
    video: int
    merge: int = 2
    input_names: frozenset[str] = frozenset({"image_grid_thw", "video_grid_thw", "mm_token_type_ids"})

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Adds nothing to a batch of text alone, whose tokens just count, or to one that has its three axes already."""
        given = batch.get("position_ids")
        if given is not None and given.dim() == 3:
            return {}
        names = {1: "image_grid_thw", 2: "video_grid_thw"}
        found = {kind: batch[name] for kind, name in names.items() if batch.get(name) is not None}
        if not found:
            return {}
        ids = batch["input_ids"]
        types = batch.get("mm_token_type_ids")
        if types is None:
            types = (ids == self.image).long() + 2 * (ids == self.video).long()
        grids = {kind: [(int(t), int(h), int(w)) for t, h, w in grid.tolist()] for kind, grid in found.items()}
        mask, segments = batch.get("attention_mask"), batch.get("segments")
        return {"position_ids": grid_positions(types, grids, self.merge, mask, segments)}


def grid_positions(
    types: Tensor,
    grids: Mapping[int, Sequence[Grid]],
    merge: int = 1,
    attention_mask: Tensor | None = None,
    segments: Tensor | None = None,
) -> Tensor:
    """int64 [3, B, T] for `types` [B, T]; `grids`: token type -> (frames, rows, columns) in patches, over the batch.

    segments int [B, T]: the sequences of packed rows.  Touching items of one type are told apart by their lengths.
    Raises PromptError when items and tokens do not agree.
    """
    out = torch.zeros(3, *types.shape, dtype=torch.int64)
    waiting = {kind: iter(items) for kind, items in grids.items()}
    mask = torch.ones_like(types) if attention_mask is None else attention_mask
    segments = torch.zeros_like(types) if segments is None else segments
    table = zip(types.cpu(), mask.cpu().bool(), segments.cpu(), strict=True)
    for row, (kinds, real, segment) in enumerate(table):
        lengths = torch.unique_consecutive(segment[real], return_counts=True)[1].tolist()
        pieces = [_row(piece, waiting, merge, row) for piece in kinds[real].split(lengths)]
        out[:, row, real] = torch.cat(pieces, 1) if pieces else out[:, row, real]
    return out.to(types.device)


def _row(types: Tensor, waiting: Mapping[int, Iterator[Grid]], merge: int, row: int) -> Tensor:
    """Positions [3, T] of one row without padding."""
    pieces: list[Tensor] = []
    position = 0
    kinds, runs = torch.unique_consecutive(types, return_counts=True)
    for kind, length in zip(kinds.tolist(), runs.tolist(), strict=True):
        if kind == 0:
            pieces.append((position + torch.arange(length)).expand(3, -1))
            position += length
        while kind and length > 0:
            grid = next(waiting.get(kind, iter(())), None)
            if grid is None:
                raise PromptError(f"row {row}: {length} media tokens without a grid; the batch lacks an item")
            frames, rows, columns = grid[0], grid[1] // merge, grid[2] // merge
            length -= frames * rows * columns
            if length < 0:
                raise PromptError(f"row {row}: an item of grid {grid} has more tokens than the row holds for it")
            axes = [torch.arange(n) + position for n in (frames, rows, columns)]
            pieces.append(torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1))
            # As published: half of the larger side in patches, which merging may round otherwise.
            position += max(grid[1], grid[2]) // merge
    return torch.cat(pieces, 1) if pieces else torch.zeros(3, 0, dtype=torch.int64)
