"""A CTC connector for speech: frames -> one embedding of the language model per recognised token.

    features [N, S, D] -> norm -> convolutional blocks -> merge two frames -> blocks -> logits [N, S', V + 1]
        -> greedy CTC (Graves 2006): argmax per frame, runs of one token merged, blanks removed
        -> embedding of a token: the rows of the `top` most likely tokens, weighted by their mean probability in the run
    result: N tensors [n_i, D'], n_i = tokens recognised in item i

The classes are the V tokens of the language model that occur in the training texts, and the blank (the last class).
Each block is x + MLP(norm(depthwise convolution(x))), as in ConvNeXt (arXiv 2201.03545); frames beyond the length of
an item are zeroed before every convolution, so padding has no effect.

Traps: `set_embeddings` copies the rows of the embedding table, which are not saved; load the backbone first.  Greedy
CTC emits at most one token per output frame (40 ms with Whisper's features): faster speech loses tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.nn.computed import computed_buffer
from polymodal.nn.mlp import MLPConfig
from polymodal.nn.norm import LayerNormConfig


@dataclass(frozen=True, kw_only=True)
class CTCConnectorConfig:
    """`vocab_size` V.  `early` blocks run before frames are merged in pairs, `late` ones after.

    `key_width`: width before the classifier.  `top`: tokens averaged in an embedding.
    """

    vocab_size: int
    width: int = 384
    kernel: int = 11
    early: int = 1
    late: int = 2
    key_width: int = 192
    top: int = 4

    def build(self, in_width: int, out_width: int) -> CTCConnector:
        return CTCConnector(self, in_width, out_width)


class ConvBlock(nn.Module):
    """`[N, S, W], mask [N, S, 1] -> [N, S, W]`"""

    def __init__(self, width: int, kernel: int):
        super().__init__()
        self.mix = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = LayerNormConfig().build(width)
        self.mlp = MLPConfig(width=width, ffn_width=4 * width).build()

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        mixed = self.mix((x * mask).transpose(1, 2)).transpose(1, 2)
        return x + self.mlp(self.norm(mixed))


class CTCConnector(nn.Module):
    """`features [N, S, D] -> N tensors [n_i, D']`; see the module docstring.

    Saved with the connector: `token_ids` [V], the language model's token id of each class.
    """

    token_ids: Tensor
    rows: Tensor

    def __init__(self, config: CTCConnectorConfig, in_width: int, out_width: int):
        super().__init__()
        if config.kernel % 2 == 0:
            raise ConfigError(f"CTC connector: kernel must be odd, found {config.kernel}")
        self.config = config
        self.enter = nn.Sequential(LayerNormConfig().build(in_width), nn.Linear(in_width, config.width))
        self.early = nn.ModuleList(ConvBlock(config.width, config.kernel) for _ in range(config.early))
        self.halve = nn.Linear(2 * config.width, config.width)
        self.late = nn.ModuleList(ConvBlock(config.width, config.kernel) for _ in range(config.late))
        self.leave = nn.Sequential(LayerNormConfig().build(config.width), nn.Linear(config.width, config.key_width))
        self.classes = nn.Linear(config.key_width, config.vocab_size + 1)
        self.register_buffer("token_ids", torch.zeros(config.vocab_size, dtype=torch.long))
        computed_buffer(self, "rows", lambda: torch.zeros(config.vocab_size, out_width), persistent=False)

    @torch.no_grad()
    def set_embeddings(self, table: Tensor) -> None:
        """Copy the embeddings of the V tokens from the backbone's `table` [vocabulary, D']."""
        self.rows = table[self.token_ids.to(table.device)].detach().clone()

    def frames(self, features: Tensor, lengths: Tensor) -> Tensor:
        """[N, S, D] and the number of frames of each item [N] -> [N, S, W] after the early blocks."""
        mask = frame_mask(lengths, features.shape[1])
        x = self.enter(features)
        for block in self.early:
            x = block(x, mask)
        return x

    def logits(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """Output of `frames` -> logits [N, ceil(S / 2), V + 1]; item i has ceil(lengths[i] / 2) valid frames."""
        frames = F.pad(frames * frame_mask(lengths, frames.shape[1]), (0, 0, 0, frames.shape[1] % 2))
        x = self.halve(frames.unflatten(1, (-1, 2)).flatten(2))
        mask = frame_mask(halved(lengths), x.shape[1])
        for block in self.late:
            x = block(x, mask)
        return self.classes(self.leave(x))

    def decode(self, features: Tensor, lengths: Tensor) -> list[Tensor]:
        """Token probabilities [n_i, V] per item, blanks removed; the argmax of a row is the recognised token."""
        probs = self.logits(self.frames(features, lengths), lengths).softmax(-1)
        return [collapse_runs(item[:length]) for item, length in zip(probs, halved(lengths).tolist(), strict=True)]

    def forward(self, features: Tensor, audio_lengths: Tensor | None = None) -> list[Tensor]:
        """audio_lengths int [N]: frames of each item; None: all frames are valid."""
        if audio_lengths is None:
            audio_lengths = torch.full((len(features),), features.shape[1], device=features.device)
        return [self.embed(probs) for probs in self.decode(features, audio_lengths)]

    def embed(self, probs: Tensor) -> Tensor:
        """Token probabilities [n, V] -> embeddings [n, D']."""
        top, indices = probs.topk(min(self.config.top, probs.shape[1]), dim=-1)
        weights = top / top.sum(-1, keepdim=True)
        return (weights[..., None].to(self.rows.dtype) * self.rows[indices]).sum(1)


def frame_mask(lengths: Tensor, size: int) -> Tensor:
    """[N] -> [N, size, 1], 1.0 for valid frames and 0.0 for padding."""
    return (torch.arange(size, device=lengths.device)[None] < lengths[:, None])[..., None].float()


def halved(lengths: Tensor) -> Tensor:
    """Lengths after frames are merged in pairs, rounded up."""
    return (lengths + 1) // 2


def collapse_runs(probs: Tensor) -> Tensor:
    """[S', V + 1] -> [n, V]: mean probabilities of each run of frames with the same argmax, normalised, no blanks.

    At least one row is returned: if all frames are blank, their mean without the blank.
    """
    classes, blank = probs.argmax(-1), probs.shape[-1] - 1
    starts = F.pad(classes[1:] != classes[:-1], (1, 0), value=True)
    run_ids = (starts.cumsum(0) - 1)[classes != blank]
    frames = probs[classes != blank, :blank]
    if not len(frames):
        frames, run_ids = probs[:, :blank], torch.zeros_like(classes)
    runs = run_ids.unique(return_inverse=True)[1]
    sums = frames.new_zeros(int(runs.max()) + 1, blank).index_add(0, runs, frames)
    return sums / sums.sum(-1, keepdim=True)
