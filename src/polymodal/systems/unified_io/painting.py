"""Pictures that Unified-IO writes: from words, or from a picture (its depth, normals, segments, a hole filled).

    prompt, picture -> encoder;  start, start of a picture -> codes, drawn from the likeliest 90% -> codec -> pixels
    a picture made of another is cut as that one was padded, and resized to it

Words that are no prompt of the demonstration are drawn as a description.  A region that is to be filled is not seen.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from polymodal.data.encoder_decoder_processor import EncoderDecoderProcessor
from polymodal.data.media import Media, Text
from polymodal.data.messages import Message
from polymodal.errors import PromptError
from polymodal.generation.generate import generate
from polymodal.generation.grammars import Grid
from polymodal.generation.output import DecodingConstraints
from polymodal.generation.sampling import SamplingOptions
from polymodal.models.unified_io import UnifiedIO
from polymodal.pipelines.image_generation import PaintRequest
from polymodal.systems.unified_io.places import BINS, FIRST
from polymodal.systems.unified_io.prompts import is_printed, prompt

_REGION = re.compile(r'Filling the blank region "' + r"\s*<extra_id_(\d+)>" * 4)


@dataclass(frozen=True, kw_only=True)
class SquarePainter:
    """side: pixels of a picture that is written."""

    model: UnifiedIO
    processor: EncoderDecoderProcessor
    side: int
    sees: bool = True

    def __call__(self, request: PaintRequest) -> list[Tensor]:
        """uint8 [H, W, 3] of each seed.  Raises ConfigError for a size or steps, PromptError for a wish that does not
        fit."""
        request.require_no_steps()
        request.require_size(self.side, self.side)
        media = [part for part in request.parts if isinstance(part, Media) and not isinstance(part, Text)]
        batch = self.batch(request.text, media)
        whole = self.cells**2 * len(request.seeds)
        found = []
        for number, seed in enumerate(request.seeds):
            pixels = self.model.pixels(self.codes(batch, seed))[0]
            request.step((number + 1) * self.cells**2, whole)
            drawn = ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
            found.append((undone(drawn, media[0].picture.size) if media else drawn).permute(1, 2, 0))  # type: ignore[attr-defined]
        return found

    @property
    def cells(self) -> int:
        """Codes along a side."""
        return self.side // self.model.codec.config.stack.factor

    def batch(self, wish: str, media: Sequence[Media] = ()) -> dict[str, Any]:
        """The batch behind whose two ids a picture is written."""
        if len(media) > 1:
            raise PromptError(f"Unified-IO sees one picture; found {len(media)}")
        words = wish if is_printed(wish) else prompt("draw", wish)
        batch = self.processor([Message(role="user", parts=(Text(words), *media))], generate=True)
        hole = _REGION.match(words)
        if hole is not None and media:
            batch["image_input_masks"] = hidden(batch["image_input_masks"], [int(each) for each in hole.groups()])
        batch["decoder_input_ids"] = torch.tensor([[self.model.backbone.config.start_id, self.model.picture_start]])
        device = self.model.backbone.embed_tokens.weight.device
        kept = {"input_ids", "attention_mask", "pixel_values", "image_input_masks", "decoder_input_ids"}
        return {name: x.to(device) for name, x in batch.items() if name in kept and x is not None}

    def codes(self, batch: dict[str, Any], seed: int, options: SamplingOptions | None = None) -> Tensor:
        """The ids of one picture [1, codes]."""
        span = torch.arange(self.model.text, self.model.text + self.model.codec.config.codes)
        grid = Grid(height=self.cells, width=self.cells, codes=span)
        drawn = options or SamplingOptions(temperature=1.0, top_p=0.9, seed=seed, max_tokens=grid.size)
        rules = DecodingConstraints(eos=frozenset(), allowed=[grid], allow_past_context=True, placeholders=True)
        return torch.tensor([generate(self.model, batch, drawn, rules)[0].ids], device=batch["input_ids"].device)


def hidden(mask: Tensor, tokens: Sequence[int]) -> Tensor:
    """The mask [1, P] without the patches whose first pixel lies in a region: tokens of top, left, bottom, right."""
    side = round(mask.shape[1] ** 0.5)
    shares = [(token - FIRST) / (BINS - 1) for token in tokens]
    if not all(0 <= share <= 1 for share in shares):
        raise PromptError(f"region {list(tokens)}: expected location tokens {FIRST} to {FIRST + BINS - 1}")
    first = torch.arange(side) / side
    top, left, bottom, right = shares
    inside = ((first >= top) & (first < bottom))[:, None] & (first >= left) & (first < right)
    return mask * ~inside.flatten().to(mask.device)


def undone(drawn: Tensor, size: tuple[int, int]) -> Tensor:
    """A square uint8 [3, S, S] about a picture of `size` (width, height) -> the same without border, at that size."""
    width, height = size
    ratio = drawn.shape[1] / max(size)
    cut = drawn[:, :, : max(1, int(ratio * width))] if height > width else drawn[:, : max(1, int(ratio * height))]
    return F.interpolate(cut[None].float(), (height, width), mode="nearest")[0].to(torch.uint8)
