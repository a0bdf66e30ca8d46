"""A connector that gives a language model the embeddings of predicted names, plus a few dense features.

    features [N, S, D] -> summary [N, W] (some channels averaged, some kept per cell; standardised)
    summary -> sentence -> unit vector [N, E]   . keys [V, E]        similarity to all V names, zero-shot
    summary -> recall   -> unit vector [N, R]   . class_keys [C, R]  similarity to the C names of the training set
    both -> logits [N, V] -> the top few names, as rows of the backbone's embedding table
            -> word slots [N, K, D'];       summary -> MLP -> dense slots [N, Q, D']
    (with `everyday`, the first channels of a feature tell what was found and seen, and their words join the names;
     what is there beside the first name comes with its own chance)
    summary -> colour -> the most likely colour, whose word goes to the last word slot (only with that head)

Why: with little paired data a connector cannot learn the embedding of every word of a language model, but it can learn
to map an image into a space of sentence vectors of names (CLIP's zero-shot classifier, arXiv 2103.00020; a frozen text
encoder, LiT, arXiv 2111.07991).  There, a name without any training image still has a key.  The second space is
learned without the sentence encoder, so it separates the names of the training set better.

The word slots are exact rows of the embedding table plus a learned vector times the log-probability of the name; they
pass no gradient to the logits, which are trained separately.  The language-model loss trains the dense slots.

Traps: `set_names` copies the rows of the embedding table that the names need; they are not saved with the connector.
Load the backbone first, and call `set_names` again if its table is trained further.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.connectors.everyday import FLOOR, EverydayConfig
from polymodal.errors import ConfigError
from polymodal.nn.computed import computed_buffer


@dataclass(frozen=True, kw_only=True)
class NamesConfig:
    """`names` V with at most `name_tokens` ids each, of which `classes` C are in the training set.

    `cells`: S features per item; their last `cell_width` channels are kept per cell, the others are averaged over the
    cells.  The `top` names fill `word_slots`; `dense_slots` follow.  `colours`: number of colours, 0: no colour head.
    `everyday`: reads the first channels of each feature: what a detector found, then class probabilities.
    `summary_dropout`: of the summary in front of the dense slots, in training.
    """

    names: int
    classes: int
    name_tokens: int = 4
    key_width: int = 384
    class_width: int = 384
    cells: int = 9
    cell_width: int = 704
    hidden_width: int = 128
    top: int = 5
    word_slots: int = 12
    dense_slots: int = 8
    colours: int = 0
    everyday: EverydayConfig | None = None
    summary_dropout: float = 0.0

    @property
    def all_names(self) -> int:
        """The learned names and the everyday words that were not learned."""
        return self.names + (self.everyday.extra if self.everyday else 0)

    def tokens(self, n_in: int) -> int:
        """Features per item, independent of `n_in`."""
        return self.word_slots + self.dense_slots

    def build(self, in_width: int, out_width: int) -> NamesConnector:
        return NamesConnector(self, in_width, out_width)


class NamesConnector(nn.Module):
    """`features [N, S, D] -> [N, word_slots + dense_slots, D']`; see the module docstring.

    Saved with the connector: `keys` [V, E] and `class_keys` [C, R], unit vectors; `class_index` [C], the index of each
    training name among all names; `centre` and `spread`, mean and standard deviation of the summary over the training
    images; `mix`, the log scales of the two similarities and a bias for training names.  Set by `set_names` after
    loading: `rows`, the embeddings of all token ids of names and colours, then separator and filler; `name_rows`
    [V + extra, name_tokens], the tokens of each name as indices into `rows`, padded with -1.
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
        self.found, self.seen = (config.everyday.kinds, config.everyday.classes) if config.everyday else (0, 0)
        self.pooled_width = in_width - self.found - self.seen - config.cell_width
        summary = self.pooled_width + config.cells * config.cell_width
        self.sentence = nn.Linear(summary, config.key_width)
        self.recall = nn.Linear(summary, config.class_width)
        self.mix = nn.Parameter(torch.tensor([3.0, 3.0, 0.0]))
        self.dense = nn.Sequential(
            nn.Linear(summary, config.hidden_width),
            nn.GELU(),
            nn.Linear(config.hidden_width, config.dense_slots * out_width),
        )
        self.colour = nn.Linear(summary, config.colours) if config.colours else None
        self.everyday = config.everyday.build(config.names, summary) if config.everyday else None
        self.confidence = nn.Parameter(torch.zeros(out_width))
        self.register_buffer("keys", torch.zeros(config.names, config.key_width))
        self.register_buffer("class_keys", torch.zeros(config.classes, config.class_width))
        self.register_buffer("class_index", torch.zeros(config.classes, dtype=torch.long))
        self.register_buffer("centre", torch.zeros(summary))
        self.register_buffer("spread", torch.ones(summary))
        computed_buffer(self, "rows", lambda: torch.zeros(2, out_width), persistent=False)
        shape = (config.all_names, config.name_tokens)
        computed_buffer(self, "name_rows", lambda: torch.full(shape, -1), persistent=False)

    def summary(self, features: Tensor) -> Tensor:
        """[N, S, D] -> [N, W], standardised; the channels in front, found and seen, may be missing."""
        widths = [self.pooled_width, self.config.cell_width]
        pooled, per_cell = features[..., -sum(widths) :].split(widths, -1)
        return (torch.cat([pooled.mean(1), per_cell.flatten(1)], dim=-1) - self.centre) / self.spread

    def embed(self, features: Tensor) -> Tensor:
        """[N, S, D] -> unit vectors [N, E] in the space of `keys`."""
        return self.embed_summary(self.summary(features))

    def embed_summary(self, summary: Tensor) -> Tensor:
        """Summaries [N, W] -> unit vectors [N, E]."""
        return F.normalize(self.sentence(summary), dim=-1)

    def logits(self, summary: Tensor) -> Tensor:
        """Summaries [N, W] -> logits [N, V] of the names."""
        zero_shot = self.embed_summary(summary) @ self.keys.T * self.mix[0].exp()
        trained = F.normalize(self.recall(summary), dim=-1) @ self.class_keys.T * self.mix[1].exp() + self.mix[2]
        return zero_shot.index_add(1, self.class_index, trained.to(zero_shot.dtype))

    def log_probs(self, features: Tensor, summary: Tensor) -> Tensor:
        """Features [N, S, D] and their summaries -> log-probabilities [N, V + extra] of all names."""
        learned = self.logits(summary).log_softmax(-1)
        if self.everyday is None:
            return learned
        return self.everyday(*self.facts(features), learned, summary)

    def facts(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features [N, S, D] -> what was found [N, K] and seen [N, C], which are the same in every cell."""
        found, seen = features[:, 0, : self.found + self.seen].split([self.found, self.seen], -1)
        return found, seen

    @torch.no_grad()
    def set_names(
        self,
        name_ids: list[list[int]],
        separator_id: int,
        filler_id: int,
        table: Tensor,
        colour_ids: Sequence[int] = (),
    ) -> None:
        """Copy the rows of the backbone's embedding `table` [vocab, D'] for the token ids of all names.

        colour_ids: one token per colour.  Raises ConfigError if the number of names or colours does not match the
        config, or if a name has more than `name_tokens` tokens.
        """
        longest = max(map(len, name_ids), default=0)
        if len(name_ids) != self.config.all_names or longest > self.config.name_tokens:
            raise ConfigError(
                f"names connector: expected {self.config.all_names} names of at most {self.config.name_tokens} tokens, "
                f"found {len(name_ids)} of at most {longest}"
            )
        if len(colour_ids) != self.config.colours:
            raise ConfigError(
                f"names connector: expected tokens for {self.config.colours} colours, found {len(colour_ids)}"
            )
        used = sorted({i for ids in name_ids for i in ids} - {separator_id, filler_id})
        row_of = {token: row for row, token in enumerate(used)}
        row_of |= {separator_id: len(used) + len(colour_ids), filler_id: len(used) + len(colour_ids) + 1}
        padded = [[row_of[i] for i in ids] + [-1] * (self.config.name_tokens - len(ids)) for ids in name_ids]
        self.name_rows.copy_(torch.tensor(padded))
        self.rows = table[[*used, *colour_ids, separator_id, filler_id]].detach().clone().to(self.keys)

    def there(self, features: Tensor, summary: Tensor, log_probs: Tensor) -> Tensor | None:
        """The chance [N, V + extra] that a thing of each name is there; None where no kinds are looked for."""
        if self.everyday is None or not self.found:
            return None
        return self.everyday.there(self.facts(features)[0], log_probs, summary)

    def top_names(self, logits: Tensor, there: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits [N, V] -> log-probabilities and name indices of the `top` names, both [N, top].

        there: chances [N, V] that do not share one picture among them; the likeliest name by the logits stays the
        first, and as sure as any other.
        """
        log_probs = logits.log_softmax(-1)
        if there is None:
            return log_probs.topk(self.config.top, dim=-1)
        chances = log_probs.maximum(there.clamp(min=FLOOR).log())
        first = log_probs.argmax(-1, keepdim=True)
        chances = chances.scatter(1, first, chances.amax(-1, keepdim=True))  # a surer one would be said in its place
        indices = chances.scatter(1, first, torch.inf).topk(self.config.top, dim=-1).indices
        return chances.gather(1, indices), indices

    def pack(self, log_probs: Tensor, indices: Tensor, colours: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Output of `top_names` -> tokens as indices into `rows` [N, K], and their log-probabilities [N, K].

        Names are joined by separators and padded with filler, both with log-probability 0; packing stops at the
        first name that does not fit.  colours [N]: colour index of each item, for the last slot, with
        log-probability 0.
        """
        slots = self.config.word_slots - (colours is not None)
        filler = self.rows.shape[0] - 1
        tokens = torch.full((indices.shape[0], self.config.word_slots), filler)
        weights = torch.zeros(indices.shape[0], self.config.word_slots)
        if colours is not None:
            tokens[:, -1] = filler - 1 - self.config.colours + colours.cpu()
        for row, (names, scores) in enumerate(zip(self.name_rows[indices].tolist(), log_probs.tolist(), strict=True)):
            end = 0
            for padded, log_prob in zip(names, scores, strict=True):
                name = [token for token in padded if token >= 0]
                if end + len(name) > slots:
                    break
                with_separator = torch.tensor([*name, filler - 1])[: slots - end]
                tokens[row, end : end + len(with_separator)] = with_separator
                weights[row, end : end + len(name)] = log_prob
                end += len(name) + 1
        return tokens.to(indices.device), weights.to(log_probs)

    def forward(self, features: Tensor) -> Tensor:
        """features [N, S, D] -> [N, word_slots + dense_slots, D']."""
        summary = self.summary(features)
        with torch.no_grad(), torch.autocast(features.device.type, enabled=False):  # names as near as rounding
            colours = None if self.colour is None else self.colour(summary).argmax(-1)
            log_probs = self.log_probs(features, summary)
            there = self.there(features, summary, log_probs)
            tokens, weights = self.pack(*self.top_names(log_probs, there), colours)
        return self.assemble(summary, tokens, weights)

    def assemble(self, summary: Tensor, tokens: Tensor, weights: Tensor) -> Tensor:
        """The output for given words (training uses the predictions of a model not trained on the image)."""
        summary = F.dropout(summary, self.config.summary_dropout, training=self.training)
        dense = self.dense(summary).unflatten(-1, (self.config.dense_slots, self.out_width))
        words = F.embedding(tokens, self.rows).to(dense.dtype) + weights[..., None].to(dense.dtype) * self.confidence
        return torch.cat([words, dense], dim=1)
