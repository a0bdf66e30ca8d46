"""A processor for connectors that read the instruction too (InstructBLIP, arXiv 2305.06500): two tokenizers, two texts.

    messages -> Processor -> batch;  the last words not learned -> reader -> begin + ids + end, one row for each item
    -> qformer_input_ids, qformer_attention_mask [N, L] beside pixel_values

Trap: rows belong to items and not to conversations; two pictures of one conversation get its instruction twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from polymodal.data.processor import Encoded, Memo, Processor
from polymodal.data.template import Segment, Words
from polymodal.data.tokenizer import Tokenizer


class InstructedProcessor(Processor):
    """Processor whose items carry the instruction.  reader: the connector's tokenizer; begin, end: its special tokens.

    longest: ids of the instruction that are kept, its last ones.  The modality's collate must be `collate_instructed`.
    """

    def __init__(self, *, reader: Tokenizer, begin: str, end: str, longest: int = 128, **given: Any) -> None:
        super().__init__(**given)
        self._read = reader
        self._around = ([reader.special(begin)], [reader.special(end)])
        self._longest = longest

    def encode_segments(self, segments: Sequence[Segment], *, memo: Memo | None = None) -> Encoded:
        """As for Processor; the values of each item become a table with the instruction: the last words not learned."""
        made = super().encode_segments(segments, memo=memo)
        said = [segment.text for segment in segments if isinstance(segment, Words) and not segment.loss_mask]
        words = self._read.encode(said[-1] if said else "")[-(self._longest - 2) :]
        ids = torch.tensor([*self._around[0], *words, *self._around[1]])
        placed = []
        for each in made.placed:
            # The key tells what the encoder and the connector will see: the instruction is part of it.
            key = f"{each.item.key}-{'-'.join(map(str, ids.tolist()))}"
            values = {"pixel_values": each.item.values, "qformer_input_ids": ids}
            placed.append(replace(each, item=replace(each.item, values=values, key=key)))
        return replace(made, placed=tuple(placed))


def collate_instructed(items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Items of a batch -> pixel_values [N, ...], qformer_input_ids and qformer_attention_mask [N, L], padded behind."""
    ids = [item["qformer_input_ids"] for item in items]
    return {
        "pixel_values": torch.stack([item["pixel_values"] for item in items]),
        "qformer_input_ids": pad_sequence(ids, batch_first=True),
        "qformer_attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
    }
