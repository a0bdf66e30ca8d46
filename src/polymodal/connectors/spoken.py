"""A connector that hears words: frames of speech -> as many embeddings of a language model as tokens were said.

    features [N, S, D] -> norm -> convolutional blocks -> two frames in one -> blocks -> logits [N, S', V + 1]
        -> likeliest class of every frame; a run of one token, blanks apart, is one token heard (CTC, Graves 2006)
        -> its embedding: the rows of its `top` likeliest tokens, weighted by their chances over the run
    result: N tensors [n_i, D'], n_i = tokens heard in item i

The classes are V tokens of the language model that the training texts are made of, and the blank (the last class).
Each block is x + MLP(norm(depthwise convolution(x))), as in ConvNeXt (arXiv 2201.03545); frames behind an item's end
are zero at every convolution, so that padding changes nothing.

Traps: the rows of the embedding table are copied by `set_rows` and not saved; load the backbone first.  A token is
heard at most once every two classes' frames (40 ms of Whisper's features): a text said faster loses tokens.
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
class SpokenConfig:
    """`words` V.  `early` blocks see every frame, `late` ones pairs of them; `key_width`: width before the classes."""

    words: int
    width: int = 384
    kernel: int = 11
    early: int = 1
    late: int = 2
    key_width: int = 192
    top: int = 4

    def build(self, in_width: int, out_width: int) -> SpokenConnector:
        return SpokenConnector(self, in_width, out_width)


class ConvBlock(nn.Module):
    """``[N, S, W], mask [N, S, 1] -> [N, S, W]``"""

    def __init__(self, width: int, kernel: int):
        super().__init__()
        self.mix = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = LayerNormConfig().build(width)
        self.mlp = MLPConfig(width=width, ffn_width=4 * width).build()

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        mixed = self.mix((x * mask).transpose(1, 2)).transpose(1, 2)
        return x + self.mlp(self.norm(mixed))


class SpokenConnector(nn.Module):
    """``features [N, S, D] -> N tensors [n_i, D']``; see the module's text.

    Saved with the connector: `token_ids` [V], the language model's id of every class.
    """

    token_ids: Tensor
    rows: Tensor

    def __init__(self, config: SpokenConfig, in_width: int, out_width: int):
        super().__init__()
        if config.kernel % 2 == 0:
            raise ConfigError(f"spoken connector: kernel must be odd, found {config.kernel}")
        self.config = config
        self.enter = nn.Sequential(LayerNormConfig().build(in_width), nn.Linear(in_width, config.width))
        self.early = nn.ModuleList(ConvBlock(config.width, config.kernel) for _ in range(config.early))
        self.halve = nn.Linear(2 * config.width, config.width)
        self.late = nn.ModuleList(ConvBlock(config.width, config.kernel) for _ in range(config.late))
        self.leave = nn.Sequential(LayerNormConfig().build(config.width), nn.Linear(config.width, config.key_width))
        self.classes = nn.Linear(config.key_width, config.words + 1)
        self.register_buffer("token_ids", torch.zeros(config.words, dtype=torch.long))
        computed_buffer(self, "rows", lambda: torch.zeros(config.words, out_width), persistent=False)

    @torch.no_grad()
    def set_rows(self, table: Tensor) -> None:
        """Copy the embeddings of the classes' tokens from the backbone's table [vocabulary, D']."""
        self.rows = table[self.token_ids.to(table.device)].detach().clone()

    def frames(self, features: Tensor, lengths: Tensor) -> Tensor:
        """[N, S, D] and the frames of each item [N] -> [N, S, W] after the early blocks."""
        mask = within(lengths, features.shape[1])
        x = self.enter(features)
        for block in self.early:
            x = block(x, mask)
        return x

    def logits(self, frames: Tensor, lengths: Tensor) -> Tensor:
        """What `frames` gave -> [N, ceil(S / 2), V + 1]; item i has ceil(lengths[i] / 2) of them."""
        frames = F.pad(frames * within(lengths, frames.shape[1]), (0, 0, 0, frames.shape[1] % 2))
        x = self.halve(frames.unflatten(1, (-1, 2)).flatten(2))
        mask = within(halved(lengths), x.shape[1])
        for block in self.late:
            x = block(x, mask)
        return self.classes(self.leave(x))

    def heard(self, features: Tensor, lengths: Tensor) -> list[Tensor]:
        """Chances [n_i, V] of every token heard, blanks left out; the likeliest of each row is the token itself."""
        chances = self.logits(self.frames(features, lengths), lengths).softmax(-1)
        return [runs(item[:length]) for item, length in zip(chances, halved(lengths).tolist(), strict=True)]

    def forward(self, features: Tensor, audio_lengths: Tensor | None = None) -> list[Tensor]:
        """audio_lengths [N]: frames of each item; None takes all."""
        if audio_lengths is None:
            audio_lengths = torch.full((len(features),), features.shape[1], device=features.device)
        return [self.embed(chances) for chances in self.heard(features, audio_lengths)]

    def embed(self, chances: Tensor) -> Tensor:
        """Chances [n, V] -> embeddings [n, D']."""
        best, places = chances.topk(min(self.config.top, chances.shape[1]), dim=-1)
        weights = best / best.sum(-1, keepdim=True)
        return (weights[..., None].to(self.rows.dtype) * self.rows[places]).sum(1)


def within(lengths: Tensor, size: int) -> Tensor:
    """[N] -> [N, size, 1], 1.0 in front of each item's end."""
    return (torch.arange(size, device=lengths.device)[None] < lengths[:, None])[..., None].float()


def halved(lengths: Tensor) -> Tensor:
    return (lengths + 1) // 2


def runs(chances: Tensor) -> Tensor:
    """[S', V + 1] -> [n, V]: the mean of each run of frames whose likeliest class is one token, summing to 1.

    At least one token is heard: where all frames are blank, their mean without the blank.
    """
    classes, blank = chances.argmax(-1), chances.shape[-1] - 1
    starts = F.pad(classes[1:] != classes[:-1], (1, 0), value=True)
    numbers = (starts.cumsum(0) - 1)[classes != blank]
    said = chances[classes != blank, :blank]
    if not len(said):
        said, numbers = chances[:, :blank], torch.zeros_like(classes)
    places = numbers.unique(return_inverse=True)[1]
    sums = said.new_zeros(int(places.max()) + 1, blank).index_add(0, places, said)
    return sums / sums.sum(-1, keepdim=True)
