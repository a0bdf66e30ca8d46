"""A processor for encoder-decoders: the answer goes to the decoder, everything before it to the encoder.

    messages -> Processor -> ids and loss mask -> answer = the ids with loss at the end, prompt = all before them
    -> input_ids, attention_mask [B, S] of the prompt;  decoder_input_ids [B, T] = start + answer;  labels [B, T]

Labels stand at the position that predicts them, one before the token in decoder_input_ids (-100 at the last), as the
transformers library has them for encoder-decoders.
Answers are padded on the prompt's side: on the left, with a decoder_attention_mask, for generation.
Trap: one answer a conversation; answers before the last are part of the prompt, and not learned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch.nn.utils.rnn import pad_sequence

from polymodal.data.processor import IGNORE, Encoded, Processor
from polymodal.errors import PromptError


class EncoderDecoderProcessor(Processor):
    """Processor that gives the answer to the decoder.  start_id: the token an answer starts with."""

    def __init__(self, *, start_id: int, **given: Any) -> None:
        super().__init__(**given)
        self._start = start_id

    def collate(
        self,
        rows: Sequence[Encoded],
        *,
        padding: Literal["left", "right"],
        dummies: Mapping[str, Any] = MappingProxyType({}),
    ) -> dict[str, Any]:
        """See the module docstring; media as for Processor.  Raises PromptError for packed rows."""
        if any(row.segments for row in rows):
            raise PromptError("packed rows: an encoder-decoder takes one conversation a row; collate them unpacked")
        prompts, answers = [], []
        for row in rows:
            cut = len(row)
            while cut and row.loss_mask[cut - 1]:
                cut -= 1
            answers.append(row.input_ids[cut:])
            prompts.append(
                replace(
                    row, input_ids=row.input_ids[:cut], loss_mask=row.loss_mask[:cut], token_types=row.token_types[:cut]
                )
            )
        batch = super().collate(prompts, padding=padding, dummies=dummies)
        ids = [torch.tensor([self._start, *answer]) for answer in answers]
        labels = [torch.tensor([*answer, IGNORE]) for answer in answers]
        batch["decoder_input_ids"] = pad_sequence(ids, batch_first=True, padding_side=padding)
        batch["labels"] = pad_sequence(labels, batch_first=True, padding_value=IGNORE, padding_side=padding)
        if padding == "left" and len({len(row) for row in ids}) > 1:
            real = [torch.ones_like(row) for row in ids]
            batch["decoder_attention_mask"] = pad_sequence(real, batch_first=True, padding_side=padding)
        return batch
