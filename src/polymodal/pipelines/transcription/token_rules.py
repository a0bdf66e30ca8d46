"""Which token may come next in a Whisper transcript (arXiv:2212.04356 §2.3, §4.5), as a filter on logits.

    logits [R, V] + what each row has written -> the same logits with forbidden ids at -inf

Always: no symbols nobody speaks, no control tokens.  First: neither a blank nor the end.  With timestamps: the text
opens with one, they come in pairs (end of a segment, start of the next), never go back, and one is forced when all
of them together are likelier than the likeliest text token.
Trap: the rules see scores BEFORE temperature, and log-probabilities are taken after the rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from polymodal.data.whisper_tokenizer import SECONDS_PER_TIMESTAMP, WhisperTokenizer

NEVER = -torch.inf


@dataclass(frozen=True, kw_only=True)
class TokenRules:
    """The rules of one transcription.

    `latest_start`: seconds within which the first segment must begin, None = anywhere.  `non_speech=True` lets
    brackets and music notes through, `blank=True` an empty answer.  `suppress`: further ids never written.
    """

    latest_start: float | None = 1.0
    non_speech: bool = False
    blank: bool = False
    suppress: tuple[int, ...] = ()

    def build(
        self, tokenizer: WhisperTokenizer, *, timestamps: bool, device: torch.device | str = "cpu"
    ) -> TokenFilter:
        return TokenFilter(self, tokenizer, timestamps, device)


class TokenFilter:
    """`TokenRules` bound to a vocabulary and a device."""

    def __init__(
        self, rules: TokenRules, tokenizer: WhisperTokenizer, timestamps: bool, device: torch.device | str
    ) -> None:
        self.rules = rules
        self.timestamps = timestamps
        self.eot = tokenizer.eot
        self.timestamp_begin = tokenizer.timestamp_begin
        never = {*tokenizer.control_ids, *rules.suppress}
        if not rules.non_speech:
            never.update(tokenizer.non_speech_ids)
        if timestamps:
            never.add(tokenizer.no_timestamps)
        self._never = torch.tensor(sorted(never), device=device)
        self._blank = torch.tensor(tokenizer.blank_ids, device=device)
        self._latest: int | None = None
        if rules.latest_start:
            self._latest = self.timestamp_begin + round(rules.latest_start / SECONDS_PER_TIMESTAMP)

    def apply(self, logits: Tensor, written: Sequence[Sequence[int]]) -> Tensor:
        """Filter `logits [R, V]` float32 in place and return them; `written[r]`: what row r wrote after its start."""
        first = not written[0]
        if first and not self.rules.blank:
            logits.index_fill_(1, self._blank, NEVER)
        logits.index_fill_(1, self._never, NEVER)
        if not self.timestamps:
            return logits
        begin = self.timestamp_begin
        for row, ids in enumerate(written):
            self._keep_pairs(logits[row], ids)
        if first:
            logits[:, :begin] = NEVER
            if self._latest is not None:
                logits[:, self._latest + 1 :] = NEVER
        # The common normaliser of both sides cancels, so plain scores decide.
        forced = logits[:, begin:].logsumexp(-1) > logits[:, :begin].amax(-1)
        logits[:, :begin].masked_fill_(forced[:, None], NEVER)
        return logits

    def _keep_pairs(self, scores: Tensor, ids: Sequence[int]) -> None:
        """Pairs and order of timestamps for one row, `scores [V]`."""
        begin = self.timestamp_begin
        after_stamp = bool(ids) and ids[-1] >= begin
        after_pair = after_stamp and (len(ids) < 2 or ids[-2] >= begin)
        if after_pair:
            scores[begin:] = NEVER
        elif after_stamp:
            scores[: self.eot] = NEVER
        latest = next((id_ for id_ in reversed(ids) if id_ >= begin), None)
        if latest is not None:
            # The next segment may start where this one ends; any other stamp must be later.
            scores[begin : latest if after_stamp and not after_pair else latest + 1] = NEVER
