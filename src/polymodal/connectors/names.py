"""A connector that hands a language model words it already knows, and a few dense features beside them.

    features [N, S, D] -> summary [N, W] (some channels averaged, some kept cell by cell; standardised)
    summary -> sentence -> unit vector [N, E]   . keys [V, E]        how near is each of V names, seen or not
    summary -> recall   -> unit vector [N, R]   . class_keys [C, R]  which of the C names that training showed
    both -> logits [N, V] -> the best few names, as tokens looked up in the backbone's own embedding table
            -> word slots [N, K, D'];       summary -> MLP -> dense slots [N, Q, D']
    summary -> colour -> the likeliest of a few colours, whose word takes the last word slot (where there is that head)

Why: with little paired data a connector cannot learn where every word lies in a language model's embedding space, but
it can learn where a picture lies among sentence vectors of names (CLIP's zero-shot classifier, arXiv 2103.00020; a
fixed text tower, LiT, arXiv 2111.07991).  A name that no training picture showed still has its key there.  The second
space is free of the sentence encoder's idea of likeness, so names that were shown are told apart better.

The word slots are exact rows of the embedding table plus a learned multiple of the name's log-probability; they carry
no gradient to the logits, which have their own training.  The dense slots are trained by the language-model loss.

Traps: the rows of the embedding table that names need are copied by `set_names` and not saved with the connector:
load the backbone first, and call `set_names` again if its table is trained further.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.nn.computed import computed_buffer


@dataclass(frozen=True, kw_only=True)
class NamesConfig:
    """`names` V with `name_tokens` ids each at most, `classes` C of them shown in training.

    `cells` S features an item; of each, the last `placed_width` channels are kept cell by cell and the others are
    averaged over the cells.  `top` names fill `word_slots`; `dense_slots` follow them.  `colours`: 0 for no such head.
    """

    names: int
    classes: int
    name_tokens: int = 4
    key_width: int = 384
    class_width: int = 384
    cells: int = 9
    placed_width: int = 704
    hidden_width: int = 128
    top: int = 5
    word_slots: int = 12
    dense_slots: int = 8
    colours: int = 0

    def tokens(self, n_in: int) -> int:
        """Features per item, whatever the encoder gives."""
        return self.word_slots + self.dense_slots

    def build(self, in_width: int, out_width: int) -> NamesConnector:
        return NamesConnector(self, in_width, out_width)


class NamesConnector(nn.Module):
    """``features [N, S, D] -> [N, word_slots + dense_slots, D']``; see the module's text.

    Saved with the connector: `keys` [V, E] and `class_keys` [C, R] unit rows, `class_index` [C] places of the shown
    names among all, `centre` and `spread` of the summary over the training pictures, and `mix`: logarithms of the two
    scales and what being shown adds.  Made by `set_names` when loading: `rows`, the embeddings of the token ids
    that names and colours use, separator and filler last; `name_rows` [V, name_tokens], each name's tokens as
    positions in `rows`, -1 behind the end.
    """

    keys: Tensor
    class_keys: Tensor
    class_index: Tensor
    centre: Tensor
    spread: Tensor
    rows: Tensor
    name_rows: Tensor

    def __init__(self, config: NamesConfig, in_width: int, out_width: int):
        super().__init__()
        self.config = config
        self.out_width = out_width
        summary = in_width - config.placed_width + config.cells * config.placed_width
        self.sentence = nn.Linear(summary, config.key_width)
        self.recall = nn.Linear(summary, config.class_width)
        self.mix = nn.Parameter(torch.tensor([3.0, 3.0, 0.0]))
        self.dense = nn.Sequential(
            nn.Linear(summary, config.hidden_width),
            nn.GELU(),
            nn.Linear(config.hidden_width, config.dense_slots * out_width),
        )
        self.colour = nn.Linear(summary, config.colours) if config.colours else None
        self.confidence = nn.Parameter(torch.zeros(out_width))
        self.register_buffer("keys", torch.zeros(config.names, config.key_width))
        self.register_buffer("class_keys", torch.zeros(config.classes, config.class_width))
        self.register_buffer("class_index", torch.zeros(config.classes, dtype=torch.long))
        self.register_buffer("centre", torch.zeros(summary))
        self.register_buffer("spread", torch.ones(summary))
        computed_buffer(self, "rows", lambda: torch.zeros(2, out_width), persistent=False)
        absent = (config.names, config.name_tokens)
        computed_buffer(self, "name_rows", lambda: torch.full(absent, -1), persistent=False)

    def summary(self, features: Tensor) -> Tensor:
        """[N, S, D] -> [N, W], standardised."""
        averaged, placed = features.split([features.shape[-1] - self.config.placed_width, self.config.placed_width], -1)
        return (torch.cat([averaged.mean(1), placed.flatten(1)], dim=-1) - self.centre) / self.spread

    def embed(self, features: Tensor) -> Tensor:
        """[N, S, D] -> unit vectors [N, E] in the space of the names' keys."""
        return self.point(self.summary(features))

    def point(self, summary: Tensor) -> Tensor:
        """Summaries [N, W] -> unit vectors [N, E]."""
        return F.normalize(self.sentence(summary), dim=-1)

    def logits(self, summary: Tensor) -> Tensor:
        """Summaries [N, W] -> logits [N, V] of the names."""
        near = self.point(summary) @ self.keys.T * self.mix[0].exp()
        shown = F.normalize(self.recall(summary), dim=-1) @ self.class_keys.T * self.mix[1].exp() + self.mix[2]
        return near.index_add(1, self.class_index, shown.to(near.dtype))

    @torch.no_grad()
    def set_names(
        self,
        name_ids: list[list[int]],
        separator_id: int,
        filler_id: int,
        table: Tensor,
        colour_ids: Sequence[int] = (),
    ) -> None:
        """Copy from the backbone's embedding `table` [vocab, D'] the rows that the V names' token ids need.

        colour_ids: the token of every colour.  Raises ConfigError when there are not V names or not as many colours
        as the head has, or when a name has more than `name_tokens` tokens.
        """
        longest = max(map(len, name_ids), default=0)
        if len(name_ids) != self.config.names or longest > self.config.name_tokens:
            raise ConfigError(
                f"names connector: expected {self.config.names} names of at most {self.config.name_tokens} tokens, "
                f"found {len(name_ids)} of at most {longest}"
            )
        if len(colour_ids) != self.config.colours:
            raise ConfigError(
                f"names connector: expected tokens of {self.config.colours} colours, found {len(colour_ids)}"
            )
        used = sorted({i for ids in name_ids for i in ids} - {separator_id, filler_id})
        place = {token: row for row, token in enumerate(used)}
        place |= {separator_id: len(used) + len(colour_ids), filler_id: len(used) + len(colour_ids) + 1}
        padded = [[place[i] for i in ids] + [-1] * (self.config.name_tokens - len(ids)) for ids in name_ids]
        self.name_rows.copy_(torch.tensor(padded))
        self.rows = table[[*used, *colour_ids, separator_id, filler_id]].detach().clone().to(self.keys)

    def best(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [N, V] -> log-probabilities and places among the names of the `top` best, both [N, top]."""
        chances, order = logits.log_softmax(-1).topk(self.config.top, dim=-1)
        return chances, order

    def pack(self, chances: Tensor, order: Tensor, colours: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What `best` gave -> positions in `rows` [N, K] of the names' tokens, and log-probabilities [N, K].

        Names are separated and filled up; one that no longer fits is left out whole, and separators and filler
        have log-probability 0.  colours [N]: each item's, put in the last slot, with log-probability 0 too.
        """
        width = self.config.word_slots - (colours is not None)
        filler = self.rows.shape[0] - 1
        places = torch.full((order.shape[0], self.config.word_slots), filler)
        weights = torch.zeros(order.shape[0], self.config.word_slots)
        if colours is not None:
            places[:, -1] = filler - 1 - self.config.colours + colours.cpu()
        for row, (names, logs) in enumerate(zip(self.name_rows[order].tolist(), chances.tolist(), strict=True)):
            end = 0
            for name, log in zip(names, logs, strict=True):
                tokens = [token for token in name if token >= 0]
                if end + len(tokens) > width:
                    break
                written = torch.tensor([*tokens, filler - 1])[: width - end]
                places[row, end : end + len(written)] = written
                weights[row, end : end + len(tokens)] = log
                end += len(tokens) + 1
        return places.to(order.device), weights.to(chances)

    def forward(self, features: Tensor) -> Tensor:
        """features [N, S, D] -> [N, word_slots + dense_slots, D']."""
        summary = self.summary(features)
        with torch.no_grad():
            colours = None if self.colour is None else self.colour(summary).argmax(-1)
            places, weights = self.pack(*self.best(self.logits(summary)), colours)
        return self.assemble(summary, places, weights)

    def assemble(self, summary: Tensor, places: Tensor, weights: Tensor) -> Tensor:
        """The output for words chosen before (training takes them from a model that has not seen the picture)."""
        dense = self.dense(summary).unflatten(-1, (self.config.dense_slots, self.out_width))
        words = F.embedding(places, self.rows).to(dense.dtype) + weights[..., None].to(dense.dtype) * self.confidence
        return torch.cat([words, dense], dim=1)
