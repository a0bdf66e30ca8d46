"""The sound encoder of Qwen-Audio (arXiv 2311.07919): Whisper's, for recordings shorter than its window.

Flow
    log-mel of 30 s, cut to the longest recording [N, mels, 2 * S] -> Whisper's convolutions and positions
    -> blocks that see no padding -> mean of neighbours [N, S // 2, D] -> norm

Traps: the mean comes before the last norm; published code reads, behind a recording that is shorter than the longest
of its batch, the silence of its log-mel, which its last feature sees; here that is zero, as when it is encoded alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.encoders.whisper import WhisperEncoderBlock, WhisperEncoderConfig, sinusoids
from polymodal.errors import MediaError
from polymodal.nn.computed import computed_buffer
from polymodal.nn.mask import MaskSpec, PreparedMask
from polymodal.nn.norm import LayerNormConfig

Lengths = Tensor | Sequence[tuple[int, int]]  # of each recording: features before the mean, and behind it


def host_lengths(lengths: Lengths) -> list[tuple[int, int]]:
    """Numbers on the host, from those of the processor or the published tensor [N, 2]."""
    rows = lengths.tolist() if isinstance(lengths, Tensor) else lengths
    return [(int(before), int(behind)) for before, behind in rows]


def lengths_of(mel_frames: int) -> tuple[int, int]:
    """(features before the mean, behind it) of that many log-mel frames."""
    before = (mel_frames + 1) // 2
    return before, before // 2


@dataclass(frozen=True, kw_only=True)
class QwenAudioEncoderConfig:
    """`whisper`: sizes of the encoder."""

    whisper: WhisperEncoderConfig

    def build(self) -> QwenAudioEncoder:
        return QwenAudioEncoder(self)


class QwenAudioEncoder(nn.Module):
    """See the module docstring; parameters have the names of `WhisperEncoder`."""

    positions: Tensor

    def __init__(self, config: QwenAudioEncoderConfig) -> None:
        super().__init__()
        self.config = config
        sizes = config.whisper
        self.conv1 = nn.Conv1d(sizes.mels, sizes.width, kernel_size=3, padding=1)
        self.conv2 = nn.Conv1d(sizes.width, sizes.width, kernel_size=3, stride=2, padding=1)
        computed_buffer(self, "positions", lambda: sinusoids(sizes.tokens, sizes.width))
        self.blocks = nn.ModuleList(WhisperEncoderBlock(sizes) for _ in range(sizes.depth))
        self.norm = LayerNormConfig().build(sizes.width)

    def forward(self, audio_values: Tensor, lengths: Lengths) -> Tensor:
        """log-mel [N, mels, frames], lengths of each item -> [N, longest // 2, D]; behind an item: nothing of use.

        Raises MediaError for items longer than the log-mel or the window, or shorter than one feature.
        """
        counts = [before for before, _ in host_lengths(lengths)]
        longest, most = max(counts), min(self.config.whisper.tokens, (audio_values.shape[-1] + 1) // 2)
        if len(counts) != len(audio_values) or min(counts) < 2 or longest > most:
            raise MediaError(f"Qwen-Audio encoder: expected {len(audio_values)} lengths, 2 to {most}; found {counts}")
        x = audio_values[:, :, : 2 * longest].to(self.conv1.weight.dtype)
        inside, mask = None, None
        if min(counts) < longest:
            inside = self._inside(counts, longest, x.device)
            x = x * inside.repeat_interleave(2, 1)[:, None, : x.shape[-1]].to(x.dtype)
            mask = self._mask(inside, longest)
        x = F.gelu(self.conv2(F.gelu(self.conv1(x)))).transpose(1, 2)
        x = x + self.positions[:longest].to(x.dtype)
        if inside is not None:
            x = x * inside[..., None].to(x.dtype)
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x[:, : longest // 2 * 2].unflatten(1, (-1, 2)).mean(2))

    @staticmethod
    def _inside(counts: Sequence[int], longest: int, device: torch.device) -> Tensor:
        """Bool [N, longest]: what belongs to each item."""
        return torch.arange(longest, device=device) < torch.tensor(counts, device=device)[:, None]

    @staticmethod
    def _mask(inside: Tensor, longest: int) -> PreparedMask:
        return MaskSpec(causal=False, attention_mask=inside).prepare(longest, longest, inside.device)
