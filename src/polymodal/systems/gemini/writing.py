"""Gemini writes a picture: the ids of its grid behind a wish of any media, then the codec's way back."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from polymodal.data.media import Text
from polymodal.data.messages import Message
from polymodal.data.processor import Processor
from polymodal.data.template import Words
from polymodal.errors import ConfigError
from polymodal.generation.decode_state import prefill_batch
from polymodal.generation.generate import answer
from polymodal.generation.grammars import Grid
from polymodal.generation.output import DecodingConstraints
from polymodal.generation.sampling import SamplingOptions
from polymodal.models.picture_writing_lm import PictureWritingLM
from polymodal.pipelines.image_generation import PaintRequest
from polymodal.systems.gemini.processing import BEGIN

DRAWN = SamplingOptions(temperature=1.0, top_k=2048)  # not published: how codes are drawn


@dataclass(frozen=True, kw_only=True)
class CodePainter:
    """rows: codes of a picture along each side; side: its pixels."""

    model: PictureWritingLM
    processor: Processor
    rows: int
    side: int
    sees: bool = True

    def __call__(self, request: PaintRequest) -> list[Tensor]:
        """uint8 [side, side, 3] of each seed.  Raises ConfigError for a size that the model cannot write."""
        request.require_no_steps()
        request.require_size(self.side, self.side)
        codes = self.model.spelling.vocabulary.ids("image")
        grid = Grid(height=self.rows, width=self.rows, codes=codes)
        batch = self._batch(request, grid.size)
        options = [replace(DRAWN, seed=seed, max_tokens=grid.size) for seed in request.seeds]
        written: list[list[int]] = [[] for _ in options]
        state = prefill_batch(self.model, batch, [grid.size] * len(options))
        for piece in answer(state, options, DecodingConstraints(eos=frozenset(), allowed=grid, placeholders=True)):
            written[piece.row].append(piece.id)
            request.step(sum(map(len, written)), grid.size * len(options))
        ids = torch.tensor(written, device=self.model.backbone.embed_tokens.weight.device)
        pixels = self.model.pixels(ids, self.rows, self.rows)
        return list(((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1))

    def _batch(self, request: PaintRequest, size: int) -> dict[str, object]:
        """The wish as a question whose answer begins with a picture, once for each seed."""
        wish = Message(role="user", parts=tuple(request.parts) or (Text(request.text),))
        assert self.processor.rewrite is not None
        segments = self.processor.template.render(self.processor.rewrite((wish,)), ask=True)
        row = self.processor.encode_segments((*segments, Words(text=BEGIN)))
        room = self.model.backbone.config.max_length
        if room is not None and len(row) + size > room:
            raise ConfigError(
                f"the picture and its wish take {len(row) + size:,} ids, the model's context holds {room:,}"
            )
        batch = self.processor.collate([row] * len(request.seeds), padding="left")
        weight = self.model.backbone.embed_tokens.weight
        return {
            name: value.to(weight.device, weight.dtype if value.is_floating_point() else None)
            if isinstance(value, Tensor)
            else value
            for name, value in batch.items()
        }
