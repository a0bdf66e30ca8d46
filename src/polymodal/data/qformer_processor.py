"""A processor for Q-Formers that read the instruction too (InstructBLIP, arXiv 2305.06500): two tokenizers, two texts.

    messages -> Processor -> batch;  the last words without loss -> Q-Former tokenizer -> begin + ids + end
    -> a row for each item: qformer_input_ids, qformer_attention_mask [N, L] beside pixel_values

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


class QFormerProcessor(Processor):
    """Processor whose items carry the instruction.  reader: the Q-Former's tokenizer; begin, end: its special tokens.

    longest: at most this many ids of the instruction are kept, the last ones.  The modality's collate must be
    `collate_with_instruction`.
    """

    def __init__(self, *, reader: Tokenizer, begin: str, end: str, longest: int = 128, **given: Any) -> None:
        super().__init__(**given)
        self._read = reader
        self._around = ([reader.special(begin)], [reader.special(end)])
        self._longest = longest

    def encode_segments(self, segments: Sequence[Segment], *, memo: Memo | None = None) -> Encoded:
        """As for Processor; the values of each item get the instruction beside them: the last words without loss."""
        made = super().encode_segments(segments, memo=memo)
        prompts = [segment.text for segment in segments if isinstance(segment, Words) and not segment.loss_mask]
        words = self._read.encode(prompts[-1] if prompts else "")[-(self._longest - 2) :]
        ids = torch.tensor([*self._around[0], *words, *self._around[1]])
        spans = []
        for each in made.media_spans:
            # The key tells what the encoder and the connector will see: the instruction is part of it.
            key = f"{each.item.key}-{'-'.join(map(str, ids.tolist()))}"
            values = {"pixel_values": each.item.values, "qformer_input_ids": ids}
            spans.append(replace(each, item=replace(each.item, values=values, key=key)))
        return replace(made, media_spans=tuple(spans))


def collate_with_instruction(items: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Items of a batch -> pixel_values [N, ...], qformer_input_ids and qformer_attention_mask [N, L], padded behind."""
    ids = [item["qformer_input_ids"] for item in items]
    return {
        "pixel_values": torch.stack([item["pixel_values"] for item in items]),
        "qformer_input_ids": pad_sequence(ids, batch_first=True),
        "qformer_attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
    }
