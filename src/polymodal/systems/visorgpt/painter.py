"""VisorGPT's layouts, written by sampling and drawn: boxes with names, people as sticks, outlines filled.

wish -> published prompt -> tokens, sampled -> things -> a picture of 512 x 512
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from polymodal.data.processor import Processor
from polymodal.data.template import TEXT_START, Special, Words
from polymodal.errors import ConfigError, PromptError
from polymodal.generation.generate import generate
from polymodal.generation.output import DecodingConstraints
from polymodal.generation.sampling import SamplingOptions
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.pipelines.image_generation import PaintRequest
from polymodal.systems.visorgpt.layout import SIDE, Thing, Wish, read

BEGIN, END = "[CLS]", "[SEP]"
SAMPLING: dict[str, Any] = {"temperature": 1.0, "top_k": 70, "max_tokens": 1000}
# Joints that belong together: of COCO's 18 as OpenPose numbers them, and of CrowdPose's 14.
LIMBS = {
    18: ((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13), (1, 0),
         (0, 14), (14, 16), (0, 15), (15, 17)),
    14: ((13, 1), (13, 0), (1, 3), (3, 5), (0, 2), (2, 4), (13, 7), (7, 9), (9, 11), (13, 6), (6, 8), (8, 10),
         (12, 13)),
}  # fmt: skip
GREY = (50, 50, 50)


@dataclass(frozen=True, kw_only=True)
class LayoutPainter:
    """room: tokens of prompt and layout together."""

    model: MultimodalLM
    processor: Processor
    room: int

    def __call__(self, request: PaintRequest) -> list[Tensor]:
        """uint8 [512, 512, 3] of each seed.  Raises PromptError for a wish of another form, ConfigError for sizes."""
        if request.steps is not None or request.size not in (None, (SIDE, SIDE)):
            raise ConfigError(f"layouts have {SIDE} x {SIDE} pixels and no steps of diffusion")
        wish, found = Wish.read(request.text), []
        for number, seed in enumerate(request.seeds):
            found.append(torch.from_numpy(np.array(drawn(self.layout(wish, seed)))))
            request.step(number + 1, len(request.seeds))
        return found

    def layout(self, wish: Wish, seed: int) -> tuple[Thing, ...]:
        """The things of a sampled layout.  Raises PromptError where what is written holds none."""
        words = self.processor.tokenizer
        row = self.processor.encode_segments((Special(name=BEGIN), TEXT_START, Words(text=wish.prompt)))
        device = self.model.backbone.embed_tokens.weight.device
        ids = torch.tensor([row.input_ids], device=device)
        options = SamplingOptions(**{**SAMPLING, "max_tokens": self.room - len(row), "seed": seed})
        ends = DecodingConstraints(tokenizer=words, eos=frozenset({words.special(END)}))
        written = generate(self.model, {"input_ids": ids}, options, ends)[0].ids
        text = words.decode([*row.input_ids, *written])
        things = read(text)
        if not things:
            raise PromptError(f"the model wrote no layout: {text[:120]!r}; another seed may do better")
        return things


def drawn(things: Sequence[Thing]) -> Image.Image:
    """A picture of a layout."""
    canvas = Image.new("RGB", (SIDE, SIDE), GREY)
    for index, thing in enumerate(things):
        colour = hue(index / max(len(things), 1))
        if thing.kind == "mask":
            filled = canvas.copy()
            ImageDraw.Draw(filled).polygon(list(thing.points), fill=colour)
            canvas = Image.blend(canvas, filled, 0.5)
        pen = ImageDraw.Draw(canvas)
        if thing.kind == "box":
            (left, top), (right, bottom) = thing.points
            pen.rectangle((min(left, right), min(top, bottom), max(left, right), max(top, bottom)), outline=colour,
                          width=3)  # fmt: skip
        elif thing.kind == "key point":
            for first, second in LIMBS.get(len(thing.points), ()):
                ends = (thing.points[first], thing.points[second])
                if all(any(point) for point in ends):
                    pen.line(ends, fill=hue(first / len(thing.points)), width=6)
            for x, y in filter(any, thing.points):
                pen.ellipse((x - 4, y - 4, x + 4, y + 4), fill=colour)
        x, y = next((point for point in thing.points if any(point)), (0, 0))
        pen.text((x + 5, y + 3), thing.name, fill=colour)
    return canvas


def hue(share: float) -> tuple[int, int, int]:
    """A bright colour; share: of the circle."""
    red, green, blue = colorsys.hsv_to_rgb(share, 0.8, 1.0)
    return int(red * 255), int(green * 255), int(blue * 255)
