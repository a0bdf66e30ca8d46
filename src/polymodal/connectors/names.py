"""A connector that hands a language model words it already knows, and a few dense features beside them.

    features [N, S, D] -> pool (mean + learned attention) -> vector [N, E], unit length, the space of a sentence encoder
    vector . keys [V, E] -> scores of V names -> the best few, written as tokens and looked up in the backbone's own
    embedding table -> word slots [N, W, D'];  pooled features -> MLP -> dense slots [N, Q, D']

Why: with little paired data a connector cannot learn where every word lies in a language model's embedding space, but
it can learn where a picture lies among sentence vectors of names (CLIP's zero-shot classifier, arXiv 2103.00020;
sentence encoder as fixed text tower, LiT, arXiv 2111.07991).  A name that no training picture showed still has its key.

The word slots are exact rows of the embedding table plus a learned multiple of the name's log-probability; they carry
no gradient to the scores, which have their own loss (train/objectives.py: names_loss).  The dense slots are trained
by the language-model loss.

Traps: the rows of the embedding table that names need are copied by `set_names` and not saved with the connector:
load the backbone first, and call `set_names` again if its table is trained further.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class NamesConfig:
    """`names` V with `name_tokens` ids each at most; `top` names fill `word_slots`; `dense_slots` follow them."""

    names: int
    name_tokens: int = 4
    key_width: int = 384
    pool_width: int = 512
    top: int = 5
    word_slots: int = 12
    dense_slots: int = 8

    def tokens(self, n_in: int) -> int:
        """Features per item, whatever the encoder gives."""
        return self.word_slots + self.dense_slots

    def build(self, in_width: int, out_width: int) -> NamesConnector:
        return NamesConnector(self, in_width, out_width)


class NamesConnector(nn.Module):
    """``features [N, S, D] -> [N, word_slots + dense_slots, D']``; see the module's text.

    What `set_names` fills: `keys` [V, E] unit rows and `bias` [V] (saved with the connector); `rows` [R, D'], the
    embeddings of the R token ids that names use, separator and filler last; `name_rows` [V, name_tokens], each
    name's tokens as positions in `rows`, -1 behind the end (both made anew when loading).
    """

    keys: Tensor
    bias: Tensor
    rows: Tensor
    name_rows: Tensor

    def __init__(self, config: NamesConfig, in_width: int, out_width: int):
        super().__init__()
        self.config = config
        self.out_width = out_width
        self.attend = nn.Linear(in_width, 1)
        self.pool = nn.Linear(2 * in_width, config.pool_width)
        self.vector = nn.Linear(config.pool_width, config.key_width)
        self.log_scale = nn.Parameter(torch.tensor(3.0))
        self.dense = nn.Sequential(
            nn.Linear(2 * in_width, config.pool_width),
            nn.GELU(),
            nn.Linear(config.pool_width, config.dense_slots * out_width),
        )
        self.confidence = nn.Parameter(torch.zeros(out_width))
        self.register_buffer("keys", torch.zeros(config.names, config.key_width))
        self.register_buffer("bias", torch.zeros(config.names))
        self.register_buffer("rows", torch.zeros(2, out_width), persistent=False)
        absent = torch.full((config.names, config.name_tokens), -1)
        self.register_buffer("name_rows", absent, persistent=False)

    def pooled(self, features: Tensor) -> Tensor:
        """[N, S, D] -> [N, 2D]: the mean, and the mean weighted by a learned softmax over positions."""
        weights = self.attend(features).softmax(dim=1)
        return torch.cat([features.mean(1), (features * weights).sum(1)], dim=-1)

    def embed(self, features: Tensor) -> Tensor:
        """[N, S, D] -> unit vectors [N, E] in the space of the names' keys."""
        return F.normalize(self.vector(F.gelu(self.pool(self.pooled(features)))), dim=-1)

    def scores(self, vectors: Tensor) -> Tensor:
        """Unit vectors [N, E] -> logits [N, V] of the names."""
        return vectors @ self.keys.T * self.log_scale.exp() + self.bias

    @torch.no_grad()
    def set_names(self, name_ids: list[list[int]], separator_id: int, filler_id: int, table: Tensor) -> None:
        """Copy from the backbone's embedding `table` [vocab, D'] the rows that the V names' token ids need.

        Raises ConfigError when there are not V names, or one has more than `name_tokens` tokens.
        """
        longest = max(map(len, name_ids), default=0)
        if len(name_ids) != self.config.names or longest > self.config.name_tokens:
            raise ConfigError(
                f"names connector: expected {self.config.names} names of at most {self.config.name_tokens} tokens, "
                f"found {len(name_ids)} of at most {longest}"
            )
        used = sorted({i for ids in name_ids for i in ids} - {separator_id, filler_id})
        place = {token: row for row, token in enumerate([*used, separator_id, filler_id])}
        padded = [[place[i] for i in ids] + [-1] * (self.config.name_tokens - len(ids)) for ids in name_ids]
        self.name_rows.copy_(torch.tensor(padded))
        self.rows = table[[*used, separator_id, filler_id]].detach().clone().to(self.keys)

    def words(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [N, V] -> positions in `rows` [N, W] of the best names' tokens, and log-probabilities [N, W].

        Names are separated and filled up; one that no longer fits is left out whole, and separators and filler
        have log-probability 0.
        """
        best, order = scores.log_softmax(-1).topk(self.config.top, dim=-1)
        width = self.config.word_slots
        filler = self.rows.shape[0] - 1
        places = torch.full((scores.shape[0], width), filler, device=scores.device)
        weights = torch.zeros(scores.shape[0], width, device=scores.device, dtype=scores.dtype)
        for row, names in enumerate(self.name_rows[order].tolist()):
            end = 0
            for rank, name in enumerate(names):
                tokens = [token for token in name if token >= 0]
                if end + len(tokens) > width:
                    break
                written = torch.tensor([*tokens, filler - 1])[: width - end]
                places[row, end : end + len(written)] = written.to(places.device)
                weights[row, end : end + len(tokens)] = best[row, rank]
                end += len(tokens) + 1
        return places, weights

    def forward(self, features: Tensor) -> Tensor:
        """features [N, S, D] -> [N, word_slots + dense_slots, D']."""
        with torch.no_grad():
            places, weights = self.words(self.scores(self.embed(features)))
        return self.assemble(features, places, weights)

    def assemble(self, features: Tensor, places: Tensor, weights: Tensor) -> Tensor:
        """The output for words chosen before (training takes them from a model that has not seen the picture)."""
        dense = self.dense(self.pooled(features)).unflatten(-1, (self.config.dense_slots, self.out_width))
        words = F.embedding(places, self.rows).to(dense.dtype) + weights[..., None].to(dense.dtype) * self.confidence
        return torch.cat([words, dense], dim=1)
