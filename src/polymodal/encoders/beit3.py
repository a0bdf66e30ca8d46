"""BEiT-3 (arXiv 2208.10442): one stack that reads patches, words or both, each with weights of its own kind.

    pixel_values [N, 3, H, W] -> class token and patches [N, P, D] + positions of pictures    kind 0
    ids [N, T] or embeddings [N, T, D] of text + positions of text                            kind 1
    one behind the other -> pre-norm blocks, in whose attention all see all -> norm -> states [N, P + T, D]

The blocks and the norm get the kinds as `token_types`; whoever writes the config fills their slots with routed parts
(`checkpoints/beit3.py`).  Muffin's use of it (arXiv 2310.00653) is `QueryTower`: learned queries stand where words do,
and their last states are the features of the picture.
Traps: both tables of positions are read from row 2 on, the rows before are never used; text counts by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.nn.block import PreNormBlockConfig
from polymodal.nn.mask import MaskSpec
from polymodal.nn.norm import NormConfig
from polymodal.nn.token_types import TokenTypes

FIRST_POSITION = 2


@dataclass(frozen=True, kw_only=True)
class BEiT3Config:
    """Sizes in pixels; texts of up to `text_positions - 2` tokens.  vocab_size: None for no table of words.

    mask_token: a learned vector that replaces masked patches.  norm None: states of the last block as they are.
    pair_kinds: tokens of a pair have kinds of their own, 2 (picture) and 3 (text), for experts that see pairs alone.
    """

    image_size: int
    patch_size: int
    width: int
    blocks: tuple[PreNormBlockConfig, ...]
    norm: NormConfig | None
    text_positions: int = 1024
    vocab_size: int | None = None
    mask_token: bool = False
    pair_kinds: bool = False

    def __post_init__(self) -> None:
        if self.image_size < self.patch_size:
            raise ConfigError(f"beit-3: image_size {self.image_size} is smaller than one patch of {self.patch_size}")

    @property
    def tokens(self) -> int:
        """Of one picture, the class token among them."""
        return (self.image_size // self.patch_size) ** 2 + 1

    def build(self) -> BEiT3:
        return BEiT3(self)


class BEiT3(nn.Module):
    """See the module docstring."""

    def __init__(self, config: BEiT3Config) -> None:
        super().__init__()
        self.config = config
        width, patch = config.width, config.patch_size
        self.patch_embed = nn.Conv2d(3, width, patch, stride=patch)
        self.class_token = nn.Parameter(torch.zeros(width))
        self.mask_token = nn.Parameter(torch.zeros(width)) if config.mask_token else None
        self.embed_tokens = None if config.vocab_size is None else _table(config.vocab_size, width)
        self.picture_positions = _table(config.tokens + FIRST_POSITION, width)
        self.text_positions = _table(config.text_positions, width)
        self.blocks = nn.ModuleList(block.build() for block in config.blocks)
        self.norm = None if config.norm is None else config.norm.build(width)

    def forward(
        self,
        pixel_values: Tensor | None = None,
        text: Tensor | None = None,
        attention_mask: Tensor | None = None,
        bool_masked_pos: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        """States [N, P + T, D] of pictures, of texts (ids [N, T] or embeddings [N, T, D]), or of pairs of them.

        attention_mask [N, T]: 1 = a real token of the text.  bool_masked_pos [N, P - 1]: patches that are hidden.
        causal: words see the picture and the words before them, the picture itself alone (captions).
        Raises ConfigError for no input, a picture of another size and a text longer than its table.
        """
        parts = []
        if pixel_values is not None:
            parts.append(self._pictures(pixel_values, bool_masked_pos))
        if text is not None:
            parts.append(self._texts(text))
        if not parts:
            raise ConfigError("beit-3: expected pixel_values, text or both; found neither")
        x = torch.cat(parts, 1)
        pictures = 0 if pixel_values is None else self.config.tokens
        length = x.shape[1]
        first = 2 if self.config.pair_kinds and 0 < pictures < length else 0
        kinds = ((torch.arange(length, device=x.device) >= pictures).long() + first).expand(x.shape[:2])
        types = TokenTypes(kinds, (*(0,) * first, len(x) * pictures, len(x) * (length - pictures)))
        real = None
        if attention_mask is not None:
            real = nn.functional.pad(attention_mask, (pictures, 0), value=1)
        spans = (torch.arange(length, device=x.device) < pictures).long().expand(x.shape[:2]) if causal else None
        spec = MaskSpec(causal=causal, attention_mask=real, two_way=spans)
        mask = spec.prepare(length, length, x.device)
        for block in self.blocks:
            x = block(x, mask, types)
        return x if self.norm is None else self.norm(x, types)

    def _pictures(self, pixel_values: Tensor, hidden: Tensor | None) -> Tensor:
        side = self.config.image_size
        if pixel_values.dim() != 4 or tuple(pixel_values.shape[1:]) != (3, side, side):
            raise ConfigError(f"beit-3: expected pixel_values [N, 3, {side}, {side}], found {list(pixel_values.shape)}")
        x = self.patch_embed(pixel_values.to(self.patch_embed.weight.dtype)).flatten(2).transpose(1, 2)
        if hidden is not None:
            if self.mask_token is None:
                raise ConfigError("beit-3: bool_masked_pos needs a model with a mask token")
            x = torch.where(hidden.bool()[..., None], self.mask_token, x)
        x = torch.cat((self.class_token.expand(len(x), 1, -1), x), 1)
        return x + self.picture_positions.weight[FIRST_POSITION:]

    def _texts(self, text: Tensor) -> Tensor:
        most = self.config.text_positions - FIRST_POSITION
        if text.shape[1] > most:
            raise ConfigError(f"beit-3: a text of {text.shape[1]} tokens for a limit of {most}")
        if text.dim() == 2:
            if self.embed_tokens is None:
                raise ConfigError("beit-3: this model has no table of words; give embeddings [N, T, D]")
            text = self.embed_tokens(text)
        return text + self.text_positions.weight[FIRST_POSITION : FIRST_POSITION + text.shape[1]]


class QueryTower(nn.Module):
    """`queries` learned queries beside the patches of a BEiT-3: pixel_values [N, 3, H, W] -> [N, queries, D]."""

    def __init__(self, config: BEiT3Config, queries: int) -> None:
        super().__init__()
        self.config = config
        self.queries = nn.Parameter(torch.empty(queries, config.width))
        nn.init.trunc_normal_(self.queries, std=0.02)
        self.tower = config.build()

    def forward(self, pixel_values: Tensor) -> Tensor:
        states = self.tower(pixel_values, self.queries.expand(len(pixel_values), -1, -1))
        return states[:, self.config.tokens :]


def _table(rows: int, width: int) -> nn.Embedding:
    table = nn.Embedding(rows, width)
    nn.init.normal_(table.weight, std=0.02)
    return table
