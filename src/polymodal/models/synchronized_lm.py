"""MM-Interleaved: a language model that reads and asks for pictures anywhere in a text.

Paper: MM-Interleaved (arXiv 2401.10208).

    picture -> encoder -> tokens and maps -> connector -> Q tokens, spliced behind a mark (type C)
                                          -> maps -> synchronisers in blocks (type B), for all pictures before a token
    a mark in the answer -> states from the text's begin to the mark, NEWEST FIRST -> linear -> + sines -> Q-Former
        -> condition [1, 77, E] of Stable Diffusion, in place of its text encoder's output

Traps
- The embedding of a mark has a learned vector added, in a prompt only: a mark that is being written has none.
- A token sees pictures of its own document only: those behind the nearest begin token before it.
- Rows of the head for the new tokens are two linears added, one frozen with a bias of -100, one learned with +95.
- The condition of a picture holds the mark itself, and not what stands behind it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.backbones.decoder import Decoder
from polymodal.connectors.map_qformer import maps_of
from polymodal.connectors.qformer import QFormerConfig
from polymodal.errors import ConfigError, PromptError
from polymodal.fusion.cross_attention import CrossContext
from polymodal.fusion.routing import before
from polymodal.fusion.visibility import packed, visible_items
from polymodal.generators.diffusion import IMAGE, Pipeline, run_pipeline
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.nn.linear import Linear

STEPS = 30  # of the published settings


@dataclass(frozen=True, kw_only=True)
class Marks:
    """Ids: of a text's begin, of the mark in front of a picture, of a picture's placeholders."""

    begin: int
    mark: int
    image: int


class ExtendedHead(Linear):
    """A linear with a bias whose last rows have a second one added to them: [..., D] -> [..., V]."""

    def __init__(self, width: int, rows: int, new: int) -> None:
        super().__init__(width, rows, bias=True)
        self.new = nn.Linear(width, new)

    def forward(self, x: Tensor, token_types: Tensor | None = None) -> Tensor:
        more = F.pad(self.new(x), (len(self.weight) - self.new.out_features, 0))
        return super().forward(x, token_types) + more


class PicturesBefore(nn.Module):
    """A `context`: the maps of all pictures of a row, and which of them each token sees.

    queries, sides, width: what `maps_of` needs to find the maps of an item.
    """

    input_names: frozenset[str] = frozenset()

    def __init__(self, marks: Marks, *, queries: int, sides: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.marks, self.queries, self.sides, self.width = marks, queries, sides, width

    def forward(self, features: Mapping[str, Any], batch: Mapping[str, Any]) -> CrossContext:
        """Raises PromptError when pictures and their placeholders differ in number."""
        ids = batch["input_ids"]
        segments = batch.get("segments")
        placed = ids == self.marks.image
        starts = placed & ~before(placed, segments)
        documents = (ids == self.marks.begin).cumsum(-1)
        if segments is not None:
            documents = documents + (segments + 1) * ids.shape[1]
        items = [maps_of(item, self.queries, self.sides, self.width) for item in features.get("image", ())]
        known = (batch.get("item_counts") or {}).get("image")
        counts = [int(count) for count in (starts.sum(-1) if known is None else known)]
        if "image" in (batch.get("dummy_modalities") or ()):
            counts = [len(items), *[0] * (len(counts) - 1)]  # held by the first row, seen by nobody
        if sum(counts) != len(items):
            raise PromptError(f"{sum(counts)} pictures have placeholders, {len(items)} pictures are given")
        ends = torch.tensor(counts).cumsum(0).tolist()
        rows = [items[end - count : end] for count, end in zip(counts, ends, strict=True)]
        return packed(rows, visible_items(starts, max(counts), every=True, segments=documents))


class SynchronizedLM(MultimodalLM):
    """painter: of a picture's condition; empty: the condition of no text at all."""

    def __init__(
        self,
        encoder: nn.Module,
        connector: nn.Module,
        backbone: Decoder,
        context: PicturesBefore,
        painter: QFormerConfig,
        sines: int = 2048,
    ) -> None:
        self.marks, self.queries, self.sines = context.marks, context.queries, sines
        placeholders = {"image": context.marks.image}
        super().__init__(
            {"image": encoder}, {"image": connector}, backbone, placeholders, context, positions_ignore_padding=True
        )
        width = backbone.config.width
        self.mark = nn.Parameter(torch.zeros(1, width))
        self.context_proj = nn.Linear(width, width)
        self.painter = painter.build()
        self.empty = nn.Parameter(torch.randn(1, painter.queries, painter.width) * 0.02)

    def embed_inputs(self, batch: Mapping[str, Any], features: Mapping[str, Any] | None = None) -> Tensor:
        """As in MultimodalLM; the tokens of an item are its first rows, and marks get the learned vector."""
        features = self.features(**batch) if features is None else features
        tokens = {name: [item[: self.queries] for item in items] for name, items in features.items()}
        embeds = super().embed_inputs(batch, tokens)
        return embeds + (batch["input_ids"] == self.marks.mark)[..., None].to(embeds.dtype) * self.mark

    def conditions(self, **batch: Any) -> dict[str, Tensor]:
        """{"image": [k, 77, E]} for the k marks in the ids of a batch, row by row; without one, nothing."""
        hidden, ids = self(return_logits=False, **batch).hidden, batch["input_ids"]
        made = [self.condition(hidden[row, first : place + 1]) for row, first, place in self.places(ids)]
        return {"image": torch.cat(made)} if made else {}

    def places(self, ids: Tensor) -> list[tuple[int, int, int]]:
        """(row, the nearest begin token before it or 0, place) of every mark."""
        found = []
        for row, each in enumerate(ids.tolist()):
            first = 0
            for place, index in enumerate(each):
                first = place if index == self.marks.begin else first
                if index == self.marks.mark:
                    found.append((row, first, place))
        return found

    def condition(self, states: Tensor) -> Tensor:
        """States [T, D] up to a mark -> [1, 77, E].  Raises PromptError for more than there are positions."""
        if len(states) > self.sines:
            raise PromptError(f"a picture's text has {len(states)} tokens; expected {self.sines} at most")
        x = self.context_proj(states.flip(0))
        return self.painter((x + sines_1d(len(x), x.shape[1], x))[None])

    @torch.inference_mode()
    def render(
        self, pipelines: Mapping[str, Pipeline], changes: Mapping[str, Any] | None = None, **batch: Any
    ) -> dict[str, list[Any]]:
        """The picture that a conversation of one row ends in; where it ends in words, one is asked for behind them.

        changes: arguments that override the published settings.  Raises ConfigError without a pipeline for pictures.
        """
        if "image" not in pipelines:
            raise ConfigError(f"the answer asks for an image; pass a pipeline for it (found {sorted(pipelines)})")
        ids = batch["input_ids"]
        if len(ids) != 1:
            raise PromptError(f"a picture follows one conversation at a time; found {len(ids)} rows")
        if int(ids[0, -1]) != self.marks.mark:
            ids = torch.cat((ids, ids.new_full((1, 1), self.marks.mark)), 1)
        condition = self.conditions(**{**batch, "input_ids": ids})["image"][-1:]
        given = {"negative_prompt_embeds": self.empty, **(changes or {})}
        return {"image": [run_pipeline(pipelines["image"], condition, replace(IMAGE, steps=STEPS), **given)]}


def sines_1d(length: int, width: int, like: Tensor) -> Tensor:
    """[length, width]: sines, then cosines, of places 0, 1, ...; computed in float32."""
    half = torch.arange(width // 2, dtype=torch.float32, device=like.device)
    angles = torch.arange(length, dtype=torch.float32, device=like.device)[:, None] / 10000.0 ** (half / (width / 2.0))
    return torch.cat((angles.sin(), angles.cos()), 1).to(like.dtype)


def extended(decoder: Decoder, new: int) -> Decoder:
    """The decoder with an ExtendedHead; the last `new` rows of its vocabulary are new."""
    if new < 1 or decoder.config.tied:
        raise ConfigError(f"extended head: expected one new token at least and a head of its own, found {new}")
    decoder.lm_head = ExtendedHead(decoder.config.width, decoder.config.vocab_size, new)
    return decoder
