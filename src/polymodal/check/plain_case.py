"""Cases and sizes whose oracle is written out in the evidence, with the parts of `plain.py`.

    shapes(config) -> every name on disk      answer(weights, config, ids [T], pictures) -> logits [T, V]

Rows are given to the oracle one by one, so that it needs neither padding nor a cache.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polymodal.check import randomise
from polymodal.check.plain import Shapes, Weights
from polymodal.check.record import Case, Expected, Size

STEPS = 16  # greedy steps that are compared


@dataclass(frozen=True, kw_only=True)
class PlainOracle:
    """shapes(config): names on disk.  answer(weights, config, ids int64 [T], pixels [n, 3, side, side]) -> [T, V].

    features(weights, config, pixels [N, 3, side, side]) -> [N, S, D], what of each picture enters the backbone.
    """

    shapes: Callable[[Mapping[str, Any]], Shapes]
    answer: Callable[[Weights, Mapping[str, Any], Tensor, Tensor], Tensor]
    features: Callable[[Weights, Mapping[str, Any], Tensor], Tensor]

    def case(self, name: str, config: Mapping[str, Any], rows: Sequence[tuple[Sequence[int], int]], side: int) -> Case:
        """rows: the ids of each row and its number of pictures, which are side x side and all random."""

        def make(folder: Path) -> Expected:
            from safetensors.torch import save_file

            weights = randomise.state(self.shapes(config))
            save_file(weights, folder / "model.safetensors")
            (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
            with torch.no_grad():
                return self.expected(weights, config, rows, side)

        return Case(name=name, make=make)

    def expected(
        self, weights: Weights, config: Mapping[str, Any], rows: Sequence[tuple[Sequence[int], int]], side: int
    ) -> Expected:
        """Rows padded on the left, logits of all of them, 16 greedy steps, and each row by itself."""
        pixels = randomise.values("pixels", (sum(count for _, count in rows), 3, side, side))
        length, start = max(len(ids) for ids, _ in rows), 0
        logits, written, alone = [], [], []
        for number, (given, count) in enumerate(rows):
            ids, own = torch.tensor(given), pixels[start : start + count]
            found = self.answer(weights, config, ids, own)
            logits.append(torch.nn.functional.pad(found, (0, 0, length - len(ids), 0)))
            written.append(self.greedy(weights, config, ids, own))
            alone.append((number, {"input_ids": ids[None]} | ({"pixel_values": own} if count else {})))
            start += count
        padded = torch.tensor([[0] * (length - len(ids)) + list(ids) for ids, _ in rows])
        mask = torch.tensor([[0] * (length - len(ids)) + [1] * len(ids) for ids, _ in rows])
        return Expected(
            inputs={"input_ids": padded, "attention_mask": mask, "pixel_values": pixels},
            logits=torch.stack(logits),
            features={"image": self.features(weights, config, pixels)},
            generated=torch.cat((padded, torch.stack(written)), 1),
            alone=tuple(alone),
        )

    def greedy(self, weights: Weights, config: Mapping[str, Any], ids: Tensor, pixels: Tensor) -> Tensor:
        """The ids that follow, [16]."""
        for _ in range(STEPS):
            ids = torch.cat((ids, self.answer(weights, config, ids, pixels)[-1:].argmax(-1)))
        return ids[-STEPS:]

    def size(self, variant: str, config: Mapping[str, Any]) -> Size:
        """A size by the list of names; where one is published, `fixture_size` and `packed_size` take that."""
        shapes = self.shapes(config)
        return Size(
            variant=variant,
            shapes=lambda: shapes,
            source="the names and shapes written out in the evidence",
            parameters=lambda: sum(map(math.prod, shapes.values())),
        )
